"""Is the machine quiet? A fixed piece of work is timed between the scenarios, and what others do is counted.

A number from a noisy machine is still a number; the report says that it is one of a noisy machine, and why.
"""

from __future__ import annotations

import os
import time
from dataclasses import dataclass

import numpy as np
import psutil

from benchmarks.speed.statistics import Estimate, percentile
from safeguard_sdk.scan.options import usable_cores

SPIN_STEPS = 50_000     # of the fixed work: some milliseconds
SPINS = 15              # of each look
MOST_SPREAD = 0.10      # p90 over p50 of the spins of one look, less 1
MOST_DRIFT = 0.05       # slowest over fastest median of the looks, less 1: heat, clocks, a neighbour
MOST_OTHERS = 0.10      # cores that others were using
MOST_STOLEN = 0.01      # of the time, by the hypervisor


@dataclass(frozen=True)
class Look:
    """The machine at one moment."""

    at: float                # perf_counter
    spins_ms: tuple[float, ...]
    busy_s: float            # of all processes on all cores since boot
    own_s: float             # of this process and the children it has waited for
    stolen_s: float
    load: float              # of the last minute
    clock_mhz: float | None  # mean of all cores, idle ones too: told, not judged


def look() -> Look:
    spins = []
    for _ in range(SPINS):
        started = time.perf_counter()
        _spin()
        spins.append((time.perf_counter() - started) * 1000)
    clock = psutil.cpu_freq()
    return Look(time.perf_counter(), tuple(spins), *_times(), psutil.getloadavg()[0],
                None if clock is None else round(clock.current))


def judge(looks: list[Look]) -> dict:
    """What several looks, the first before and the last after the measurement, say of it."""
    first, last = looks[0], looks[-1]
    seconds = last.at - first.at
    busy, own, stolen = last.busy_s - first.busy_s, last.own_s - first.own_s, last.stolen_s - first.stolen_s
    medians = [float(np.median(one.spins_ms)) for one in looks]
    found = {
        "spin_spread": max(float(np.percentile(one.spins_ms, 90) / np.median(one.spins_ms)) for one in looks) - 1,
        "spin_drift": max(medians) / min(medians) - 1,
        "others_cores": max(0.0, busy - own) / seconds,
        "stolen": max(0.0, stolen) / (seconds * usable_cores()),
    }
    limits = {"spin_spread": (MOST_SPREAD, "a fixed piece of work took {:.0%} longer at times than in the middle"),
              "spin_drift": (MOST_DRIFT, "the same work was {:.0%} slower at one time than at another"),
              "others_cores": (MOST_OTHERS, "other processes used {:.2f} cores"),
              "stolen": (MOST_STOLEN, "the hypervisor took {:.1%} of the time")}
    reasons = [says.format(found[name]) for name, (most, says) in limits.items() if found[name] > most]
    return {"quiet": not reasons, "reasons": reasons, **{name: round(value, 4) for name, value in found.items()},
            "load_before": round(first.load, 2), "load_after": round(last.load, 2), "looks": len(looks),
            "clocks_mhz": [one.clock_mhz for one in looks],
            "spin_ms": spin(looks).as_json()}


def spin(looks: list[Look]) -> Estimate:
    """Median milliseconds of the fixed work: how fast one core was, for ratios that carry over to other machines."""
    return percentile([one for each in looks for one in each.spins_ms], 50)


def _spin() -> int:
    total = 0
    for step in range(SPIN_STEPS):
        total += step
    return total


def _times() -> tuple[float, float, float]:
    """Busy, own and stolen seconds; waited-for children are this run's own scans and fresh processes."""
    system, own = psutil.cpu_times(), os.times()
    idle = system.idle + getattr(system, "iowait", 0.0)
    stolen = getattr(system, "steal", 0.0)
    virtual = getattr(system, "guest", 0.0) + getattr(system, "guest_nice", 0.0)  # counted in user and nice as well
    return sum(system) - idle - stolen - virtual, sum(own[:4]), stolen
