"""Fits a calibration, and measures what it is worth on rows that it has not seen."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass

import numpy as np
from sklearn.isotonic import IsotonicRegression
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import StratifiedGroupKFold

from safeguard_sdk.calibration import AnyCalibration, Calibration, IsotonicCalibration
from training.errors import TrainingError
from training.nano.exam import calibration_error

FOLDS = 5
KEEP = "keep"  # the calibration that the bundle has
# Photos of each side. Temperature has one parameter and Platt two; isotonic overfits below a thousand rows
# (Niculescu-Mizil and Caruana 2005, figure 8), so this is the least at which it says anything.
LEAST = {"temperature": 10, "platt": 20, "isotonic": 100, KEEP: 10}


@dataclass(frozen=True)
class Quality:
    """Of scores against the truth."""

    ece: float    # expected calibration error, 15 bins
    brier: float  # mean squared distance


def fit_temperature(logits: np.ndarray, broken: np.ndarray) -> AnyCalibration:
    return _logistic(logits, broken, shift=False)


def fit_platt(logits: np.ndarray, broken: np.ndarray) -> AnyCalibration:
    return _logistic(logits, broken, shift=True)


def fit_isotonic(logits: np.ndarray, broken: np.ndarray) -> AnyCalibration:
    """Scores stay within 1 / (n + 2) of 0 and 1: n rows cannot tell that a score is surer than that (Laplace)."""
    bound = 1 / (len(logits) + 2)
    model = IsotonicRegression(y_min=bound, y_max=1 - bound, out_of_bounds="clip").fit(logits, broken)
    return IsotonicCalibration(tuple(model.X_thresholds_.tolist()), tuple(model.y_thresholds_.tolist()))


METHODS: dict[str, Callable[[np.ndarray, np.ndarray], AnyCalibration]] = {
    "platt": fit_platt, "temperature": fit_temperature, "isotonic": fit_isotonic}


def fit(method: str, logits: np.ndarray, broken: np.ndarray, what: str) -> AnyCalibration:
    """logits (n,) float64, broken (n,) bool. Raises TrainingError where the logits run against the labels."""
    try:
        return METHODS[method](logits, broken)
    except ValueError as error:  # of the calibrations: a scale below 0, points that do not rise
        raise TrainingError(f"{what}: higher logits are no sign of a broken policy on these rows ({error}); look at "
                            "the labels, 'unsafe' must mean that the photo breaks the policy") from error


def held_out_scores(method: str, logits: np.ndarray, broken: np.ndarray, groups: Sequence[Hashable],
                    what: str) -> np.ndarray:
    """(n,) scores, each by a calibration that has not seen its row nor another of its group (its photo)."""
    places = {group: place for place, group in enumerate(dict.fromkeys(groups))}
    folds = StratifiedGroupKFold(FOLDS, shuffle=True, random_state=0)
    scores = np.empty(len(logits))
    for fitted, left in folds.split(logits, broken, [places[group] for group in groups]):
        calibration = fit(method, logits[fitted], broken[fitted], what)
        scores[left] = [calibration.score(logit) for logit in logits[left]]
    return scores


def measure(scores: np.ndarray, broken: np.ndarray) -> Quality:
    return Quality(calibration_error(scores, broken), float(np.mean((scores - broken) ** 2)))


def require_rows(method: str, broken: np.ndarray, groups: Sequence[Hashable], what: str) -> None:
    """Raise TrainingError unless there are enough photos of each side."""
    for side, name in ((False, "safe"), (True, "unsafe")):
        photos = len({group for group, one in zip(groups, broken, strict=True) if bool(one) is side})
        if photos < LEAST[method]:
            raise TrainingError(f"{what}: {photos} photos are {name}, {method} needs at least {LEAST[method]} safe and "
                                f"as many unsafe ones{_advice(method)}; label more")


def _advice(method: str) -> str:
    fewer = [name for name in METHODS if LEAST[name] < LEAST[method]]
    return f" ({' and '.join(fewer)} need fewer)" if fewer else ""


def _logistic(logits: np.ndarray, broken: np.ndarray, shift: bool) -> Calibration:
    """Logistic regression towards Platt's targets, a little off 0 and 1 (Platt 1999, section 2.2), so that rows that a
    threshold separates do not drive the scale to infinity. Every row counts as both, by its target."""
    counts = broken.sum(), (~broken).sum()
    targets = np.where(broken, (counts[0] + 1) / (counts[0] + 2), 1 / (counts[1] + 2))
    spread = float(np.std(logits)) or 1.0
    model = LogisticRegression(C=1e6, fit_intercept=shift, tol=1e-8, max_iter=1000)
    model.fit(np.concatenate([logits, logits])[:, None] / spread, np.repeat([True, False], len(logits)),
              sample_weight=np.concatenate([targets, 1 - targets]))
    intercept = float(model.intercept_[0]) if shift else 0.0
    return Calibration(round(float(model.coef_[0, 0]) / spread, 6), round(intercept, 6))
