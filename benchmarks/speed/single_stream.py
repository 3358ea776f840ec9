"""SingleStream: one image after the other, the next when the last is judged. Also what the harness itself costs."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable

import numpy as np

from benchmarks.speed.photos import until
from benchmarks.speed.power import Meter, Reader
from benchmarks.speed.statistics import enough_for, percentiles
from safeguard_sdk import Guard, Verdict

STAGES = ("decode", "patches", "vision", "prefill", "verdict", "total")
WARM_UP = 10            # images judged before the clock starts
IDLE_SECONDS = 0.2      # with a guard that does nothing, to see what the loop around it costs


def single_stream(guard: Guard, files: list[bytes], seconds: float, readers: dict[str, Reader]) -> dict:
    """Percentiles of each stage of `check` in ms. `total` is wall time around the call; `verdict` is what of it no
    stage has: thresholds and the making of the verdict."""
    for file in itertools.islice(itertools.cycle(files), WARM_UP):
        guard.check(file)
    with Meter(readers) as meter:
        times = timed_checks(guard.check, files, seconds)
    checks = len(times["total"])
    return {"checks": checks, "mean_ms": float(np.mean(times["total"])),
            "p99_has_ten_beyond": enough_for(99, checks),
            "slowest_ms": round(max(times["total"]), 3),
            "stages_ms": {stage: percentiles(times[stage]) for stage in STAGES},
            "energy": meter.energy(checks)}


def timed_checks(check: Callable[[bytes], Verdict], files: list[bytes], seconds: float) -> dict[str, list[float]]:
    """Milliseconds by stage of every check, none left out."""
    times: dict[str, list[float]] = {stage: [] for stage in STAGES}
    for file in until(seconds, files):
        started = time.perf_counter()
        verdict = check(file)
        total = (time.perf_counter() - started) * 1000
        times["total"].append(total)
        for stage, ms in verdict.ms.items():
            times[stage].append(ms)
        times["verdict"].append(total - sum(verdict.ms.values()))
    return times


def overhead_us() -> float:
    """Microseconds that the loop adds to a check: it goes around one that does nothing."""
    nothing = Verdict("safe", 0.0, None, {}, "", "", "", ms=dict.fromkeys(STAGES[:4], 0.0))
    started = time.perf_counter()
    times = timed_checks(lambda _: nothing, [b""], IDLE_SECONDS)
    return (time.perf_counter() - started) / len(times["total"]) * 1e6
