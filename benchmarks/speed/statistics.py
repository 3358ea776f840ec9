"""Percentiles, rates and ratios, each with a 95 % interval by bootstrap. Nothing is trimmed: outliers are latency too.

Blocks of consecutive samples are resampled, not single ones: neighbours are alike where a machine's speed drifts, and
single ones would make the interval too narrow (Künsch 1989, The Annals of Statistics 17(3)).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass

import numpy as np
from scipy.stats import binomtest, bootstrap

PERCENTILES = (50, 90, 99)
CONFIDENCE = 0.95
RESAMPLES = 999
BLOCK = 8            # consecutive samples that stay together
MOST_AT_ONCE = 1 << 21  # resampled values in memory


@dataclass(frozen=True)
class Estimate:
    """A number and its 95 % interval; None where one observation says nothing about the spread."""

    value: float
    low: float | None
    high: float | None

    def as_json(self) -> dict[str, float | None]:
        return {name: None if one is None else float(f"{one:.6g}") for name, one in asdict(self).items()}


def percentile(samples: Sequence[float], q: float) -> Estimate:
    """The q-th percentile, q in [0, 100]. Far out it needs many samples: see `enough_for`."""
    return _estimate([samples], lambda one: np.percentile(one, q, axis=-1))


def rate(counts: Sequence[float], seconds: Sequence[float]) -> Estimate:
    """Things a second, of consecutive stretches that did counts[i] of them in seconds[i]."""
    return _estimate([counts, seconds], lambda done, took: done.sum(-1) / took.sum(-1))


def ratio_of_medians(samples: Sequence[float], others: Sequence[float]) -> Estimate:
    """median(samples) / median(others), of pairs that were measured in turn: the i-th of both met the same machine."""
    return _estimate([samples, others], lambda one, other: np.median(one, -1) / np.median(other, -1))


def percentiles(samples: Sequence[float]) -> dict[str, dict]:
    """{"p50": {"value", "low", "high"}, "p90": …, "p99": …} of the samples."""
    return {f"p{q}": percentile(samples, q).as_json() for q in PERCENTILES}


def enough_for(q: float, count: int) -> bool:
    """Whether ten samples lie beyond the q-th percentile, so that it is more than the shape of a few outliers."""
    return count * (1 - q / 100) >= 10


def share(hits: int, count: int) -> Estimate:
    """hits / count with the exact interval of Clopper and Pearson."""
    interval = binomtest(hits, count).proportion_ci(CONFIDENCE, "exact")
    return Estimate(hits / count, float(interval.low), float(interval.high))


def _estimate(samples: list[Sequence[float]], statistic: Callable[..., np.ndarray]) -> Estimate:
    """`statistic` takes arrays (…, n) and gives (…)."""
    arrays = [np.asarray(one, float) for one in samples]
    count = len(arrays[0])
    if count == 0 or any(one.shape != (count,) for one in arrays):
        raise ValueError(f"samples of the shapes {[one.shape for one in arrays]}, must be one dimension and as many")
    value = float(statistic(*arrays))
    length = max(1, min(BLOCK, count // BLOCK))
    blocks = -(-count // length)
    if blocks < 2:
        return Estimate(value, None, None)
    cut = [np.resize(one, (blocks, length)) for one in arrays]  # the last block goes on at the start

    def of_blocks(places: np.ndarray, axis: int) -> np.ndarray:
        chosen = [one[places].reshape(*places.shape[:-1], blocks * length) for one in cut]
        return statistic(*chosen)

    interval = bootstrap((np.arange(blocks),), of_blocks, confidence_level=CONFIDENCE, n_resamples=RESAMPLES,
                         method="percentile", vectorized=True, batch=max(1, MOST_AT_ONCE // count),
                         rng=np.random.default_rng(0)).confidence_interval
    return Estimate(value, float(interval.low), float(interval.high))
