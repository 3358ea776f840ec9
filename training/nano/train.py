"""Train nano: name what is seen (vision.py, tags.py), then read policies over it (reader.py).

    python -m training nano ../shared/data/photos --out runs/nano

Run it again and it goes on from its last checkpoint with the same data in the same order.
"""

from __future__ import annotations

import json
import math
import random
import time
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from typing import TextIO

import numpy as np
import torch
from torch import nn

from safeguard_sdk.durable import open_durably
from safeguard_sdk.engine.tags import Encode, TagTable, image_tokens, read_tags
from training.assets import fetch_wordnet
from training.errors import TrainingError
from training.nano.exam import Question, build_exam, metrics
from training.nano.reader import STYLE, Reader, collate, compile_layers, in_number_type, number_type
from training.nano.start import open_start, start_from
from training.nano.tags import plan_tags, tag_photos, train_taggers
from training.nano.vision import photo_features
from training.photos import Photo, read_photos
from training.policyflip.concepts import Concepts, Heldout
from training.policyflip.policies import Pack, PolicyFlip
from training.policyflip.scenarios import ScenarioFlip, Scenarios
from training.policyflip.scenes import PhotoWorld, Scene, WordWorld
from training.policyflip.voices import Voices
from training.policyflip.wordings import Bank
from training.recipe_file import read_recipe, within
from training.runs import save_whole
from training.wordnet import WordNet

RECIPES = Path(__file__).parents[1] / "recipes"
RECIPE = RECIPES / "nano.yaml"            # from SmolLM2
FURTHER = RECIPES / "nano-further.yaml"   # from a bundle
LOG_EVERY = 10  # steps


@dataclass(frozen=True)
class Recipe:
    seed: int
    views: int
    layers: int
    rank: int
    learning_rate: float
    warmup_steps: int
    steps: int
    decay_from: int
    easy_steps: int
    composed_from: int
    families: int
    word_families: int
    plain: float
    micro_packs: int
    checkpoint_every: int
    evaluate_every: int
    alone: float
    blend: float

    @classmethod
    def read(cls, path: Path = RECIPE) -> Recipe:
        """Raises TrainingError: the file, the key, what is wrong, how to mend it."""
        return read_recipe(cls, path)

    def check(self) -> None:
        """Raises ValueError for values that have no meaning, alone or together."""
        for key in ("views", "layers", "rank", "warmup_steps", "steps", "families", "micro_packs", "checkpoint_every",
                    "evaluate_every"):
            within(key, getattr(self, key), 1)
        for key in ("seed", "easy_steps", "composed_from", "alone"):
            within(key, getattr(self, key), 0)
        within("decay_from", self.decay_from, 0, self.steps - 1)
        within("word_families", self.word_families, 0, self.families)
        within("plain", self.plain, 0, 1)
        within("blend", self.blend, 0, 1)
        if not self.learning_rate > 0:
            raise ValueError(f"learning_rate is {self.learning_rate}, must be above 0")

    def rate_at(self, step: int) -> float:
        """Learning rate as a share of `learning_rate`: up, flat, then down to 5 %."""
        left = (self.steps - step) / (self.steps - self.decay_from)
        return min((step + 1) / self.warmup_steps, max(0.05, min(1.0, left)))


@dataclass(frozen=True)
class Sources:
    """Of packs, each over photos and over words."""

    plain: list[PolicyFlip]     # plain phrases of the bank
    bank: list[PolicyFlip]      # all of them
    composed: list[PolicyFlip]  # these and composed ones, and scenarios

    def at(self, step: int, recipe: Recipe, rng: random.Random) -> list[PolicyFlip]:
        if rng.random() < recipe.plain:
            return self.plain
        return self.composed if step >= recipe.composed_from else self.bank


@dataclass(frozen=True)
class Sight:
    """Everything about the photos: what they show and what the eye names in each of their views."""

    photos: list[Photo]
    table: TagTable
    probabilities: np.ndarray  # (photos, views, tags) float16

    def rows(self, split: str) -> list[int]:
        return [row for row, photo in enumerate(self.photos) if photo.split == split]


