"""`python -m export RUN --photos DIR --out DIR`: from a checkpoint to a verified bundle."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
BITS = (4, 8, 32)


@app.command()
def export(
    run: Annotated[Path, typer.Argument(exists=True, file_okay=False, help="Folder that `training nano` wrote.")],
    photos: Annotated[Path, typer.Option(exists=True, file_okay=False, help="Labelled photos: calibration and gate.")],
    out: Annotated[Path, typer.Option(file_okay=False, help="The bundle.")],
    bits: Annotated[int, typer.Option(help="Of the linear layers: 4, 8, or 32 for fp32.")] = 4,
) -> None:
    """Turn a checkpoint into a bundle: graphs, few bits, calibration, parity gate.

    Exit status: 0 a bundle was written, 1 it failed the gate and none was written.
    Example: python -m export runs/nano --photos ../shared/data/photos --out safeguard_sdk/nano
    """
    from export.gate import ParityError
    from export.nano import export_nano
    if bits not in BITS:
        raise typer.BadParameter(f"{bits} bits: choose one of {', '.join(map(str, BITS))}", param_hint="--bits")
    try:
        manifest = export_nano(run, photos, out, bits)
    except ParityError as error:
        typer.echo(f"error: {error}", err=True)
        raise typer.Exit(1) from error
    typer.echo(json.dumps({key: manifest[key] for key in ("calibration", "parity", "quality")}, indent=1))


app()
