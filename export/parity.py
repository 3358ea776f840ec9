"""What a bundle and its checkpoint are both asked: photos × the rules of the packaged policies; and how they differ."""

from __future__ import annotations

import importlib.util
import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from export.failures import ExportError
from export.gate import QUESTIONS, Parity, parity_of, scores
from safeguard_sdk.calibration import AnyCalibration
from safeguard_sdk.engine import Engine
from safeguard_sdk.image import decode_image, to_model_input
from safeguard_sdk.policy import Policy

SUFFIXES = (".jpg", ".jpeg", ".png", ".webp")
SAMPLES = (("skimage", "data"), ("sklearn", "datasets/images"))  # packages with photos, and where these lie
SHOWN = 10  # flips that are listed


@dataclass(frozen=True)
class Question:
    policy: str
    rule: str
    text: str   # what the model reads of the rule
    photo: Path


def draw_questions(photos: Path | None, count: int = QUESTIONS) -> list[Question]:
    """`count` questions, the same every time, evenly over the packaged policies.

    photos  a folder, searched with its subfolders; None: the sample photos of scikit-image and scikit-learn
    raises  ExportError if there is none
    """
    paths = _sample_photos() if photos is None else sorted(
        path for path in photos.rglob("*") if path.suffix.lower() in SUFFIXES)
    if not paths:
        raise ExportError(f"{photos}: has no photos ({', '.join(SUFFIXES)}); name a folder that has")
    random = np.random.default_rng(0)
    policies = [Policy.packaged(name) for name in Policy.packaged_names()]
    each = [[Question(policy.name, rule.id, rule.canonical_text, photo)
             for rule, photo in itertools.product(policy.rules, paths)] for policy in policies]
    each = [[some[row] for row in random.permutation(len(some))] for some in each]
    turns = itertools.chain.from_iterable(itertools.zip_longest(*each))
    return [question for question in turns if question is not None][:count]


def pixels_of(questions: Sequence[Question], geometry) -> dict[Path, object]:
    """Each photo as the engine takes it, prepared once."""
    return {path: to_model_input(decode_image(path, target=geometry.size_of), geometry)
            for path in {question.photo for question in questions}}


def ask(engine: Engine, questions: Sequence[Question], pixels: dict[Path, object]) -> np.ndarray:
    """(n,) logits that each photo breaks its rule, as a guard finds them."""
    seen = {path: engine.encode([image])[0] for path, image in pixels.items()}
    logits = np.empty(len(questions))
    for text in dict.fromkeys(question.text for question in questions):
        rows = [row for row, question in enumerate(questions) if question.text == text]
        prefix = engine.read(engine.bundle.style.prefix(text))
        pairs = engine.score(prefix, [seen[questions[row].photo] for row in rows])
        logits[rows] = pairs[:, 1] - pairs[:, 0]
    return logits


@dataclass(frozen=True)
class Report:
    """Bundle against checkpoint over all questions and by policy.

    shift  mean signed difference of the scores: how far the calibration has moved
    flips  of every question whose verdict differs, one line for people
    """

    whole: Parity
    policies: dict[str, Parity]
    shift: float
    flips: tuple[str, ...]

    @classmethod
    def of(cls, questions: Sequence[Question], reference: np.ndarray, found: np.ndarray, calibration: AnyCalibration
           ) -> Report:
        """reference, found  (n,) logits of the checkpoint and of the bundle"""
        names = np.array([question.policy for question in questions])
        before, after = scores(reference, calibration), scores(found, calibration)
        flips = tuple(
            f"{question.photo.name} under {question.policy}/{question.rule}: score {old:.3f} in the checkpoint, "
            f"{new:.3f} in the bundle"
            for question, old, new in zip(questions, before, after, strict=True) if (old >= 0.5) != (new >= 0.5))
        return cls(parity_of(before, after),
                   {name: parity_of(before[names == name], after[names == name])
                    for name in sorted(set(names.tolist()))}, float((after - before).mean()), flips)

    def as_json(self) -> dict:
        return self.whole.as_json() | {"mean_shift": round(self.shift, 5),
                                       "policies": {name: one.as_json() for name, one in self.policies.items()}}

    def lines(self) -> list[str]:
        """For people: a row for each policy, then the first flips."""
        head = f"{'policy':12} questions   flips  mean drift     p99     max"
        rows = [f"{name:12} {one.questions:9}  {one.flip_rate:6.1%}  {one.mean_drift:10.4f}  {one.p99_drift:6.4f}  "
                f"{one.max_drift:6.4f}" for name, one in (*self.policies.items(), ("all", self.whole))]
        more = [f"and {len(self.flips) - SHOWN} more"] if len(self.flips) > SHOWN else []
        return [head, *rows, f"scores shift by {self.shift:+.4f} on average", *self.flips[:SHOWN], *more]


def _sample_photos() -> list[Path]:
    paths = []
    for package, folder in SAMPLES:
        spec = importlib.util.find_spec(package)
        if spec is None:
            raise ExportError(f"the gate's sample photos come with {package}, which is not installed: pip install "
                              "scikit-image scikit-learn, or name your own photos with --gate-data")
        paths += [path for path in sorted((Path(spec.origin).parent / folder).iterdir()) if path.suffix in SUFFIXES]
    return paths
