"""The parity gate: a bundle is finished only if it gives the checkpoint's verdicts on photos that neither has seen."""

from __future__ import annotations

from dataclasses import asdict, dataclass

import numpy as np

from safeguard_sdk.calibration import AnyCalibration, Calibration

MAX_FLIP_RATE = 0.02   # share of questions whose verdict differs from the checkpoint's
MAX_MEAN_DRIFT = 0.02  # mean absolute difference of scores
QUESTIONS = 60         # photos × rules that a Qwen-VL bundle and its checkpoint are asked, unless more are wished for


class ParityError(Exception):
    """A bundle that does not give the checkpoint's verdicts."""


@dataclass(frozen=True)
class Parity:
    """Bundle against checkpoint over the same questions, both calibrated alike."""

    questions: int
    flip_rate: float
    mean_drift: float
    p99_drift: float
    max_drift: float

    def as_json(self) -> dict:
        return {name: round(value, 5) for name, value in asdict(self).items()}


def compare(reference: np.ndarray, found: np.ndarray, scale: float, shift: float) -> Parity:
    """Logits of the checkpoint and of the bundle → parity of the scores by Platt scaling."""
    return parity_of(*(scores(logits, Calibration(scale, shift)) for logits in (reference, found)))


def scores(logits: np.ndarray, calibration: AnyCalibration) -> np.ndarray:
    """(n,) logits → (n,) scores, as a guard calibrates them."""
    return np.array([calibration.score(logit) for logit in logits.tolist()])


def parity_of(before: np.ndarray, after: np.ndarray) -> Parity:
    """Of the scores of the checkpoint and of the bundle, (n,) each."""
    drift = np.abs(before - after)
    flips = (before >= 0.5) != (after >= 0.5)
    return Parity(len(drift), float(flips.mean()), float(drift.mean()), float(np.quantile(drift, 0.99)),
                  float(drift.max()))


def require(parity: Parity, most_flips: float = MAX_FLIP_RATE, most_drift: float = MAX_MEAN_DRIFT,
            so: str = "no bundle was written") -> None:
    """Raise ParityError if the bundle is too far from its checkpoint. so: what has become of the bundle"""
    if not (parity.flip_rate <= most_flips and parity.mean_drift <= most_drift):  # nor may it be no number
        raise ParityError(
            f"{parity.flip_rate:.2%} of {parity.questions} verdicts differ from the checkpoint's (at most "
            f"{most_flips:.0%} may), scores drift by {parity.mean_drift:.3f} on average (at most {most_drift}); "
            f"{so}: quantise fewer layers or in more bits (--quant w8a16), or calibrate on "
            "more photos")
