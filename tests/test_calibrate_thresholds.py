"""Thresholds for a wish: met by exact count on the rows, no stricter than need be, with an interval that tells how far
the rows can be trusted."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from training.calibration.thresholds import Share, Wish, choose_threshold
from training.errors import TrainingError

WISHES = [Wish(max_fpr=0.05), Wish(min_precision=0.8), Wish(min_recall=0.9), Wish(max_fpr=0.2, min_recall=0.5),
          Wish(max_fpr=0.3, min_precision=0.6), Wish(max_fpr=0.3, min_precision=0.6, min_recall=0.3)]


def scored(seed: int, count: int = 400) -> tuple[np.ndarray, np.ndarray]:
    """Scores with many ties, as isotonic ones have."""
    rng = np.random.default_rng(seed)
    broken = rng.random(count) < 0.4
    return np.round(np.clip(rng.normal(np.where(broken, 0.65, 0.35), 0.2), 0, 1), 2), broken


def counted(scores: np.ndarray, broken: np.ndarray, at: float) -> tuple[float, float, float]:
    """False-positive rate, precision and recall, by counting as a guard does."""
    unsafe = scores >= at
    return (unsafe & ~broken).sum() / (~broken).sum(), (unsafe & broken).sum() / max(unsafe.sum(), 1), (
        unsafe & broken).sum() / broken.sum()


def meets(wish: Wish, rates: tuple[float, float, float]) -> bool:
    fpr, precision, recall = rates
    return ((wish.max_fpr is None or fpr <= wish.max_fpr)
            and (wish.min_precision is None or precision >= wish.min_precision)
            and (wish.min_recall is None or recall >= wish.min_recall))


@pytest.mark.parametrize("wish", WISHES, ids=str)
@pytest.mark.parametrize("seed", range(4))
def test_a_threshold_meets_the_wish_by_exact_count_and_the_next_one_is_worse(wish, seed):
    scores, broken = scored(seed)
    found = choose_threshold(scores, broken, wish, "")
    rates = counted(scores, broken, found.unsafe_at)
    assert meets(wish, rates)
    assert (found.false_positive_rate.value, found.precision.value, found.recall.value) == rates
    every = [(at, counted(scores, broken, at)) for at in np.unique(scores)]
    rivals = [one for at, one in every if meets(wish, one) and (scores >= at).sum() >= 10]
    if wish == Wish(min_recall=0.9):
        assert rates[0] == min(fpr for fpr, *_ in rivals)  # recall is met anyhow: the fewest false alarms
    else:
        assert rates[2] == max(recall for *_, recall in rivals)


@settings(deadline=None, max_examples=50)
@given(st.lists(st.tuples(st.floats(0, 1), st.booleans()), min_size=40, max_size=80))
def test_whatever_the_scores_the_wish_is_met_or_refused(pairs):
    scores, broken = np.array([score for score, _ in pairs]), np.array([one for _, one in pairs])
    assume((~broken).sum() >= 20 and broken.any())
    wish = Wish(max_fpr=0.05)
    try:
        found = choose_threshold(scores, broken, wish, "")
    except TrainingError:
        assert all(counted(scores, broken, at)[0] > 0.05 for at in np.unique(scores))
        return
    assert counted(scores, broken, found.unsafe_at)[0] <= 0.05
    assert 0 <= found.unsafe_at <= 1


def test_a_threshold_lies_midway_to_the_next_lower_score():
    scores = np.array([0.1] * 50 + [0.2] * 50 + [0.8] * 50)
    assert choose_threshold(scores, scores > 0.5, Wish(max_fpr=0.02), "").unsafe_at == pytest.approx(0.5)


@pytest.mark.parametrize("low, high, at", [(0.2, 0.8, 0.5), (0.51, 0.52, 0.52), (0.123456, 0.123457, 0.1234565),
                                           (0.3, np.nextafter(0.3, 1), np.nextafter(0.3, 1))])
def test_a_threshold_has_the_fewest_digits_that_tell_the_two_scores_apart(low, high, at):
    scores = np.concatenate([np.full(50, low), np.full(50, high)])
    found = choose_threshold(scores, scores == high, Wish(max_fpr=0.02), "")
    assert low < found.unsafe_at <= high and found.unsafe_at == pytest.approx(at, rel=1e-6)
    assert (found.false_positive_rate, found.recall) == (Share(0, 50), Share(50, 50))


def test_a_threshold_below_all_scores_is_the_lowest_score():
    scores = np.linspace(0.5, 0.9, 100)
    broken = np.arange(100) % 2 == 0
    assert choose_threshold(scores, broken, Wish(min_precision=0.4), "").unsafe_at == 0.5


def test_a_share_that_is_exactly_the_bound_meets_it():
    """29 of 100 are 0.29, though 0.29 · 100 is below 29 in floating point."""
    scores = np.concatenate([np.full(29, 0.9), np.full(71, 0.1), np.full(10, 0.95)])
    broken = np.array([False] * 100 + [True] * 10)
    assert choose_threshold(scores, broken, Wish(max_fpr=0.29), "").false_positive_rate == Share(29, 100)


@pytest.mark.parametrize("wish, broken, says", [
    (Wish(max_fpr=0.01), [True] * 50 + [False] * 99, "needs at least 100 safe rows, there are 99"),
    (Wish(min_recall=0.95), [True] * 19 + [False] * 99, "needs at least 20 unsafe rows, there are 19"),
    (Wish(min_precision=0.9), [False] * 9, "needs at least 1 unsafe rows, there are 0")])
def test_rows_too_few_to_tell_are_refused_in_one_line(wish, broken, says):
    with pytest.raises(TrainingError, match=says) as caught:
        choose_threshold(np.linspace(0, 1, len(broken)), np.array(broken), wish, "all rules")
    assert "\n" not in str(caught.value) and str(caught.value).startswith("all rules: ")


def test_a_wish_that_no_threshold_meets_is_refused_and_says_what_there_is():
    scores = np.concatenate([np.linspace(0, 1, 100), np.linspace(0, 1, 100)])
    broken = np.array([False] * 100 + [True] * 100)
    with pytest.raises(TrainingError, match=r"no threshold has .*0\.02, .*0\.9 on these rows .*would be 0\.0[123]00"):
        choose_threshold(scores, broken, Wish(max_fpr=0.02, min_recall=0.9), "all rules")


def test_precision_of_a_handful_of_rows_is_no_precision():
    scores = np.linspace(0, 1, 200)
    broken = np.arange(200) >= 197  # the three best are right, and then none
    with pytest.raises(TrainingError, match=r"no threshold has precision at least 0\.95"):
        choose_threshold(scores, broken, Wish(min_precision=0.95), "all rules")


@pytest.mark.parametrize("bound", [0.0, 1.0, -0.1, 1.5, float("nan")])
@pytest.mark.parametrize("name", ["max_fpr", "min_precision", "min_recall"])
def test_a_wish_lies_between_never_and_always(name, bound):
    with pytest.raises(TrainingError, match=f"--{name.replace('_', '-')} is "):
        Wish(**{name: bound})


# Intervals

@pytest.mark.parametrize("k, n, low, high", [  # Clopper and Pearson; 0 of n: 1 - 0.025^(1/n)
    (0, 100, 0.0, 0.036217), (100, 100, 0.963783, 1.0), (1, 100, 0.000253, 0.054459), (5, 10, 0.187086, 0.812914)])
def test_a_share_has_its_exact_interval(k, n, low, high):
    assert Share(k, n).interval == (pytest.approx(low, abs=1e-5), pytest.approx(high, abs=1e-5))


@pytest.mark.parametrize("safe, certain", [(100, False), (400, True)])  # none is flagged; for 400 the end is 0.0092
def test_a_wish_is_certain_only_if_its_interval_is_within(safe, certain):
    scores = np.concatenate([np.full(safe, 0.1), np.full(50, 0.9)])
    found = choose_threshold(scores, scores > 0.5, Wish(max_fpr=0.01), "")
    assert found.false_positive_rate == Share(0, safe)
    assert found.certain() is found.as_json()["certain"] is certain