def train(photos: Path, out: Path, recipe: Recipe, start: Path | None = None) -> None:
    """Write `out/reader.pt` (adapters, probability embeddings, verdict head) and `out/tagger.pt`, and log to
    `out/log.jsonl`.

    start  a bundle whose reader is trained further; None: SmolLM2
    """
    torch.set_flush_denormal(True)  # denormals in softmax cost a factor of 50
    out.mkdir(parents=True, exist_ok=True)
    if start is not None:
        start_from(start, out)
    concepts = Concepts.read(WordNet.read(fetch_wordnet(out.parent / "assets")))
    heldout = Heldout.read(concepts)
    sight = see(photos, out, concepts, heldout, recipe)
    torch.manual_seed(recipe.seed)
    tokenizer, reader, _ = open_start(out, out.parent / "assets", recipe.layers, recipe.rank)
    compile_layers(reader)
    encode = cache(lambda text: tokenizer.encode(text, add_special_tokens=False))
    worlds = [photo_world(sight, "train", concepts, heldout), word_world(sight, concepts, heldout)]
    bank = Bank.read()
    voices, scenarios = Voices.read(bank), Scenarios.read(concepts)
    sources = Sources([PolicyFlip(world, bank.plainly()) for world in worlds],
                      [PolicyFlip(world, bank) for world in worlds],
                      [ScenarioFlip(world, bank, voices, scenarios) for world in worlds])
    exam = build_exam(photo_world(sight, "validation", concepts, heldout, first_view=True), concepts, heldout,
                      questions=60, seed=1)

    fit(reader, sources, encode, exam, out, recipe)


def fit(reader: Reader, sources: Sources, encode: Encode, exam: list[Question], out: Path,
        recipe: Recipe) -> None:
    """Train the reader from the last checkpoint in `out`, or from the start; a stop at any time loses at most
    `checkpoint_every` steps, and what follows is what would have followed without it."""
    optimizer = _optimizer(reader, recipe)
    start = {name: tensor.clone() for name, tensor in _trained(reader).items()}
    first = _resume(out / "checkpoint.pt", reader, optimizer)
    started = time.monotonic()
    with open(out / "log.jsonl", "a", encoding="utf-8") as log:
        for step in range(first, recipe.steps):
            losses = _step(reader, optimizer, draw(sources, recipe, step), encode, recipe, step)
            done = step + 1
            if done % LOG_EVERY == 0:
                _report(log, {"step": done, **losses, "eta_minutes": _eta(started, first, done, recipe.steps)})
            if done % recipe.evaluate_every == 0 and done < recipe.steps:
                _evaluate(reader, exam, encode, done, log)
            if done % recipe.checkpoint_every == 0 or done == recipe.steps:
                save_whole(out / "checkpoint.pt",
                      {"step": done, "reader": _trained(reader), "optimizer": optimizer.state_dict()})
        reader.load_state_dict(blended(start, _trained(reader), recipe.blend), strict=False)
        _evaluate(reader, exam, encode, recipe.steps, log)
    save_whole(out / "reader.pt", {"recipe": asdict(recipe), "reader": _trained(reader)})


def blended(start: dict[str, torch.Tensor], trained: dict[str, torch.Tensor], share: float) -> dict[str, torch.Tensor]:
    """Weights at `share` of the way from the start to where training went: what training shows is learnt nearly as well
    as there, and what it does not show is forgotten less. Wortsman et al. 2022 (arXiv:2109.01903), eq. 1.

    An adapter is the product of its A and B, and nothing at the start: there B alone is scaled.
    """
    return {name: tensor if ".lora_A." in name else torch.lerp(start[name], tensor, share)
            for name, tensor in trained.items()}


