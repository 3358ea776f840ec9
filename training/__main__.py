"""`python -m training COMMAND`: the way from photos to checkpoints."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

app = typer.Typer(no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False)


@app.callback()
def training() -> None:
    """Train guards; run from a clone."""


@app.command()
def nano(
    photos: Annotated[Path, typer.Argument(exists=True, file_okay=False, help="Folder with an index.csv.")],
    out: Annotated[Path, typer.Option(file_okay=False, help="Folder for checkpoints and log; run again to go on.")] =
        Path("runs/nano"),
    recipe: Annotated[Path | None, typer.Option(exists=True, dir_okay=False, help="Recipe in YAML.")] = None,
    start: Annotated[Path | None, typer.Option(exists=True, file_okay=False,
                                               help="Bundle to train further; SmolLM2 without it.")] = None,
) -> None:
    """Train the embedded model on labelled photos.

    Example: python -m training nano ../shared/data/photos --out runs/nano
    """
    from training.nano.train import RECIPE, Recipe, train
    train(photos, out, Recipe.read(recipe or RECIPE), start)


@app.command()
def exam(
    photos: Annotated[Path, typer.Argument(exists=True, file_okay=False, help="Folder with an index.csv.")],
    bundle: Annotated[Path, typer.Option(exists=True, file_okay=False, help="The bundle to examine.")],
    assets: Annotated[Path, typer.Option(file_okay=False, help="Folder for word lists.")] = Path("runs/assets"),
) -> None:
    """Examine a bundle on photos, concepts and wordings that training has not seen.

    Example: python -m training exam ../shared/data/photos --bundle safeguard_sdk/nano
    """
    from training.nano.examiner import examine
    typer.echo(examine(photos, assets, bundle))


app()
