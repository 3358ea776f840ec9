"""Results as a person reads them on a terminal."""

from __future__ import annotations

from collections.abc import Iterator

from rich.console import Group
from rich.table import Table
from rich.text import Text

from benchmarks.speed.compare import Finding, differences, figures, ratios
from benchmarks.speed.single_stream import STAGES


def show_results(results: dict) -> Group:
    return Group(*(part for system in results["systems"] for part in _system(system)), *_together(results),
                 *_quality(results), Text("\n".join(facts(results))))


def facts(results: dict) -> list[str]:
    """Lines on the machine, its noise, and what was not measured."""
    machine, noise = results["machine"], results["noise"]
    where = ", ".join([machine["cpu"], f"{machine['cores']} cores", f"{machine['memory_gb']} GB",
                       *(gpu["name"] for gpu in machine["gpus"])])
    if machine["jetson"]:
        where += f", {machine['jetson']['model']} in mode {machine['jetson']['power_mode']}"
    lines = [where, "The machine was quiet." if noise["quiet"] else f"NOISY MACHINE: {'; '.join(noise['reasons'])}."]
    cost = results["harness"]["overhead_us_per_check"]
    share = max(system["single_stream"]["harness_share"] for system in results["systems"])
    lines.append(f"The harness adds {cost:.1f} µs to a check, {share:.3%} of it at most.")
    return [*lines, *(f"not measured: {what}: {why}" for what, why in results["not_measured"].items()),
            *(f"FAILED: {what}: {why}" for what, why in results["failed"].items())]


def show_check(baseline: dict, results: dict, findings: list[Finding]) -> Group:
    shown = Table("ratio within a run, against the baseline")
    for column in ("baseline", "now", "verdict"):
        shown.add_column(column, justify="right", overflow="fold")
    for one in findings:
        now = "—" if one.now is None else _interval(vars(one.now), "{:.3g}")
        shown.add_row(Text(one.name), f"{one.was:.3g}", now, one.verdict, style="bold red" if one.fails else "")
    return Group(shown, _minds(differences(baseline, results, ("the baseline", "this run"))))


def show_comparison(one: dict, other: dict) -> Group:
    parts = []
    for title, before, after in (("figures", figures(one), figures(other)),
                                 ("ratios within each run, smaller is better",
                                  {name: ratio.value for name, ratio in ratios(one).items()},
                                  {name: ratio.value for name, ratio in ratios(other).items()})):
        shown = Table(title)
        for column in ("A", "B", "B / A"):
            shown.add_column(column, justify="right", overflow="fold")
        for name in dict.fromkeys([*before, *after]):
            values = before.get(name), after.get(name)
            times = f"{values[1] / values[0]:.3f}" if None not in values and values[0] else "—"
            shown.add_row(Text(name), *("—" if value is None else f"{value:.4g}" for value in values), times)
        parts.append(shown)
    return Group(*parts, _minds(differences(one, other)))


def _minds(said: list[str]) -> Text:
    return Text("\n".join(f"mind: {why}" for why in said))


def _system(system: dict) -> Iterator[Table | Text]:
    rules = "1 rule" if system["rules"] == 1 else f"{system['rules']} rules"
    title = f"{system['name']}: {system['bundle']}, policy {system['policy']} ({rules})"
    yield Text(f"\n{title}")
    stages = Table("check, ms")
    for percentile in ("p50", "p90", "p99"):
        stages.add_column(percentile, justify="right", overflow="fold")
    for stage in STAGES:
        values = system["single_stream"]["stages_ms"][stage]
        stages.add_row(stage, *(_interval(values[percentile], "{:.2f}") for percentile in values),
                       style="bold" if stage == "total" else "")
    yield stages
    rows = Table("scenario", show_header=False)
    rows.add_column(justify="right", overflow="fold")
    for name, value in _rows(system):
        rows.add_row(Text(name), Text(value))
    yield rows


def _rows(system: dict) -> Iterator[tuple[str, str]]:
    single, scan, server = (system[key] for key in ("single_stream", "scan", "server"))
    start, change = system["cold_start"], system["policy_change"]
    yield "checks", f"{single['checks']:,}" + ("" if single["p99_has_ten_beyond"] else ", too few for a p99")
    for one in system["offline"]:
        yield f"check_many of {one['batch']}, img/s", _interval(one["img_per_s"], "{:.2f}")
    yield "scan, img/s", f"{scan['img_per_s']:.2f}"
    yield (f"server, requests/s with p99 under {server['bound_ms']:.0f} ms",
           "none of the rates tried" if server["highest_rate"] is None else f"{server['highest_rate']:.2f}")
    yield "cold start to first verdict, s", _interval(start["seconds"], "{:.2f}")
    yield "  of that, ms", ", ".join(f"{part} {seconds * 1000:.0f}" for part, seconds in start["parts_s"].items())
    yield "memory of that process, MB", f"{start['rss_mb']:,}"
    yield "policy change, ms", _interval(change["ready_ms"], "{:.0f}")
    yield "  with its first verdict, ms", _interval(change["first_verdict_ms"], "{:.0f}")
    for row in system["policy_length"]:
        yield (f"prefill under {row['tokens']} tokens of policy, ms",
               row.get("not_measured") or _interval(row["prefill_ms"], "{:.2f}"))
    for row in system["image_size"]:
        yield (f"check of a JPEG of {row['side']} px, ms",
               row.get("not_measured") or _interval(row["total_ms"], "{:.2f}"))
    for reader, energy in single["energy"].items():
        yield f"energy by {reader}, mJ an image", energy.get("failed") or str(energy["mj_per_image"])


def _together(results: dict) -> Iterator[Table | Text]:
    together = results["side_by_side"]
    if together is None:
        return
    yield Text("\nside by side, in turn on the same photos")
    shown = Table("")
    for column in ("check p50, ms", "time / first's", f"img/s in {together['batch']}s", "time / first's"):
        shown.add_column(column, justify="right", overflow="fold")
    for name, one in together["single_stream"].items():
        many = together["offline"].get(name)
        shown.add_row(Text(name), _interval(one["latency_ms"]["p50"], "{:.2f}"), _interval(one["of_first"], "{:.2f}"),
                      *("—", "—") if many is None else (_interval(many["img_per_s"], "{:.2f}"),
                                                        _interval(many["of_first"], "{:.2f}")))
    yield shown


def _quality(results: dict) -> Iterator[Table | Text]:
    if results["quality"] is None:
        return
    yield Text(f"\nquality: {results['quality']['rows']} rows, {results['quality']['unsafe']} unsafe")
    shown = Table("")
    for column in ("F1", "precision", "recall", "flips", "check p50, ms"):
        shown.add_column(column, justify="right", overflow="fold")
    speed = {system["name"]: system["single_stream"]["stages_ms"]["total"]["p50"] for system in results["systems"]}
    for name, one in results["quality"]["systems"].items():
        shown.add_row(Text(name), *("—" if one[key] is None else _interval(one[key], "{:.3f}")
                              for key in ("f1", "precision", "recall", "flips")), _interval(speed[name], "{:.2f}"))
    yield shown


def _interval(estimate: dict, form: str) -> str:
    """ "12.3 (11.9–12.8)"."""
    if estimate["low"] is None:
        return form.format(estimate["value"])
    return f"{form.format(estimate['value'])} ({form.format(estimate['low'])}–{form.format(estimate['high'])})"
