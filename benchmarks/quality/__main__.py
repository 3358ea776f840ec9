"""`python -m benchmarks.quality`: one guard over one suite. Run it again to go on; docs/quality.md has the systems."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.progress import Progress

from benchmarks.quality.run import run
from benchmarks.quality.suites import SUITES
from safeguard_sdk.cli.printing import readable_errors


def main(
    suite: Annotated[str, typer.Option(help=f"One of {', '.join(SUITES)}.")],
    system: Annotated[str, typer.Option(help="nano, bundle:DIR, NAME, NAME:DIR or NAME@URL.")],
    data: Annotated[Path, typer.Option(file_okay=False, help="Folder of the suite's data, as they are published.")],
    out: Annotated[Path, typer.Option(file_okay=False, help="Folder for predictions and marks; run again to go on.")],
) -> None:
    """Ask a guard about every case of a suite and mark its answers.

    Exit status: 0 every case has an answer, 1 some failed, 2 the run could not go on.

    Example: python -m benchmarks.quality --suite unsafebench --system nano --data data/unsafebench --out runs/nano-ub
    """
    with readable_errors():
        console = Console(stderr=True)
        with Progress(console=console, transient=True, disable=not console.is_terminal) as progress:
            task = progress.add_task(f"{system} on {suite}", total=None)
            metrics = run(suite, system, data, out,
                          lambda done, of: progress.update(task, completed=done, total=of))
        typer.echo(json.dumps(metrics, indent=1, ensure_ascii=False))
    raise typer.Exit(1 if metrics["failed"] else 0)


if __name__ == "__main__":
    typer.run(main)
