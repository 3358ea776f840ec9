"""The plots of a report, each as SVG text."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from benchmarks.speed.single_stream import STAGES

SIZE = (7.2, 3.6)  # inches
COLOURS = ("#2f5d8a", "#c0352b", "#1b7f4d", "#9a6700", "#6a4c93", "#5b5b66")
NO_METADATA = dict.fromkeys(("Creator", "Date", "Format", "Type"))


def draw(results: dict) -> Iterator[tuple[str, str, str]]:
    """Title, what it shows, and the SVG, of every plot that the results have numbers for."""
    systems = results["systems"]
    yield ("Stages of a check", "Median milliseconds of each stage, one image after the other.",
           _svg(lambda axes: _stages(axes, systems)))
    yield ("Throughput by batch", "Images a second of check_many; bars are 95 % intervals.",
           _svg(lambda axes: _throughput(axes, systems)))
    yield ("Latency by batch", "How long a batch takes, p50 and p99: what an image may wait for its neighbours.",
           _svg(lambda axes: _batch_latency(axes, systems)))
    yield ("Throughput and latency", "Requests that come at random. Filled: the rate keeps the bound.",
           _svg(lambda axes: _server(axes, systems)))
    yield ("Length of the policy", "Median prefill of a check; the policy itself is read once.",
           _svg(lambda axes: _sweep(axes, systems, "policy_length", "tokens", "prefill_ms", "tokens of the policy")))
    yield ("Size of the image", "Median of a whole check, by the longer side of a JPEG.",
           _svg(lambda axes: _sweep(axes, systems, "image_size", "side", "total_ms", "pixels of the longer side")))
    if results["side_by_side"]:
        yield ("Side by side", "Median of a check, in turn on the same photos; bars are 95 % intervals.",
               _svg(lambda axes: _together(axes, results["side_by_side"]["single_stream"])))
    if results["quality"]:
        yield ("Quality and speed", "F1 against the median of a check: up and to the left is better.",
               _svg(lambda axes: _pareto(axes, results)))


def _stages(axes: Axes, systems: list[dict]) -> None:
    left = [0.0] * len(systems)
    for stage, colour in zip(STAGES[:-1], COLOURS, strict=False):
        widths = [system["single_stream"]["stages_ms"][stage]["p50"]["value"] for system in systems]
        axes.barh([system["name"] for system in systems], widths, left=left, label=stage, color=colour, height=0.5)
        left = [one + more for one, more in zip(left, widths, strict=True)]
    axes.margins(y=0.4)
    axes.invert_yaxis()
    axes.set_xlabel("ms")
    axes.legend(ncols=len(STAGES), loc="upper center", bbox_to_anchor=(0.5, -0.2), frameon=False)


def _throughput(axes: Axes, systems: list[dict]) -> None:
    for system, colour in zip(systems, _colours(systems), strict=True):
        rates = [one["img_per_s"] for one in system["offline"]]
        _line(axes, [one["batch"] for one in system["offline"]], rates, system["name"], colour)
    _batches(axes, systems, "img/s")


def _batch_latency(axes: Axes, systems: list[dict]) -> None:
    for system, colour in zip(systems, _colours(systems), strict=True):
        batches = [one["batch"] for one in system["offline"]]
        for percentile, style in (("p50", "-"), ("p99", ":")):
            values = [one["batch_ms"][percentile]["value"] for one in system["offline"]]
            axes.plot(batches, values, style, marker="o", color=colour, label=f"{system['name']}, {percentile}")
    _batches(axes, systems, "ms")


def _server(axes: Axes, systems: list[dict]) -> None:
    for system, colour in zip(systems, _colours(systems), strict=True):
        points = system["server"]["points"]
        for percentile, style in (("p50", "-"), ("p99", ":")):
            values = [one["latency_ms"][percentile]["value"] for one in points]
            axes.plot([one["rate"] for one in points], values, style, color=colour,
                      label=f"{system['name']}, {percentile}")
            for one, value in zip(points, values, strict=True):
                axes.plot(one["rate"], value, "o", color=colour, fillstyle="full" if one["keeps_bound"] else "none")
        axes.axhline(system["server"]["bound_ms"], color=colour, linewidth=0.7, dashes=(6, 3))
    axes.set_yscale("log")
    axes.set_xlabel("requests a second")
    axes.set_ylabel("ms from the planned arrival")
    axes.legend(frameon=False)


def _sweep(axes: Axes, systems: list[dict], scenario: str, of: str, what: str, label: str) -> None:
    places = [row[of] for row in systems[0][scenario]]
    for system, colour in zip(systems, _colours(systems), strict=True):
        rows = [row for row in system[scenario] if what in row]
        _line(axes, [row[of] for row in rows], [row[what] for row in rows], system["name"], colour)
    axes.set_xscale("log")
    axes.set_xticks(places, [str(place) for place in places])
    axes.minorticks_off()
    axes.set_xlabel(label)
    axes.set_ylabel("ms")
    axes.set_ylim(bottom=0)
    axes.legend(frameon=False)


def _together(axes: Axes, systems: dict[str, dict]) -> None:
    medians = [one["latency_ms"]["p50"] for one in systems.values()]
    axes.barh(list(systems), [one["value"] for one in medians], xerr=_errors(medians), height=0.5, color=COLOURS[0])
    axes.margins(y=0.3)
    axes.invert_yaxis()
    axes.set_xlabel("ms")


def _pareto(axes: Axes, results: dict) -> None:
    speed = {system["name"]: system["single_stream"]["stages_ms"]["total"]["p50"] for system in results["systems"]}
    judged = results["quality"]["systems"]
    for (name, one), colour in zip(judged.items(), _colours(judged), strict=True):
        axes.errorbar(speed[name]["value"], one["f1"]["value"], xerr=_errors([speed[name]]), yerr=_errors([one["f1"]]),
                      fmt="o", color=colour, capsize=3, label=name)
    axes.set_xlabel("check p50, ms")
    axes.set_ylabel("F1")
    axes.set_ylim(0, 1)
    axes.set_xlim(left=0)
    axes.legend(frameon=False, loc="lower left")


def _line(axes: Axes, places: list[float], estimates: list[dict], label: str, colour: str) -> None:
    axes.errorbar(places, [one["value"] for one in estimates], yerr=_errors(estimates), marker="o", capsize=3,
                  color=colour, label=label)


def _batches(axes: Axes, systems: list[dict], unit: str) -> None:
    batches = [one["batch"] for one in systems[0]["offline"]]
    axes.set_xscale("log", base=2)
    axes.set_xticks(batches, [str(one) for one in batches])
    axes.minorticks_off()
    axes.set_xlabel("images in a batch")
    axes.set_ylabel(unit)
    axes.set_ylim(bottom=0)
    axes.legend(frameon=False)


def _errors(estimates: list[dict]) -> list[list[float]]:
    """Distances to the ends of the intervals, as matplotlib takes them; none where an interval is not known."""
    return [[one["value"] - (one["value"] if one["low"] is None else one["low"]) for one in estimates],
            [(one["value"] if one["high"] is None else one["high"]) - one["value"] for one in estimates]]


def _colours(systems: list | dict) -> list[str]:
    return [COLOURS[place % len(COLOURS)] for place in range(len(systems))]


def _svg(fill: Callable[[Axes], None]) -> str:
    figure = Figure(SIZE, layout="constrained")
    axes = figure.add_subplot()
    axes.spines[["top", "right"]].set_visible(False)
    fill(axes)
    buffer = io.StringIO()
    with matplotlib.rc_context({"svg.fonttype": "path", "svg.hashsalt": "report"}):
        figure.savefig(buffer, format="svg", metadata=NO_METADATA)
    return buffer.getvalue()
