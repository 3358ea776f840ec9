"""Examines a bundle: the questions of exam.py over photos, put to the engine that ships.

    python -m training exam ../shared/data/photos --bundle safeguard_sdk/nano

prints the tables of docs/nano.md.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from sklearn.metrics import roc_auc_score

from safeguard_sdk.bundle import Bundle
from safeguard_sdk.engine import Engine, ImageEmbedding, open_engine
from safeguard_sdk.image import decode_image, to_pixel_values
from training.assets import fetch_wordnet
from training.nano.exam import KNOWN, Question, build_exam, concept_exam, metrics, wording_auroc
from training.nano.vision import GEOMETRY
from training.photos import Photo, read_photos
from training.policyflip.concepts import Concepts, Heldout
from training.policyflip.scenes import PhotoWorld
from training.wordnet import WordNet

QUESTIONS = 300  # of each part and kind of wording
CONCEPT_QUESTIONS = 50  # photos with a concept, and without
KINDS = ("known", "heldout", "fresh", "plain", "rules")  # wordings
PARTS = ("seen", "unseen", "exception", "only", "blanket", "single")
ROWS = (("flips both right", "both_right"), ("AUROC", "auroc"), ("balanced accuracy", "balanced"))


class Examiner:
    """Photos with labels, and questions over those of one split."""

    def __init__(self, photos: Path, assets: Path) -> None:
        self.photos = read_photos(photos)
        self.concepts = Concepts.read(WordNet.read(fetch_wordnet(assets)))
        self.heldout = Heldout.read(self.concepts)
        self._pixels: dict[str, np.ndarray] = {}

    def split(self, name: str) -> list[Photo]:
        return [photo for photo in self.photos if photo.split == name]

    def exam(self, split: str, questions: int, seed: int) -> list[Question]:
        return build_exam(self._world(split), self.concepts, self.heldout, questions, seed)

    def concept_exam(self, split: str, questions: int, seed: int) -> dict[str, list[Question]]:
        return concept_exam(self._world(split), questions, seed)

    def feeds(self, split: str, exam: list[Question]) -> tuple[list[str], list[np.ndarray]]:
        """The policy text and the pixel values of each question; equal photos are one array."""
        photos = self.split(split)
        return ([question.text for question in exam],
                [self._pixel_values(photos[question.scene.photo]) for question in exam])

    def _world(self, split: str) -> PhotoWorld:
        shown = [self.concepts.shown_in(photo) for photo in self.split(split)]
        return PhotoWorld(self.concepts, self.heldout, shown, lambda row, rng: ())

    def _pixel_values(self, photo: Photo) -> np.ndarray:
        if photo.sha256 not in self._pixels:
            rgb = decode_image(photo.path, target=GEOMETRY.size_of)
            self._pixels[photo.sha256] = to_pixel_values(rgb, GEOMETRY)
        return self._pixels[photo.sha256]


def answer(engine: Engine, texts: list[str], pixel_values: list[np.ndarray]) -> tuple[np.ndarray, list[ImageEmbedding]]:
    """(n,) logit that image i breaks the policy of text i, and what the engine made of each image.

    Each text is read once and each array encoded once.
    """
    distinct = {id(pixels): pixels for pixels in pixel_values}
    embedding_of = {key: engine.encode(pixels[None])[0] for key, pixels in distinct.items()}
    embeddings = [embedding_of[id(pixels)] for pixels in pixel_values]
    rows_of: dict[str, list[int]] = {}
    for row, text in enumerate(texts):
        rows_of.setdefault(text, []).append(row)
    logits = np.empty(len(texts))
    for text, rows in rows_of.items():
        prefix = engine.read(engine.bundle.style.prefix(text))
        safe, unsafe = engine.score(prefix, [embeddings[row] for row in rows]).T.astype(np.float64)
        logits[rows] = unsafe - safe
    return logits, embeddings


def calibrated_logits(bundle: Bundle, texts: list[str], logits: np.ndarray) -> np.ndarray:
    """(n,) logits as the graphs give them → (n,) log-odds of the scores that the bundle makes of them."""
    scores = np.array([bundle.calibration_of(text).score(logit) for text, logit in zip(texts, logits, strict=True)])
    scores = np.clip(scores, 1e-12, 1 - 1e-12)  # isotonic scores may be 0 or 1
    return np.log(scores / (1 - scores))


def examine(photos: Path, assets: Path, bundle: Path) -> str:
    """The marks of a bundle on photos of the test split, beside the baselines, as Markdown tables."""
    from training.nano.baseline import zero_shot_logits  # sentence-transformers: export does without it
    examiner = Examiner(photos, assets)
    exam = examiner.exam("test", QUESTIONS, seed=3)
    engine = open_engine(Bundle.open(bundle))
    logits, embeddings = answer(engine, *examiner.feeds("test", exam))
    systems = {engine.bundle.name: calibrated_logits(engine.bundle, [question.text for question in exam], logits),
               "zero-shot, policy parsed by an oracle": zero_shot_logits(exam, [e.seen for e in embeddings]),
               "always unsafe": np.ones(len(exam))}
    marks = {name: metrics(exam, answers) for name, answers in systems.items()}
    worst = sorted(wording_auroc(exam, logits).items(), key=lambda item: item[1])
    lines = [f"{len(exam)} questions over {len({q.scene.photo for q in exam})} photos.", "", _table(marks), "",
             f"ECE of {engine.bundle.name}: {marks[engine.bundle.name]['ece']:.3f}.", "",
             "| held-out wording | AUROC |", "| --- | --- |", *(f"| {name} | {value:.3f} |" for name, value in worst),
             "", *_concept_table(examiner, engine)]
    return "\n".join(lines)


def _concept_table(examiner: Examiner, engine: Engine) -> list[str]:
    """AUROC of each concept that ImageNet lacks."""
    lines = ["| concept | photos with it | without | no X, known wordings | only X, held-out wordings |",
             "| --- | --- | --- | --- | --- |"]
    for name, exam in examiner.concept_exam("test", CONCEPT_QUESTIONS, seed=3).items():
        logits, _ = answer(engine, *examiner.feeds("test", exam))
        known = np.array([question.wording == KNOWN for question in exam])
        broken = np.array([question.broken for question in exam])
        aurocs = [_auroc(broken[some], logits[some]) for some in (known, ~known)]
        lines.append(f"| {name.replace('_', ' ')} | {(broken & known).sum()} | {(~broken & known).sum()} | "
                     + " | ".join(aurocs) + " |")
    return lines


def _auroc(broken: np.ndarray, logits: np.ndarray) -> str:
    """A dash where all photos show the concept, or none does: elsewhere a missing label often says nothing."""
    return f"{roc_auc_score(broken, logits):.3f}" if 0 < broken.sum() < len(broken) else "–"


def _table(marks: dict[str, dict[str, float]]) -> str:
    columns = [f"{name}, {kind} wordings" for name in marks for kind in KINDS]
    lines = ["| part | mark | " + " | ".join(columns) + " |",
             "| --- | --- |" + " --- |" * len(columns)]
    for part in PARTS:
        for title, key in (*ROWS, ("accuracy", "accuracy")):
            cells = [mark.get(f"{part}/{kind}/{key}") for mark in marks.values() for kind in KINDS]
            if any(cell is not None for cell in cells):
                text = " | ".join("–" if cell is None else f"{cell:.3f}" for cell in cells)
                lines.append(f"| {part} | {title} | {text} |")
    return "\n".join(lines)
