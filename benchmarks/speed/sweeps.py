"""What latency depends on: the length of the policy, and the size of the image. The values of a sweep take turns."""

from __future__ import annotations

import time

import numpy as np

from benchmarks.speed.photos import resized
from benchmarks.speed.statistics import percentile
from benchmarks.speed.systems import System
from safeguard_sdk import Guard, ImageError, Policy
from safeguard_sdk.image import decode_image

POLICY_TOKENS = (50, 100, 200, 500, 1000, 2000)
SIDES = (224, 384, 768, 1536, 3072)
LEAST_ROUNDS = 3
CLAUSES = tuple(f"no {thing}" for thing in (
    "weapons", "cigarettes", "alcohol", "gambling", "blood", "insects on food", "smoke or fire", "identity papers",
    "medicine", "knives outside a kitchen", "street fights", "hateful symbols"))


def policy_length(system: System, file: bytes, seconds: float) -> list[dict]:
    """One rule of so many tokens: reading it, once, and a check under it, which should not depend on its length but
    for attention over the cache. A length that the bundle does not read is said to be one."""
    guards, rows = {}, []
    for tokens in POLICY_TOKENS:
        if tokens > system.bundle.max_policy_tokens:
            rows.append({"tokens": tokens, "not_measured": f"{system.bundle.name} reads at most "
                                                           f"{system.bundle.max_policy_tokens} tokens of a rule"})
            continue
        policy = _policy_of(system, tokens)
        started = time.perf_counter()
        guards[tokens] = Guard.on(system.guard.engine, policy)
        rows.append({"tokens": tokens, "read_ms": round((time.perf_counter() - started) * 1000, 2)})
    times = _in_turn({tokens: lambda guard=guard: guard.check(file).ms["prefill"]
                      for tokens, guard in guards.items()}, seconds)
    for row in rows:
        if row["tokens"] in times:
            row |= {"checks": len(times[row["tokens"]]), "prefill_ms": percentile(times[row["tokens"]], 50).as_json()}
    return rows


def image_size(system: System, file: bytes, seconds: float) -> list[dict]:
    """One photo at several sizes, as JPEG. A size at which a long thin one is refused is said to be one."""
    files, rows = {}, []
    for side in SIDES:
        data = resized(file, side)
        try:
            decode_image(data, name=f"the largest photo at {side} px")
        except ImageError as error:
            rows.append({"side": side, "not_measured": str(error)})
        else:
            files[side] = data
    totals = _in_turn({side: lambda data=data: _timed(system.guard, data) for side, data in files.items()}, seconds)
    for side, checks in totals.items():
        decode, total = np.array(checks).T
        rows.append({"side": side, "bytes": len(files[side]), "checks": len(checks),
                     "decode_ms": percentile(decode, 50).as_json(), "total_ms": percentile(total, 50).as_json()})
    return rows


def _in_turn(measured: dict, seconds: float) -> dict[int, list]:
    """Each of them once a round, for so many seconds; the first round warms up and is not counted."""
    found: dict[int, list] = {value: [] for value in measured}
    end, rounds = time.perf_counter() + seconds, -1
    while rounds < LEAST_ROUNDS or time.perf_counter() < end:
        for value, once in measured.items():
            result = once()
            if rounds >= 0:
                found[value].append(result)
        rounds += 1
    return found


def _timed(guard: Guard, data: bytes) -> tuple[float, float]:
    """Milliseconds of decoding, and of everything."""
    started = time.perf_counter()
    verdict = guard.check(data)
    return verdict.ms["decode"], (time.perf_counter() - started) * 1000


def _policy_of(system: System, tokens: int) -> Policy:
    """The longest rule of these clauses that has at most so many tokens."""
    engine, style = system.guard.engine, system.bundle.style
    clauses = [CLAUSES[0]]
    while True:
        more = [*clauses, CLAUSES[len(clauses) % len(CLAUSES)]]
        if engine.count_tokens(style.prefix(f"{', '.join(more)}.")) > tokens:
            return Policy.from_text(f"{', '.join(clauses)}.")
        clauses = more
