"""Two results against each other, and a result against a baseline.

Milliseconds of two machines, or of one machine on two days, say little; ratios within a run say more. A check looks at
ratios alone, all of which are better the smaller they are.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from benchmarks.errors import BenchmarkError
from benchmarks.speed.statistics import Estimate

FORMAT = 1
TOLERANCE = 0.15
SETTINGS: dict[str, Callable[[dict], object]] = {  # what a run was asked to measure
    "photos": lambda results: results["settings"]["photos"]["sha256"],
    "threads": lambda results: results["settings"]["threads"],
    "policies": lambda results: sorted({system["policy_sha256"] for system in results["systems"]}),
}
MACHINE: dict[str, Callable[[dict], object]] = {
    "processors": lambda results: results["machine"]["cpu"], "cores": lambda results: results["machine"]["cores"],
    "Pythons": lambda results: results["machine"]["python"],  # the fixed work is done by it
    "GPUs": lambda results: [gpu["name"] for gpu in results["machine"]["gpus"]],
}


@dataclass(frozen=True)
class Finding:
    name: str
    was: float
    now: Estimate | None  # None: not measured this time
    verdict: str          # "same", "faster", "slower" or "missing"

    @property
    def fails(self) -> bool:
        return self.verdict in ("slower", "missing")


def read_results(path: Path) -> dict:
    """A results.json with all that is compared. Raises BenchmarkError."""
    try:
        results = json.loads(path.read_text(encoding="utf-8"), parse_constant=_no_number)
    except (OSError, ValueError) as error:
        raise BenchmarkError(f"{path}: cannot be read as results of a benchmark ({error}); "
                             "`python benchmarks/run.py` writes such a file, results.json") from error
    if not isinstance(results, dict) or results.get("format") != FORMAT:
        raise BenchmarkError(f"{path}: is no result of this version of the benchmark; measure again")
    try:
        differences(results, results)
        found = [*ratios(results).values(), *(Estimate(value, None, None) for value in figures(results).values())]
        finite = all(math.isfinite(end) for one in found for end in (one.value, one.low, one.high) if end is not None)
    except (LookupError, TypeError, ValueError, AttributeError, ArithmeticError) as error:
        raise BenchmarkError(f"{path}: is no whole result of the benchmark ({error!r}); measure again") from error
    if not results["systems"] or not finite:
        raise BenchmarkError(f"{path}: holds no ratios, or numbers without end; measure again")
    return results


def refuse_others(path: Path, baseline: dict, asked: dict[str, object]) -> None:
    """Raises BenchmarkError where a baseline was measured with other SETTINGS than those asked for now."""
    others = [f"{what} ({_short(of(baseline))} there, {_short(asked[what])} here)" for what, of in SETTINGS.items()
              if of(baseline) != asked[what]]
    if others:
        raise BenchmarkError(f"{path}: was measured with other {' and '.join(others)}; give the same --images, "
                             "--threads and --policy, or measure a new baseline")


def check(baseline: dict, results: dict, tolerance: float = TOLERANCE) -> list[Finding]:
    """Each ratio of the baseline against this run's. Slower is what is beyond the tolerance even at the better end of
    its interval."""
    now = ratios(results)
    return [_finding(name, was.value, now.get(name), tolerance) for name, was in ratios(baseline).items()]


def ratios(results: dict) -> dict[str, Estimate]:
    """Figures of one run over others of it: times over the time of a fixed piece of work, ours over a peer's."""
    spin = results["noise"]["spin_ms"]["value"]
    found = {}
    for system in results["systems"]:
        name, alone = system["name"], system["single_stream"]["stages_ms"]["total"]["p50"]
        fastest = max((one["img_per_s"] for one in system["offline"]), key=lambda rate: rate["value"])
        found |= {f"{name}: check / fixed work": _over(alone, spin),
                  f"{name}: cold start / fixed work": _over(system["cold_start"]["seconds"], spin / 1000),
                  f"{name}: policy change / fixed work": _over(system["policy_change"]["ready_ms"], spin),
                  f"{name}: an image of many / one alone": _under(fastest, 1000 / alone["value"])}
        if highest := system["server"]["highest_rate"]:
            found[f"{name}: offline / server"] = _over(fastest, highest)
        lengths = [row["prefill_ms"] for row in system["policy_length"] if "prefill_ms" in row]
        if len(lengths) > 1:
            found[f"{name}: prefill under the longest policy / the shortest"] = _over(lengths[-1], lengths[0]["value"])
    for scenario, systems in _together(results).items():
        first, *others = systems
        for other in others:
            found[f"{first} / {_unversioned(other)}, {scenario}"] = _under(systems[other]["of_first"], 1.0)
    return found


def figures(results: dict) -> dict[str, float]:
    """The headline numbers of each system, with their units."""
    found = {}
    for system in results["systems"]:
        name, stages = system["name"], system["single_stream"]["stages_ms"]["total"]
        found |= {f"{name}: check {q}, ms": stages[q]["value"] for q in stages}
        found |= {f"{name}: check_many of {one['batch']}, img/s": one["img_per_s"]["value"]
                  for one in system["offline"]}
        found |= {f"{name}: scan, img/s": system["scan"].get("img_per_s"),
                  f"{name}: server, requests/s": system["server"]["highest_rate"],
                  f"{name}: cold start, s": system["cold_start"]["seconds"]["value"],
                  f"{name}: policy change, ms": system["policy_change"]["ready_ms"]["value"],
                  f"{name}: memory, MB": system["cold_start"]["rss_mb"]}
    for name, one in ((results["quality"] or {}).get("systems", {})).items():
        found[f"{name}: F1"] = one["f1"]["value"]
    return {name: value for name, value in found.items() if value is not None}


def differences(one: dict, other: dict, names: tuple[str, str] = ("A", "B")) -> list[str]:
    """Why two results are not of the same thing."""
    said = [f"{what} differ: {_short(of(one))} and {_short(of(other))}" for what, of in (MACHINE | SETTINGS).items()
            if of(one) != of(other)]
    return said + [f"{name} was measured on a noisy machine: {'; '.join(results['noise']['reasons'])}"
                   for name, results in zip(names, (one, other), strict=True) if not results["noise"]["quiet"]]


def _finding(name: str, was: float, now: Estimate | None, tolerance: float) -> Finding:
    if now is None:
        return Finding(name, was, None, "missing")
    best = now.value if now.low is None else now.low
    worst = now.value if now.high is None else now.high
    verdict = "slower" if best > was * (1 + tolerance) else "faster" if worst < was / (1 + tolerance) else "same"
    return Finding(name, was, now, verdict)


def _no_number(constant: str) -> float:
    raise ValueError(f"{constant} is no number")


def _together(results: dict) -> dict[str, dict]:
    together = results["side_by_side"] or {}
    return {scenario.replace("_", " "): together[scenario] for scenario in ("single_stream", "offline")
            if scenario in together}


def _unversioned(name: str) -> str:
    """A peer's name without its version; systems have none."""
    return name if "," in name else name.partition(" ")[0]


def _over(estimate: dict, unit: float) -> Estimate:
    return Estimate(*(None if one is None else one / unit for one in (estimate["value"], estimate["low"],
                                                                      estimate["high"])))


def _under(estimate: dict, unit: float) -> Estimate:
    """unit / estimate: the ends of the interval change places."""
    return Estimate(*(None if one is None else unit / one for one in (estimate["value"], estimate["high"],
                                                                      estimate["low"])))


def _short(value: object) -> str:
    text = str(value)
    return text if len(text) <= 60 else f"{text[:57]}…"
