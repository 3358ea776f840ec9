"""Systems on the same photos in the same minutes, in turn, so that what else the machine does meets all of them. What
counts are ratios to the first."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Sequence

from benchmarks.speed.peers import Peer
from benchmarks.speed.statistics import percentiles, rate, ratio_of_medians
from benchmarks.speed.systems import System

LEAST_ROUNDS = 5


def side_by_side(systems: list[System], peers: list[Peer], files: list[bytes], batch: int, seconds: float) -> dict:
    """Latency of one image, and throughput of `batch` images that are there at once.

    returns  {"single_stream": {name: …}, "offline": {name: …}}; `of_first` is the first's speed over this one's: above
             1, the first is faster
    """
    one: dict[str, Callable[[bytes], object]] = {system.name: system.guard.check for system in systems}
    one |= {_name(peer): peer.check for peer in peers}
    many: dict[str, Callable[[Sequence[bytes]], object]] = {
        system.name: lambda some, guard=system.guard: list(guard.check_many(some, batch)) for system in systems}
    many |= {_name(peer): peer.check_many for peer in peers if peer.check_many is not None}
    photos = itertools.cycle(files)
    single = take_turns(one, lambda: next(photos), seconds)
    offline = take_turns(many, lambda: [next(photos) for _ in range(batch)], seconds)
    return {"batch": batch,
            "single_stream": {name: {"checks": len(times), "latency_ms": percentiles([t * 1000 for t in times]),
                                     "of_first": _of_first(single, name)} for name, times in single.items()},
            "offline": {name: {"judged": batch * len(times), "of_first": _of_first(offline, name),
                               "img_per_s": rate([batch] * len(times), times).as_json()}
                        for name, times in offline.items()}}


def take_turns(systems: dict[str, Callable], next_input: Callable[[], object], seconds: float
               ) -> dict[str, list[float]]:
    """Seconds that each took, the i-th of all on the same input; another one begins each round."""
    times: dict[str, list[float]] = {name: [] for name in systems}
    order, end, rounds = list(systems), time.perf_counter() + seconds, -1
    while rounds < LEAST_ROUNDS or time.perf_counter() < end:
        given = next_input()
        for name in order:
            started = time.perf_counter()
            systems[name](given)
            if rounds >= 0:  # the first round warms up
                times[name].append(time.perf_counter() - started)
        order.append(order.pop(0))
        rounds += 1
    return times


def _of_first(times: dict[str, list[float]], name: str) -> dict:
    return ratio_of_medians(times[name], next(iter(times.values()))).as_json()


def _name(peer: Peer) -> str:
    return f"{peer.name} {peer.version}"
