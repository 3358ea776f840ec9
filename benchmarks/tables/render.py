"""Tables as Markdown and LaTeX: under each published row what was measured here, "not run" where nothing was."""

from __future__ import annotations

from collections.abc import Iterator

from benchmarks.tables.results import Figures, PublishedRow, Table, figures_of

NOT_RUN, NO_FIGURE, SECOND_HAND = "not run", "–", "†"
LATEX = {"&": r"\&", "%": r"\%", "_": r"\_", "#": r"\#", "$": r"\$", "{": r"\{", "}": r"\}", "\\": r"\textbackslash{}",
         "^": r"\textasciicircum{}", "~": r"\textasciitilde{}", "–": "--", "†": r"$^\dagger$"}
Line = tuple[str, str, list[str]]  # system, whose figures, cells


def lines_of(table: Table, results: dict[str, dict[str, Figures]]) -> Iterator[Line]:
    """Two lines for each system of the paper, one for each of ours that it does not have."""
    for row in table.rows:
        yield row.title, "published", [_published(row, column) for column in table.columns]
        yield "", "here", _here(table, figures_of(table, results.get(row.system, {})))
    theirs = {row.system for row in table.rows}
    for label, suites in results.items():
        figures = figures_of(table, suites)
        if label not in theirs and figures is not None:
            yield label, "here", _here(table, figures)


def markdown(table: Table, results: dict[str, dict[str, Figures]]) -> str:
    head = ["system", "", *table.columns]
    body = ([name, whose, *cells] for name, whose, cells in lines_of(table, results))
    lines = ["| " + " | ".join(cell.replace("|", r"\|") for cell in row) + " |"
             for row in (head, ["---"] * len(head), *body)]
    return f"## {_heading(table)}\n\n" + "\n".join(lines) + f"\n\n{_note(table)}\n"


def latex(table: Table, results: dict[str, dict[str, Figures]]) -> str:
    """A `table` float for the package booktabs."""
    head, *rows = (" & ".join(map(_escaped, [name, whose, *cells])) + r" \\" for name, whose, cells in
                   [("system", "", table.columns), *lines_of(table, results)])
    return "\n".join([
        r"\begin{table}", r"\centering", rf"\caption{{{_escaped(_heading(table))}. {_escaped(_note(table))}}}",
        rf"\label{{tab:{table.name}}}", rf"\begin{{tabular}}{{ll{'r' * len(table.columns)}}}", r"\toprule", head,
        r"\midrule", *rows, r"\bottomrule", r"\end{tabular}", r"\end{table}", ""])


def _heading(table: Table) -> str:
    return f"Table {table.name.removeprefix('table-')}: {table.title}"


def _note(table: Table) -> str:
    second_hand = any(row.second_hand & row.figures.keys() for row in table.rows)
    mark = f"{SECOND_HAND} read in notes on the paper, not in the paper itself." if second_hand else ""
    return " ".join(filter(None, [table.note, f"{NO_FIGURE} no figure.", mark]))


def _published(row: PublishedRow, column: str) -> str:
    figure = row.figures.get(column)
    return NO_FIGURE if figure is None else f"{figure:g}{SECOND_HAND if column in row.second_hand else ''}"


def _here(table: Table, figures: Figures | None) -> list[str]:
    if figures is None:
        return [NOT_RUN] * len(table.columns)
    return [NOT_RUN if column not in figures else NO_FIGURE if figures[column] is None else f"{figures[column]:.2f}"
            for column in table.columns]


def _escaped(text: str) -> str:
    return "".join(LATEX.get(character, character) for character in text)