def see(folder: Path, out: Path, concepts: Concepts, heldout: Heldout, recipe: Recipe) -> Sight:
    """Features, tag head, tags of all photos; the trained tagger is kept in `out/tagger.pt`."""
    photos = read_photos(folder)
    cached, tagger_file = out / "tags.npy", out / "tagger.pt"
    if not cached.is_file():
        plan = plan_tags(concepts, heldout, photos)
        features = photo_features(photos, out, recipe.views)
        tagger, folds, quality = train_taggers(plan, concepts, photos, features, recipe.seed)
        (out / "head_quality.json").write_text(json.dumps(quality, indent=1), encoding="utf-8")
        torch.save({"groups": plan.groups, "head": tagger.head.state_dict(), "table": vars(plan.table)}, tagger_file)
        tags = tag_photos(tagger, folds, photos, features)
        with open_durably(cached) as file:
            np.save(file, tags)
    probabilities = np.load(cached, mmap_mode="r")
    if len(probabilities) != len(photos):
        raise TrainingError(f"{cached} holds {len(probabilities)} photos, {folder} has {len(photos)}; "
                            f"delete {cached} to tag them again")
    columns = torch.load(tagger_file, weights_only=True)["table"]  # those of tags.npy; a new plan may order them anew
    return Sight(photos, TagTable(**columns), probabilities)


def photo_world(sight: Sight, split: str, concepts: Concepts, heldout: Heldout, first_view: bool = False) -> PhotoWorld:
    """The photos of a split; in training any view of a photo may come, in tests only the whole photo."""
    rows = sight.rows(split)
    views = 1 if first_view else sight.probabilities.shape[1]

    @cache
    def select(row: int, view: int) -> list[tuple[str, float]]:
        return sight.table.select(sight.probabilities[row, view].astype(np.float32))

    return PhotoWorld(concepts, heldout, [concepts.shown_in(sight.photos[row]) for row in rows],
                      lambda place, rng: select(rows[place], rng.randrange(views)))


def word_world(sight: Sight, concepts: Concepts, heldout: Heldout) -> WordWorld:
    """Scenes of words; besides WordNet's nouns they hold the labels that the eye has a tag for."""
    tags = {name for name, kind in zip(sight.table.names, sight.table.kinds, strict=True) if kind == "head"}
    labels = sorted({label for photo in sight.photos for label in photo.labels} & tags)
    return WordWorld(concepts, heldout, labels)


def draw(sources: Sources, recipe: Recipe, step: int) -> list[Pack]:
    """The packs of a step; the same for the same seed and step, whatever ran before."""
    rng = random.Random(recipe.seed * 1_000_003 + step)
    packs = []
    for number in range(recipe.families):
        source = sources.at(step, recipe, rng)[number < recipe.word_families]
        packs += source.family(rng, easy=step < recipe.easy_steps)
    return [pack for pack in packs if pack.scenes]


def score(reader: Reader, rows: list[tuple[str, Scene]], encode: Encode, together: int = 8) -> np.ndarray:
    """(rows,) logit that the policy is broken, for (policy text, scene) rows; rows of one policy share a pack."""
    by_text: dict[str, list[int]] = {}
    for number, (text, _) in enumerate(rows):
        by_text.setdefault(text, []).append(number)
    packs = [numbers[start:start + together] for numbers in by_text.values()
             for start in range(0, len(numbers), together)]
    packs.sort(key=lambda numbers: len(rows[numbers[0]][0]))
    logits = np.empty(len(rows))
    rng = random.Random(0)
    with torch.inference_mode(), in_number_type():
        for start in range(0, len(packs), together):
            some = packs[start:start + together]
            batch = collate([(encode(STYLE.prefix(rows[numbers[0]][0])),
                              [image_tokens(rows[number][1].tags(rng), encode) for number in numbers],
                              [False] * len(numbers)) for numbers in some], encode(STYLE.suffix))
            logits[np.concatenate(some)] = reader(batch).float().numpy()
    return logits


