"""From a model's logit to a score that can be read as a probability.

`python -m training calibrate` fits these on photos that training has not seen and writes them into a bundle's manifest.
One serves all rules of a bundle; a rule may have its own, known by the words that the model reads of it.
"""

from __future__ import annotations

import hashlib
import math
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Calibration:
    """Platt scaling: score = 1 / (1 + exp(-(scale · logit + shift))); a shift of 0 is temperature scaling.

    source  Platt 1999; Guo et al. 2017 (arXiv:1706.04599), where the temperature is 1 / scale
    """

    scale: float  # > 0: a scale below would turn every verdict round
    shift: float

    def __post_init__(self) -> None:
        if not (math.isfinite(self.scale) and math.isfinite(self.shift) and self.scale > 0):
            raise ValueError(f"calibration: scale {self.scale} and shift {self.shift} must be finite and scale above 0")

    def score(self, logit: float) -> float:
        """A finite logit of unsafe against safe → [0, 1]."""
        scaled = self.scale * logit + self.shift
        return 1 / (1 + math.exp(-scaled)) if scaled >= 0 else math.exp(scaled) / (1 + math.exp(scaled))


@dataclass(frozen=True)
class IsotonicCalibration:
    """Points of a rising line, straight between them and level beyond its ends. Scores between two points of one height
    are equal, so images may tie.

    source  Zadrozny and Elkan 2002; the points are those of scikit-learn's IsotonicRegression
    """

    logits: tuple[float, ...]  # at least 2, rising
    scores: tuple[float, ...]  # as many, in [0, 1], never falling, the last above the first

    def __post_init__(self) -> None:
        logits, scores = np.array(self.logits, dtype=float), np.array(self.scores, dtype=float)
        if not (logits.ndim == 1 and len(logits) >= 2 and logits.shape == scores.shape
                and np.isfinite(logits).all() and (np.diff(logits) > 0).all()):
            raise ValueError(f"calibration: {logits.size} logits and {scores.size} scores, must be at least 2 of each, "
                             "as many, and the logits finite and rising")
        if not ((np.diff(scores) >= 0).all() and 0 <= scores[0] < scores[-1] <= 1):
            raise ValueError("calibration: the scores of an isotonic one must lie in [0, 1], never fall and rise at "
                             "least once; falling ones would turn verdicts round")

    def score(self, logit: float) -> float:
        """A finite logit of unsafe against safe → [0, 1]."""
        return float(np.interp(logit, self.logits, self.scores))


AnyCalibration = Calibration | IsotonicCalibration


def read_calibration(entry: dict) -> AnyCalibration:
    """Of an entry of a manifest. Raises KeyError, TypeError or ValueError where it is not one."""
    method = entry.get("method", "platt")  # the first bundles name none
    if method == "isotonic":
        return IsotonicCalibration(tuple(entry["points"]["logits"]), tuple(entry["points"]["scores"]))
    if method in ("platt", "temperature"):
        return Calibration(entry["scale"], entry["shift"])
    raise ValueError(f"calibration: method {method!r} is not known here; install a newer safeguard")


def text_sha256(text: str) -> str:
    """The name of a rule in a manifest: of what the model reads of it (`Rule.canonical_text`), not of its id, which
    other policies may use for other words."""
    return hashlib.sha256(text.encode()).hexdigest()
