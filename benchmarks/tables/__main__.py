"""`python -m benchmarks.tables RESULTS… --out DIR`: tables.md, tables.tex, radar.png and bars.png."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from benchmarks.tables.plots import draw_bars, draw_radar
from benchmarks.tables.render import latex, markdown
from benchmarks.tables.results import PUBLISHED, published_tables, read_results
from safeguard_sdk.cli.printing import readable_errors
from safeguard_sdk.durable import write_durably


def main(
    results: Annotated[list[str] | None, typer.Argument(
        metavar="[LABEL=]RESULT…", help="metrics.json of benchmarks.quality or benchmarks.general, or its folder.",
    )] = None,
    out: Annotated[Path, typer.Option(file_okay=False, help="Folder for the tables and pictures.")] = ...,
) -> None:
    """Write the paper's tables with our figures beside the published ones, and "not run" where nothing was run.

    Example: python -m benchmarks.tables runs/nano-unsafebench runs/nano-safeeditbench --out tables
    """
    with readable_errors():
        figures = read_results(results or [])
        tables = {table.name: table for table in published_tables()}
        out.mkdir(parents=True, exist_ok=True)
        head = f"Published figures: arXiv 2603.01228, as {PUBLISHED.name} has them; per cent.\n"
        pages = {"tables.md": "\n".join([head, *(markdown(table, figures) for table in tables.values())]),
                 "tables.tex": "\n".join(latex(table, figures) for table in tables.values())}
        for name, page in pages.items():
            write_durably(out / name, page.encode())
        draw_radar(tables["table-4"], figures, out / "radar.png")
        draw_bars(tables["table-6"], figures, out / "bars.png")
        typer.echo(out / "tables.md")


if __name__ == "__main__":
    typer.run(main)
