"""Two results against each other, and a result against a baseline.

Milliseconds of two machines, or of one machine on two days, say little; ratios within a run say more. A check looks at
ratios alone, all of which are better the smaller they are.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from benchmarks.errors import BenchmarkError
from benchmarks.speed.statistics import Estimate

FORMAT = 1
TOLERANCE = 0.15


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
    """A results.json. Raises BenchmarkError."""
    try:
        results = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise BenchmarkError(f"{path}: cannot be read as results of a benchmark ({error}); "
                             "`python benchmarks/run.py` writes such a file, results.json") from error
    if not isinstance(results, dict) or results.get("format") != FORMAT:
        raise BenchmarkError(f"{path}: is no result of this version of the benchmark; measure again")
    return results


def check(baseline: dict, results: dict, tolerance: float = TOLERANCE) -> list[Finding]:
    """Each ratio of the baseline against this run's. Slower is what is beyond the tolerance even at the better end of
    its interval. Raises BenchmarkError if the baseline has no ratios."""
    before, now = ratios(baseline), ratios(results)
    if not before:
        raise BenchmarkError("the baseline holds no ratios; measure it again")
    return [_finding(name, was.value, now.get(name), tolerance) for name, was in before.items()]


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


def differences(one: dict, other: dict) -> list[str]:
    """Why two results are not of the same thing."""
    said = []
    for what, of in (("processors", lambda r: r["machine"]["cpu"]), ("cores", lambda r: r["machine"]["cores"]),
                     ("Pythons", lambda r: r["machine"]["python"]),  # the fixed work is done by it
                     ("GPUs", lambda r: [gpu["name"] for gpu in r["machine"]["gpus"]]),
                     ("photos", lambda r: r["settings"]["photos"]["sha256"]),
                     ("threads", lambda r: r["settings"]["threads"]),
                     ("policies", lambda r: sorted({system["policy_sha256"] for system in r["systems"]}))):
        if of(one) != of(other):
            said.append(f"{what} differ: {_short(of(one))} and {_short(of(other))}")
    for letter, results in (("A", one), ("B", other)):
        if not results["noise"]["quiet"]:
            said.append(f"{letter} was measured on a noisy machine: {'; '.join(results['noise']['reasons'])}")
    return said


def _finding(name: str, was: float, now: Estimate | None, tolerance: float) -> Finding:
    if now is None:
        return Finding(name, was, None, "missing")
    best = now.value if now.low is None else now.low
    worst = now.value if now.high is None else now.high
    verdict = "slower" if best > was * (1 + tolerance) else "faster" if worst < was / (1 + tolerance) else "same"
    return Finding(name, was, now, verdict)


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
