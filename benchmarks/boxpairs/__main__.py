"""`python -m benchmarks.boxpairs PHOTOS --out OUT`: make the pairs, and judge them with guards."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from benchmarks.boxpairs.build import build_table
from benchmarks.boxpairs.table import as_table
from benchmarks.document import put_into
from safeguard_sdk.cli.printing import readable_errors

SECTION = """## Pairs from labelled photos

```
{command}
```

[safeeditbench.md](safeeditbench.md) says where the truth comes from and what these pairs cannot show. Shares × 100, with 95 % intervals over pairs.

{table}"""  # noqa: E501, Markdown


def main(
    photos: Annotated[Path, typer.Argument(exists=True, file_okay=False, help="Folder with an index.csv and boxes.")],
    out: Annotated[Path, typer.Option(file_okay=False, help="Folder for pairs, table and predictions; run again to go "
                                      "on.")],
    system: Annotated[list[str] | None, typer.Option(help="A system of benchmarks.quality: nano, bundle:DIR, nudenet, "
                                                     "open-nsfw …; may be given several times.")] = None,
    each: Annotated[int | None, typer.Option(min=1, help="At most so many photos of each thing, for a try.")] = None,
    into: Annotated[Path | None, typer.Option(dir_okay=False, help="Document that the table is put into.")] = None,
) -> None:
    """Make pairs by painting over boxes, with truth by labels under the packaged policies L1 to L5; score systems.

    OUT is a table of the published schema: every command of benchmarks.safeeditbench and benchmarks.quality reads it.
    Exit status: 0 done, 2 it could not go on.
    Example: python -m benchmarks.boxpairs photos --out runs/boxpairs --system nano --into docs/quality.md
    """
    console = Console(stderr=True)
    with readable_errors():
        rows, rejected = build_table(photos, out, each)
        console.print(f"{len({row.pair for row in rows})} pairs, {len(rows)} rows; rejected: "
                      f"{dict(Counter(pair.reason for pair in rejected)) or 'none'}", highlight=False)
        results = {name: _scores(name, out) for name in system or ()}
    if results:
        text = as_table(results)
        console.print(text, markup=False, highlight=False, soft_wrap=True)
        if into is not None:
            command = " ".join(["python -m benchmarks.boxpairs photos --out runs/boxpairs",
                                *(f"--system {name}" for name in results), *([f"--each {each}"] if each else [])])
            put_into(into, "boxpairs", SECTION.format(command=command, table=text))
    typer.echo(json.dumps(results))


def _scores(system: str, out: Path) -> dict:
    from benchmarks.quality.run import run
    return run("safeeditbench", system, out, out / "systems" / "".join(c if c.isalnum() else "-" for c in system))


if __name__ == "__main__":
    typer.run(main)
