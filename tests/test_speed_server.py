"""The server scenario against simulated guards of known capacity, in virtual time."""

import pytest

from benchmarks.speed.server import BEYOND, LATE, Trial, search, trial

FILES = [b"a", b"b", b"c"]


class VirtualClock:
    """Time that passes only when somebody works or waits."""

    def __init__(self) -> None:
        self.time = 100.0

    def now(self) -> float:
        return self.time

    def wait_until(self, moment: float) -> None:
        assert moment > self.time
        self.time = moment


def one_trial(rate: float, *, setup: float, each: float, most: int, bound_ms: float, seconds: float = 60, seed: int = 0
              ) -> Trial:
    """A guard that takes `setup` seconds for a batch and `each` for an image of it."""
    clock = VirtualClock()

    def judge(files: list[bytes]) -> None:
        assert 1 <= len(files) <= most
        clock.time += setup + each * len(files)

    return trial(judge, FILES, rate, seconds, bound_ms, most, clock, seed)


def highest(capacity: float, **guard: float) -> float:
    trials = search(lambda rate, seed: one_trial(rate, seed=seed, **guard), capacity)
    return max(one.rate for one in trials if one.keeps_bound)


def test_with_time_to_spare_the_highest_rate_is_near_the_capacity():
    """Batches of 16 in 42 ms are 381 images a second."""
    found = highest(16 / 0.042, setup=0.010, each=0.002, most=16, bound_ms=1000)
    assert 0.85 * 381 < found <= BEYOND * 381


def test_a_tighter_bound_allows_a_lower_rate():
    guard = {"setup": 0.010, "each": 0.002, "most": 16}
    tight, wide = (highest(381, bound_ms=bound, **guard) for bound in (40, 120))
    assert tight < 0.9 * wide


def test_one_by_one_the_queue_is_that_of_the_textbook():
    """M/D/1 with a service of 10 ms at a load of 0.5: the mean wait is load / (2 · (1 - load)) services."""
    found = one_trial(50, setup=0.0, each=0.010, most=1, bound_ms=100, seconds=2000)
    mean = sum(found.latencies_ms) / len(found.latencies_ms)
    assert mean == pytest.approx(10 + 10 * 0.5 / (2 * 0.5), rel=0.03)
    assert found.keeps_bound


def test_a_stall_is_felt_by_all_who_came_meanwhile():
    """One stall of 2 s at 100 requests a second delays some 200 requests; a closed loop would count one."""
    clock = VirtualClock()
    stalled = False

    def judge(files: list[bytes]) -> None:
        nonlocal stalled
        clock.time += 0.001
        if clock.time > 105 and not stalled:
            stalled = True
            clock.time += 2.0

    found = trial(judge, FILES, 100, 20, 500, 64, clock, seed=0)
    assert 120 < found.late < 180  # those who came in its first 1.5 s
    assert not found.keeps_bound and not found.given_up
    assert len(found.latencies_ms) == found.arrivals == 2000


def test_beyond_its_capacity_a_trial_is_given_up_and_who_got_no_answer_is_late():
    found = one_trial(1000, setup=0.0, each=0.010, most=16, bound_ms=50, seconds=60)
    assert found.given_up and not found.keeps_bound
    assert len(found.latencies_ms) < found.arrivals
    assert found.late > 0.9 * found.arrivals


def test_a_bound_below_a_single_check_is_kept_at_no_rate():
    trials = search(lambda rate, seed: one_trial(rate, setup=0.010, each=0.002, most=16, bound_ms=5, seed=seed), 381)
    assert not any(one.keeps_bound for one in trials)


def test_equal_seeds_have_equal_arrivals_and_others_do_not():
    first, again, other = (one_trial(100, setup=0.001, each=0.001, most=8, bound_ms=50, seed=seed)
                           for seed in (1, 1, 2))
    assert first == again != other


@pytest.mark.parametrize("late, keeps", [(10, True), (11, False)])
def test_one_in_a_hundred_may_be_late(late, keeps):
    found = Trial(10.0, 1000, late, (1.0,) * 1000, given_up=False, batches=500)
    assert LATE == 0.01 and found.keeps_bound is keeps
    assert found.as_json()["certain"] is False  # ten more or less in a thousand is chance
    assert found.as_json()["mean_batch"] == 2.0


def test_short_trials_say_that_they_are_not_certain():
    assert Trial(10.0, 50, 0, (1.0,) * 50, given_up=False, batches=50).as_json()["certain"] is False
    assert Trial(10.0, 500, 0, (1.0,) * 500, given_up=False, batches=50).as_json()["certain"] is True
