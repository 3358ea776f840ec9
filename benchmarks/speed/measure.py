"""One run: every bundle on every engine through every scenario, then all of them and their peers side by side."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from benchmarks.speed import machine, noise
from benchmarks.speed.offline import offline, scan_rate
from benchmarks.speed.peers import Peer, Task, open_peers
from benchmarks.speed.photos import describe
from benchmarks.speed.power import Reader, open_readers
from benchmarks.speed.quality import quality
from benchmarks.speed.server import server
from benchmarks.speed.side_by_side import side_by_side
from benchmarks.speed.single_stream import overhead_us, single_stream
from benchmarks.speed.startup import cold_start, policy_change
from benchmarks.speed.sweeps import image_size, policy_length
from benchmarks.speed.systems import System, choose_engines, open_systems
from safeguard_sdk import Bundle, Policy
from training.calibration.rows import Row

FORMAT = 1
BOUND = 5  # times the median of a check alone: the bound of the server's p99 where none is asked for


@dataclass(frozen=True)
class Plan:
    """What is measured."""

    bundles: list[Bundle]
    engines: list[str]          # none: all that run here
    policy: Policy
    files: list[bytes]          # the photos
    batches: tuple[int, ...]
    threads: int                # 0 for all cores
    seconds: float              # of each part of each scenario
    bound_ms: float | None      # of the server's p99
    peers: bool
    peer_models: dict[str, Path]
    rows: list[Row]             # labelled, for quality; none: it is not measured


def measure(plan: Plan, say: Callable[[str], object]) -> dict:
    """All results, ready for JSON; what failed after the scenarios stands in "failed". `say` is told what is going on.
    Raises SafeguardError."""
    engines, absent = choose_engines(plan.engines)
    readers, silent = open_readers()
    try:
        systems, refused = open_systems(plan.bundles, engines, plan.policy, plan.threads)
        task = Task(plan.policy.canonical_text, plan.threads, max(plan.batches))
        peers, missing = open_peers(task, plan.peer_models, plan.files) if plan.peers else ([], {})
        cost = overhead_us()
        looks = [noise.look()]
        measured = []
        for system in systems:
            measured.append(_scenarios(system, plan, readers, cost, looks, say))
        last = _last(systems, peers, plan, say)
        looks.append(noise.look())
    finally:
        for reader in readers.values():
            reader.close()
    return {
        "format": FORMAT, "made_at": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "machine": machine.describe(), "noise": noise.judge(looks),
        "settings": {"threads": plan.threads, "seconds": plan.seconds, "batches": list(plan.batches),
                     "photos": describe(plan.files)},
        "harness": {"overhead_us_per_check": round(cost, 2)},
        "systems": measured, **last,
        "not_measured": {**{f"engine {name}": why for name, why in absent.items()}, **refused,
                         **{f"power by {name}": why for name, why in silent.items()},
                         **{f"peer {name}": why for name, why in missing.items()}},
    }


def _last(systems: list[System], peers: list[Peer], plan: Plan, say: Callable[[str], object]) -> dict:
    """What needs all systems at once. What fails stands in "failed": all that was measured before is not to be lost."""
    found: dict = {"side_by_side": None, "quality": None, "failed": {}}

    def step(name: str, told: str, scenario: Callable[[], object]) -> None:
        shown = name.replace("_", " ")
        say(f"{shown}: {told}")
        try:
            found[name] = scenario()
        except Exception as error:  # a peer may raise anything
            found["failed"][shown] = " ".join(f"{type(error).__name__}: {error}".split())

    if len(systems) + len(peers) > 1:
        step("side_by_side", ", ".join([*(one.name for one in systems), *(one.name for one in peers)]),
             lambda: side_by_side(systems, peers, plan.files, max(plan.batches), plan.seconds))
    if plan.rows:
        step("quality", f"{len(plan.rows)} labelled rows", lambda: quality(systems, plan.rows))
    return found


def _scenarios(system: System, plan: Plan, readers: dict[str, Reader], cost_us: float, looks: list[noise.Look],
               say: Callable[[str], object]) -> dict:
    """Every scenario of one system; between them, a look at the machine."""
    guard, files, seconds = system.guard, plan.files, plan.seconds
    found = system.describe()

    def step(name: str, scenario: Callable[[], object]) -> None:
        say(f"{system.name}: {name.replace('_', ' ')}")
        found[name] = scenario()
        looks.append(noise.look())

    step("single_stream", lambda: single_stream(guard, files, seconds, readers))
    alone = found["single_stream"]["stages_ms"]["total"]["p50"]["value"]
    found["single_stream"]["harness_share"] = round(cost_us / 1000 / alone, 6)
    step("offline", lambda: offline(guard, files, list(plan.batches), seconds, readers))
    best = max(found["offline"], key=lambda one: one["img_per_s"]["value"])
    rate = best["img_per_s"]["value"]
    step("scan", lambda: scan_rate(guard, files, rate, seconds))
    step("server", lambda: server(lambda some: list(guard.check_many(some, best["batch"])), files, rate,
                                  plan.bound_ms or BOUND * alone, best["batch"], seconds))
    typical = files[int(np.argsort([len(file) for file in files])[len(files) // 2])]
    step("cold_start", lambda: cold_start(system, plan.threads, typical))
    step("policy_change", lambda: policy_change(system, typical))
    step("policy_length", lambda: policy_length(system, typical, seconds))
    step("image_size", lambda: image_size(system, max(files, key=len), seconds))
    nvml = readers.get("nvml")
    found["gpu_memory_mib"] = nvml.memory_mib() if nvml is not None and system.engine != "onnx-cpu" else None
    return found
