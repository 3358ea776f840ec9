"""The threshold that meets a wish on labelled rows, and how far these rows can be trusted."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from training.errors import TrainingError

CONFIDENCE = 0.95


@dataclass(frozen=True)
class Share:
    """k of n, with its exact 95 % interval (Clopper and Pearson 1934)."""

    k: int
    n: int

    @property
    def value(self) -> float:
        return self.k / self.n

    @property
    def interval(self) -> tuple[float, float]:
        from scipy.stats import binomtest
        low, high = binomtest(self.k, self.n).proportion_ci(CONFIDENCE, method="exact")
        return float(low), float(high)

    def __str__(self) -> str:
        low, high = self.interval
        return f"{self.value:.4f} ({self.k} of {self.n}; 95 % interval {low:.4f} to {high:.4f})"

    def as_json(self) -> dict:
        low, high = self.interval
        return {"value": round(self.value, 6), "of": [self.k, self.n], "interval": [round(low, 6), round(high, 6)]}


@dataclass(frozen=True)
class Wish:
    """Bounds in (0, 1), None where nothing is wished. Several must be met together."""

    max_fpr: float | None = None        # of the safe rows, how many may be called unsafe
    min_precision: float | None = None  # of those called unsafe, how many must be
    min_recall: float | None = None     # of the unsafe rows, how many must be called so

    def __post_init__(self) -> None:
        for name, bound in self.bounds.items():
            if not 0 < bound < 1:
                raise TrainingError(f"--{name.replace('_', '-')} is {bound}, must lie between 0 and 1; neither never "
                                    "nor always can be told from a number of rows")

    @property
    def bounds(self) -> dict[str, float]:
        return {name: value for name, value in vars(self).items() if value is not None}

    def __str__(self) -> str:
        words = {"max_fpr": "false-positive rate at most", "min_precision": "precision at least",
                 "min_recall": "recall at least"}
        return ", ".join(f"{words[name]} {bound:g}" for name, bound in self.bounds.items())


@dataclass(frozen=True)
class Threshold:
    """A score from which images are unsafe, and what it does to the rows it was chosen by."""

    unsafe_at: float
    wish: Wish
    false_positive_rate: Share
    precision: Share
    recall: Share

    def certain(self) -> bool:
        """Whether the wish holds up to the far end of every interval, not only on these rows."""
        return all((self.wish.max_fpr is None or self.false_positive_rate.interval[1] <= self.wish.max_fpr,
                    self.wish.min_precision is None or self.precision.interval[0] >= self.wish.min_precision,
                    self.wish.min_recall is None or self.recall.interval[0] >= self.wish.min_recall))

    def as_json(self) -> dict:
        return {"unsafe_at": self.unsafe_at, "unsafe_at_for": str(self.wish), "certain": self.certain(),
                "false_positive_rate": self.false_positive_rate.as_json(), "precision": self.precision.as_json(),
                "recall": self.recall.as_json()}


def choose_threshold(scores: np.ndarray, broken: np.ndarray, wish: Wish, what: str) -> Threshold:
    """The lowest threshold that meets the wish, so the one that finds most; if recall alone is wished the highest, so
    the one with the fewest false alarms. It lies about midway to the next lower score, in as few digits as that allows.

    scores  (n,) float64 in [0, 1], calibrated; an image is unsafe from the threshold on
    raises  TrainingError if the rows are too few to tell, or no threshold meets the wish
    """
    _require_enough(broken, wish, what)
    distinct, place, counts = np.unique(scores, return_inverse=True, return_counts=True)
    distinct = distinct[::-1]  # falling: from the strictest threshold to the one that flags all
    flagged = np.cumsum(counts[::-1])
    found = np.cumsum(np.bincount(place, weights=broken, minlength=len(counts))[::-1]).astype(int)
    unsafe, safe = int(broken.sum()), int((~broken).sum())
    met: dict[str, np.ndarray] = {}
    if wish.max_fpr is not None:
        met["max_fpr"] = (flagged - found) / safe <= wish.max_fpr
    if wish.min_precision is not None:  # of fewer flagged rows than the least none may be wrong: chance would do
        enough = flagged >= _least_rows(1 - wish.min_precision)
        met["min_precision"] = (found / flagged >= wish.min_precision) & enough
    if wish.min_recall is not None:
        met["min_recall"] = found / unsafe >= wish.min_recall
    meets = np.flatnonzero(np.logical_and.reduce(list(met.values())))
    if not len(meets):
        raise TrainingError(f"{what}: no threshold has {wish} on these rows{_nearest(met, found, unsafe)}; wish for "
                            "less, or train for more")
    best = meets[0] if list(wish.bounds) == ["min_recall"] else meets[-1]
    at = float(distinct[best])
    if best + 1 < len(distinct):
        at = _between(float(distinct[best + 1]), at)
    return Threshold(at, wish, Share(int(flagged[best] - found[best]), safe), Share(int(found[best]),
                     int(flagged[best])), Share(int(found[best]), unsafe))


def _require_enough(broken: np.ndarray, wish: Wish, what: str) -> None:
    counts = {"safe": int((~broken).sum()), "unsafe": int(broken.sum())}
    least = {"safe": _least_rows(wish.max_fpr) if wish.max_fpr else 1,
             "unsafe": _least_rows(1 - wish.min_recall) if wish.min_recall else 1}
    for side, count in counts.items():
        if count < least[side]:
            raise TrainingError(f"{what}: {wish} needs at least {least[side]} {side} rows, there are {count}; label "
                                "more, or wish for less")


def _between(low: float, high: float) -> float:
    """In (low, high]: the middle, in the fewest digits that stay within."""
    rounded = (round((low + high) / 2, digits) for digits in range(2, 17))
    return next((number for number in rounded if low < number <= high), high)


def _least_rows(share: float) -> int:
    """Of fewer rows than this a single one is more than the share."""
    return math.ceil(round(1 / share, 9))


def _nearest(met: dict[str, np.ndarray], found: np.ndarray, unsafe: int) -> str:
    """What there is to have, where one bound alone can be met."""
    reachable = [name for name, where in met.items() if where.any() and name != "min_recall"]
    if not reachable:
        return ""
    recall = max(found[np.flatnonzero(met[name])[-1]] for name in reachable) / unsafe
    return f" (without the recall wished it would be {recall:.4f})" if "min_recall" in met else ""
