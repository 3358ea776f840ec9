"""Two pictures: a radar of safety and general ability (table 4), bars of SafeEditBench (table 6)."""

from __future__ import annotations

import math
from pathlib import Path

from benchmarks.tables.results import Figures, Table, figures_of

Series = dict[str, Figures]  # name → figures


def series_of(table: Table, results: dict[str, dict[str, Figures]]) -> tuple[Series, Series]:
    """(published, ours), each by the title of its system."""
    titles = {row.system: row.title for row in table.rows}
    ours = {titles.get(label, label): figures for label, suites in results.items()
            if (figures := figures_of(table, suites)) is not None}
    return {row.title: row.figures for row in table.rows if row.figures}, ours


def draw_radar(table: Table, results: dict[str, dict[str, Figures]], path: Path) -> None:
    """Published figures dashed, ours in full lines; a system with a missing axis has a gap there."""
    figure, axes = _figure(polar=True)
    columns = [column for column in table.columns if column != "General"]
    angles = [2 * math.pi * place / len(columns) for place in range(len(columns))]
    colours: dict[str, str] = {}
    for series, style, whose in zip(series_of(table, results), ("--", "-"), ("published", "here"), strict=True):
        for name, figures in series.items():
            values = [_value(figures.get(column)) for column in columns]
            axes.plot([*angles, angles[0]], [*values, values[0]], style, marker="o", markersize=3,
                      color=colours.setdefault(name, f"C{len(colours)}"), label=f"{name}, {whose}")
    axes.set_theta_offset(math.pi / 2)  # the first axis at the top
    axes.set_xticks(angles, columns)
    axes.set_ylim(0, 100)
    axes.legend(loc="upper center", bbox_to_anchor=(0.5, -0.08), fontsize="small")
    _save(figure, path)


def draw_bars(table: Table, results: dict[str, dict[str, Figures]], path: Path, column: str = "Overall") -> None:
    """One column of a table: a bar for what is published, one for what was measured here."""
    figure, axes = _figure()
    published, ours = series_of(table, results)
    names = list(dict.fromkeys([*published, *ours]))
    for series, offset, whose in ((published, -0.2, "published"), (ours, 0.2, "here")):
        axes.barh([place + offset for place in range(len(names))],
                  [_value(series.get(name, {}).get(column)) for name in names], height=0.38, label=whose)
    axes.set_yticks(range(len(names)), names)
    axes.invert_yaxis()
    axes.set_xlim(0, 100)
    axes.set_xlabel(f"{table.title}: {column}, %")
    axes.legend()
    _save(figure, path)


def _value(figure: float | None) -> float:
    return math.nan if figure is None else figure


def _figure(polar: bool = False):
    from matplotlib.figure import Figure  # not pyplot, which wants a screen
    figure = Figure(figsize=(7, 6.5), layout="constrained")
    return figure, figure.add_subplot(polar=polar)


def _save(figure, path: Path) -> None:
    figure.savefig(path, dpi=150)
