"""Our figures, in per cent, out of the metrics.json files of benchmarks/quality and benchmarks/general."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import yaml

from benchmarks.errors import BenchmarkError

PUBLISHED = Path(__file__).with_name("published.yaml")
LEVEL = re.compile(r"(?:Policy )?(L[1-5])")
Figures = dict[str, float | None]  # column → per cent; None: it was run, and has no such figure


@dataclass(frozen=True, slots=True)
class PublishedRow:
    title: str
    system: str                      # a name in SYSTEMS, or the label that results are given
    figures: Figures
    second_hand: frozenset[str]      # columns whose figures were not read in the paper itself


@dataclass(frozen=True, slots=True)
class Table:
    name: str                        # "table-2"
    title: str
    suite: str                       # "all" for figures of several suites
    columns: tuple[str, ...]
    note: str
    rows: tuple[PublishedRow, ...]


@cache
def published_tables() -> tuple[Table, ...]:
    document = yaml.safe_load(PUBLISHED.read_text(encoding="utf-8"))
    tables = []
    for entry in document["tables"]:
        rows = []
        for row in entry["rows"]:
            title, system, read = row.pop("title"), row.pop("system"), row.pop("read", ())
            if unknown := row.keys() - set(entry["columns"]):
                raise BenchmarkError(f"{PUBLISHED.name}, {entry['name']}, {title}: no column {', '.join(unknown)}")
            rows.append(PublishedRow(title, system, _with_macro(row, entry["columns"]),
                                     frozenset(entry["second_hand"]).difference(read)))
        tables.append(Table(entry["name"], entry["title"], entry["suite"], tuple(entry["columns"]),
                            " ".join(entry["note"].split()), tuple(rows)))
    return tuple(tables)


def read_results(arguments: list[str]) -> dict[str, dict[str, Figures]]:
    """Figures by label and suite. An argument is a metrics.json or its folder, with `LABEL=` before it, or labelled by
    its system: "nano", "bundle:DIR", "qwen2.5-vl-7b" wherever it ran. Raises BenchmarkError."""
    results: dict[str, dict[str, Figures]] = {}
    for argument in arguments:
        label, path = _labelled(argument)
        file = Path(path) / "metrics.json" if Path(path).is_dir() else Path(path)
        suite, system, figures = _read(file)
        label = label or (system if system.startswith("bundle:") else re.split("[:@]", system)[0])
        if suite in results.setdefault(label, {}):
            raise BenchmarkError(f"{file}: a second result of {label} on {suite}; label one of them: LABEL={path}")
        results[label][suite] = figures
    return results


def _labelled(argument: str) -> tuple[str, str]:
    """(label, path) of `[LABEL=]PATH`; a path that is there may hold a "=" itself."""
    label, equals, path = argument.partition("=")
    return ("", argument) if Path(argument).exists() or not equals else (label, path)


def _read(file: Path) -> tuple[str, str, Figures]:
    """Suite, system and figures. Raises BenchmarkError."""
    try:
        metrics = json.loads(file.read_text(encoding="utf-8"))
        suite, system = metrics["suite"], metrics["system"]
        figures = READERS[suite](metrics) if suite in READERS else None
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise BenchmarkError(f"{file}: is no metrics.json of benchmarks.quality or benchmarks.general ({error!r})"
                             ) from error
    if figures is None:
        raise BenchmarkError(f"{file}: the suite {suite} is in none of the paper's tables; its marks stand there")
    if not isinstance(system, str):
        raise BenchmarkError(f"{file}: its system is {system!r:.60}, must be the name of one")
    return suite, system, figures


def figures_of(table: Table, suites: dict[str, Figures]) -> Figures | None:
    """What one system has for a table; None if nothing of it was run."""
    if table.suite != "all":
        return suites.get(table.suite)
    found = {column: suites[suite][source] for column, (suite, source) in COLUMNS.items()
             if suite in suites and column in table.columns and source in suites[suite]}
    return found or None


def unsafebench(metrics: dict) -> Figures:
    """Of a category that a system cannot express there is no figure, and then none of all rows together."""
    lacks = metrics["cannot_express"].get("UnsafeBench", [])
    figures = {name: None if name in lacks else _per_cent(marks["f1"]) for name, marks in metrics["categories"].items()}
    nine = published_tables()[0].columns[:-1]
    whole = metrics["paper"] is not None and not set(lacks) & set(nine)
    return {**figures, "Overall": _per_cent(metrics["paper"]["f1"]) if whole else None}


def safeeditbench(metrics: dict) -> Figures:
    figures = {}
    for name, marks in metrics["policies"].items():
        level = LEVEL.fullmatch(name)
        figures[level[1] if level else name] = _per_cent(marks[marks["metric"]]["value"])
    return {**figures, "Overall": _per_cent(metrics["pooled"]["f1"]["value"]),
            "Macro": _per_cent(metrics["macro"]["value"])}


def llavaguard(metrics: dict) -> Figures:
    published = metrics["published"]
    return {"Balanced accuracy": _per_cent(published["balanced_accuracy"]) if published else None}


def general(metrics: dict) -> Figures:
    return {**{name: _per_cent(share) for name, share in metrics["benchmarks"].items()},
            **({"General": _per_cent(metrics["average"])} if metrics["average"] is not None else {})}


READERS = {"unsafebench": unsafebench, "safeeditbench": safeeditbench, "llavaguard": llavaguard, "general": general}
COLUMNS = {  # of tables of several suites: suite and figure
    "LlavaGuardBench": ("llavaguard", "Balanced accuracy"), "UnsafeBench": ("unsafebench", "Overall"),
    "SafeEditBench": ("safeeditbench", "Overall"), "MMMU": ("general", "MMMU"),
    "RealWorldQA": ("general", "RealWorldQA"), "BLINK": ("general", "BLINK"), "MMT": ("general", "MMT"),
    "General": ("general", "General"),
}


def _with_macro(figures: Figures, columns: list[str]) -> Figures:
    levels = [figures.get(f"L{level}") for level in range(1, 6)]
    if "Macro" in columns and None not in levels:
        return {**figures, "Macro": round(sum(levels) / 5, 2)}
    return figures


def _per_cent(share: float | None) -> float | None:
    """Raises ValueError for what is no share."""
    if share is None:
        return None
    if not isinstance(share, int | float) or not 0 <= share <= 1:  # nor is NaN
        raise ValueError(f"{share!r:.60} is no share of 0 to 1")
    return 100 * share
