"""benchmarks/speed/statistics.py on samples whose answers are known."""

import numpy as np
import pytest

from benchmarks.speed.statistics import (
    Estimate,
    enough_for,
    percentile,
    percentiles,
    rate,
    ratio_of_medians,
    share,
)

RANDOM = np.random.default_rng(0)


def test_a_percentile_is_that_of_all_samples_outliers_too():
    samples = [*range(1, 100), 10_000]
    assert percentile(samples, 50).value == 50.5
    assert percentile(samples, 100).value == 10_000
    assert list(percentiles(samples)) == ["p50", "p90", "p99"]


@pytest.mark.parametrize("q, true", [(50, np.log(2)), (90, np.log(10))])  # of the exponential distribution
def test_intervals_hold_the_truth_about_19_times_in_20(q, true):
    holds = 0
    for _ in range(100):
        found = percentile(RANDOM.exponential(size=400), q)
        holds += found.low <= true <= found.high
    assert 88 <= holds <= 99  # of 100; percentile intervals of few blocks are a little narrow


def test_neighbours_that_are_alike_make_the_interval_wider():
    drift = np.repeat(RANDOM.normal(10, 1, 100), 8)  # the speed of the machine changes every 8 samples
    alike, mixed = percentile(drift, 50), percentile(RANDOM.permutation(drift), 50)
    assert alike.high - alike.low > 1.5 * (mixed.high - mixed.low)


def test_one_sample_has_no_interval():
    assert percentile([3.0], 50) == Estimate(3.0, None, None)
    assert Estimate(3.0, None, None).as_json() == {"value": 3.0, "low": None, "high": None}


def test_a_rate_is_all_over_all_and_not_the_mean_of_rates():
    found = rate([10, 10], [1.0, 4.0])
    assert found.value == 4.0
    assert (found.low, found.high) == (2.5, 10.0)


def test_a_ratio_of_what_was_measured_in_turn_does_not_see_the_machines_drift():
    machine = np.exp(np.cumsum(RANDOM.normal(0, 0.05, 400)))  # speeds up and slows down by half and more
    noise = RANDOM.normal(1, 0.01, 400)
    found = ratio_of_medians(2 * machine * noise, machine)
    assert 1.9 < found.low <= found.value <= found.high < 2.1


def test_a_share_has_the_exact_interval():
    """Clopper and Pearson for none of ten: 1 - 0.025^(1/10)."""
    found = share(0, 10)
    assert (found.value, found.low) == (0.0, 0.0)
    assert found.high == pytest.approx(1 - 0.025**0.1)


@pytest.mark.parametrize("count, enough", [(999, False), (1000, True)])
def test_a_p99_needs_ten_samples_beyond_it(count, enough):
    assert enough_for(99, count) is enough


@pytest.mark.parametrize("samples", [[], [[1.0, 2.0]]])
def test_what_is_no_row_of_samples_is_refused(samples):
    with pytest.raises(ValueError, match="one dimension"):
        percentile(samples, 50)