def taught_tokens(pack: Pack, scene: Scene, encode: Encode,
                  rng: random.Random) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The tokens of a scene, the probability of each, and whether the tag that ends there alone breaks the policy of
    the pack: 1 or 0, nan elsewhere and where nobody can know."""
    tags = scene.tags(rng)
    ids, probabilities = image_tokens(tags, encode)
    alone = np.full(len(ids), np.nan, np.float32)
    end = 0
    for name, _, tokens in read_tags(tags, encode):
        end += len(tokens)
        verdict = pack.alone(name)
        if verdict is not None:
            alone[end - 1] = verdict
    return ids, probabilities, alone


def _step(reader: Reader, optimizer: torch.optim.Optimizer, packs: list[Pack], encode: Encode, recipe: Recipe,
          step: int) -> dict[str, float]:
    """One update; returns the mean loss over the scenes, and over the tags alone."""
    rng = random.Random(step)
    prepared = [(encode(STYLE.prefix(pack.text)), [taught_tokens(pack, scene, encode, rng) for scene in pack.scenes],
                 list(pack.broken)) for pack in packs]
    scenes = sum(len(verdicts) for *_, verdicts in prepared)
    tags = max(1, sum(int(np.isfinite(alone).sum()) for _, pictures, _ in prepared for *_, alone in pictures))
    total, total_alone = 0.0, 0.0
    together = max(1, recipe.micro_packs * torch.bfloat16.itemsize // number_type().itemsize)  # in the same memory
    for start in range(0, len(prepared), together):
        batch = collate(prepared[start:start + together], encode(STYLE.suffix))
        with in_number_type():
            logits, tag_logits = reader.judge(batch)
        loss = nn.functional.binary_cross_entropy_with_logits(logits, batch.broken, reduction="sum") / scenes
        alone = nn.functional.binary_cross_entropy_with_logits(tag_logits, batch.tag_broken, reduction="sum") / tags
        (loss + recipe.alone * alone).backward()
        total, total_alone = total + loss.item(), total_alone + alone.item()
    nn.utils.clip_grad_norm_([p for group in optimizer.param_groups for p in group["params"]], 1.0)
    for group in optimizer.param_groups:
        group["lr"] = group["peak"] * recipe.rate_at(step)
    optimizer.step()
    optimizer.zero_grad()
    if not math.isfinite(total):
        raise FloatingPointError(f"loss is {total} at step {step}; lower learning_rate and start from the checkpoint")
    return {"loss": total, "alone": total_alone}


def _evaluate(reader: Reader, exam: list[Question], encode: Encode, step: int, log: TextIO) -> None:
    scores = score(reader, [(question.text, question.scene) for question in exam], encode)
    _report(log, {"step": step, "validation": metrics(exam, scores)})


def _optimizer(reader: Reader, recipe: Recipe) -> torch.optim.Optimizer:
    adapters = [p for name, p in reader.named_parameters() if p.requires_grad and "lora_" in name]
    rest = [p for name, p in reader.named_parameters() if p.requires_grad and "lora_" not in name]
    peak = recipe.learning_rate
    return torch.optim.AdamW([{"params": adapters, "lr": peak, "peak": peak},
                              {"params": rest, "lr": 4 * peak, "peak": 4 * peak}], weight_decay=0.0)


def _trained(reader: Reader) -> dict[str, torch.Tensor]:
    wanted = {name for name, parameter in reader.named_parameters() if parameter.requires_grad}
    return {name: tensor for name, tensor in reader.state_dict().items() if name in wanted}


def _resume(path: Path, reader: Reader, optimizer: torch.optim.Optimizer) -> int:
    if not path.is_file():
        return 0
    state = torch.load(path, weights_only=True)
    reader.load_state_dict(state["reader"], strict=False)
    optimizer.load_state_dict(state["optimizer"])
    print(f"going on from step {state['step']} ({path})", flush=True)
    return state["step"]


def _eta(started: float, first: int, done: int, steps: int) -> float:
    return round((time.monotonic() - started) / (done - first) * (steps - done) / 60, 1)


def _report(log: TextIO, row: dict) -> None:
    line = json.dumps(row)
    print(line, flush=True)
    log.write(line + "\n")
    log.flush()
