"""Server: requests come when they come (Poisson), and one worker judges all that wait, at most a batch at a time.

The arrivals are planned before the trial. A latency counts from the planned arrival, whatever the worker was doing
then, so a stall is felt by everyone who came meanwhile (no coordinated omission). The answer is the highest rate whose
p99 keeps a bound; every rate tried is a point of the throughput–latency curve.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from benchmarks.speed.statistics import Estimate, percentiles, share

LATE = 0.01           # of the requests may be later than the bound: p99
LEAST_ARRIVALS = 10   # of a trial, however short; `certain` says whether they are enough
STEPS = 6             # rates tried
BEYOND = 1.1          # of the offline throughput: the highest rate that can be asked for
HOPELESS = 10         # bounds that the oldest request may wait before a trial is given up

Judge = Callable[[Sequence[bytes]], object]


class Clock(Protocol):
    def now(self) -> float: ...
    def wait_until(self, moment: float) -> None: ...


class WallClock:
    def now(self) -> float:
        return time.perf_counter()

    def wait_until(self, moment: float) -> None:
        while (left := moment - time.perf_counter()) > 0:
            time.sleep(left)


@dataclass(frozen=True)
class Trial:
    rate: float                    # asked for, requests a second
    arrivals: int
    late: int                      # answered after the bound, or not at all
    latencies_ms: tuple[float, ...]  # of those answered
    given_up: bool                 # the queue had grown beyond hope
    batches: int

    @property
    def keeps_bound(self) -> bool:
        return not self.given_up and self.late <= LATE * self.arrivals

    @property
    def lateness(self) -> Estimate:
        return share(self.late, self.arrivals)

    def as_json(self) -> dict:
        return {"rate": round(self.rate, 3), "arrivals": self.arrivals, "answered": len(self.latencies_ms),
                "given_up": self.given_up, "keeps_bound": self.keeps_bound,
                "certain": self.lateness.high <= LATE if self.keeps_bound else self.lateness.low > LATE,
                "late": self.lateness.as_json(), "mean_batch": round(len(self.latencies_ms) / self.batches, 2),
                "latency_ms": percentiles(self.latencies_ms)}


def server(judge: Judge, files: list[bytes], capacity: float, bound_ms: float, most: int, seconds: float) -> dict:
    """The highest rate of requests whose p99 keeps the bound, and the points of the curve.

    capacity  images a second when all are there at once
    most      images that are judged together
    """
    clock = WallClock()
    trials = search(lambda rate, seed: trial(judge, files, rate, seconds, bound_ms, most, clock, seed), capacity)
    kept = [one.rate for one in trials if one.keeps_bound]
    return {"bound_ms": round(bound_ms, 2), "most_in_a_batch": most,
            "highest_rate": round(max(kept), 3) if kept else None,
            "points": [one.as_json() for one in sorted(trials, key=lambda one: one.rate)]}


def search(attempt: Callable[[float, int], Trial], capacity: float) -> list[Trial]:
    """Bisection between nothing and a little beyond capacity; each trial has arrivals of its own."""
    low, high, trials = 0.0, BEYOND * capacity, []
    for seed in range(STEPS):
        rate = (low + high) / 2
        trials.append(attempt(rate, seed))
        low, high = (rate, high) if trials[-1].keeps_bound else (low, rate)
    return trials


def trial(judge: Judge, files: list[bytes], rate: float, seconds: float, bound_ms: float, most: int, clock: Clock,
          seed: int) -> Trial:
    """One rate, for so many seconds or LEAST_ARRIVALS requests, whichever is more."""
    arrivals = max(LEAST_ARRIVALS, round(rate * seconds))
    planned = clock.now() + np.random.default_rng(seed).exponential(1 / rate, arrivals).cumsum()
    latencies: list[float] = []
    batches, given_up = 0, False
    while (answered := len(latencies)) < arrivals and not given_up:
        now = clock.now()
        waiting = int(np.searchsorted(planned, now, "right")) - answered
        if not waiting:
            clock.wait_until(float(planned[answered]))
            continue
        given_up = bool((now - planned[answered]) * 1000 > HOPELESS * bound_ms)
        count = min(waiting, most)
        judge([files[(answered + one) % len(files)] for one in range(count)])
        batches += 1
        latencies += ((clock.now() - planned[answered:answered + count]) * 1000).tolist()
    late = sum(one > bound_ms for one in latencies) + arrivals - len(latencies)
    return Trial(rate, arrivals, late, tuple(latencies), given_up, batches)
