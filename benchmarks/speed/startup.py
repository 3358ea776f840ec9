"""How long until the first verdict: of a process that has just begun, and after the policy has changed."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from dataclasses import replace

import numpy as np
import psutil

from benchmarks.errors import BenchmarkError
from benchmarks.speed.statistics import percentile
from benchmarks.speed.systems import ENGINES, System
from safeguard_sdk import Guard, Policy

COLD_STARTS = 5
POLICY_CHANGES = 10
PARTS = ("import", "policy", "bundle", "engine", "prefixes", "check")
FIRST_VERDICT = """
import time
marks = [time.perf_counter()]
import sys, json
from safeguard_sdk import Bundle, Guard, Policy
from safeguard_sdk.engine import open_engine
_, policy, bundle, provider, threads = sys.argv
mark = lambda: marks.append(time.perf_counter())
mark(); policy = Policy.from_yaml(policy)
mark(); bundle = Bundle.open(bundle)
mark(); engine = open_engine(bundle, provider, int(threads))
mark(); guard = Guard.on(engine, policy)
mark(); guard.check(sys.stdin.buffer.read())
mark()
print(json.dumps([after - before for before, after in zip(marks, marks[1:])]), flush=True)
time.sleep(60)  # until its memory is read
"""


def cold_start(system: System, threads: int, file: bytes) -> dict:
    """Seconds from the start of a process to its first verdict, in parts, and the memory it then holds. The files are
    in the system's cache, as after the first of many starts."""
    took, parts, held = [], [], []
    command = [sys.executable, "-c", FIRST_VERDICT, system.guard.policy.to_yaml(), str(system.bundle.path),
               ENGINES[system.engine], str(threads)]
    for _ in range(COLD_STARTS):
        started = time.perf_counter()
        with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
            process.stdin.write(file)
            process.stdin.close()
            said = process.stdout.readline()
            if not said:
                raise BenchmarkError(f"a fresh process gave no verdict, exit status {process.wait()}; see above")
            took.append(time.perf_counter() - started)
            held.append(psutil.Process(process.pid).memory_info().rss / 1e6)
            process.kill()
        parts.append(json.loads(said))
    medians = np.median(np.array(parts), axis=0)
    by_part = {"interpreter": float(np.median(np.array(took) - np.sum(parts, axis=1))),
               **dict(zip(PARTS, medians.tolist(), strict=True))}
    return {"starts": COLD_STARTS, "seconds": percentile(took, 50).as_json(),
            "parts_s": {part: round(seconds, 4) for part, seconds in by_part.items()},
            "rss_mb": round(float(np.median(held)))}


def policy_change(system: System, file: bytes) -> dict:
    """Milliseconds from other words to a guard that stands under them, on the same engine, and to its first verdict."""
    ready, judged = [], []
    for revision in range(POLICY_CHANGES):
        policy = _revised(system.guard.policy, revision)
        started = time.perf_counter()
        guard = Guard.on(system.guard.engine, policy)
        ready.append((time.perf_counter() - started) * 1000)
        guard.check(file)
        judged.append((time.perf_counter() - started) * 1000)
    return {"changes": POLICY_CHANGES, "rules": len(system.guard.policy.rules),
            "ready_ms": percentile(ready, 50).as_json(), "first_verdict_ms": percentile(judged, 50).as_json()}


def _revised(policy: Policy, revision: int) -> Policy:
    """Every rule in words that no guard has read before."""
    rules = [replace(rule, text=f"{rule.text} Revision {revision}.") if rule.text
             else replace(rule, title=f"{rule.title}, revision {revision}") for rule in policy.rules]
    return Policy(policy.name, policy.version, tuple(rules))
