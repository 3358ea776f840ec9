"""`python -m training COMMAND`: the way from photos to checkpoints."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Literal

import typer

from safeguard_sdk.cli.printing import readable_errors

Split = Literal["train", "validation", "test", "all"]
Method = Literal["platt", "temperature", "isotonic", "keep"]
TRAIN_PACKAGES = ("torch", "transformers", "trl", "peft", "accelerate", "datasets", "inflect")  # of the extra `train`
LEAST_PHOTOS = 20  # with labels, of each split that a command needs; fewer teach and tell nothing
DataOption = Annotated[list[str] | None, typer.Option(
    "--data", metavar="NAME=FOLDER", help="A data set and where it is; may be given again. See docs/training.md.")]
DryRunOption = Annotated[bool, typer.Option("--dry-run", help="Check the data, print the plan, load no weights.")]

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
                                               help="Bundle, or OUT/sft/model of stage 1, to train further; SmolLM2 "
                                               "without it.")] = None,
) -> None:
    """Train the embedded model on labelled photos.

    Example: python -m training nano ../shared/data/photos --out runs/nano
    """
    with _readable_errors():
        from training.nano.train import RECIPE, Recipe, train
        from training.photos import require_photos
        require_photos(photos, ("train", "validation"), LEAST_PHOTOS)
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
    with _readable_errors():
        from training.nano.examiner import examine
        from training.photos import require_photos
        require_photos(photos, ("test",), LEAST_PHOTOS)
        typer.echo(examine(photos, assets, bundle))


@app.command()
def levels(
    photos: Annotated[Path, typer.Argument(exists=True, file_okay=False, help="Folder with an index.csv.")],
    start: Annotated[Path, typer.Option(exists=True, file_okay=False, help="The bundle of nano that every run starts "
                                        "from.")],
    out: Annotated[Path, typer.Option(file_okay=False, help="Folder for results and plot; run again to go on.")] =
        Path("runs/levels"),
    level: Annotated[list[str] | None, typer.Option(help="To train on; may be given again. Default: L3.")] = None,
) -> None:
    """The paper's Table 3 at nano's scale: one policy learnt by supervision or by rewards, five judged.

    Example: python -m training levels ../shared/data/photos --start safeguard_sdk/nano
    """
    with _readable_errors():
        from training.nano.levels.table import run_levels
        from training.photos import require_photos
        require_photos(photos, ("train", "validation", "test"), LEAST_PHOTOS)
        typer.echo(run_levels(photos, out, start, level or ("L3",)))


@app.command()
def recaption(
    photos: Annotated[Path, typer.Argument(exists=True, help="Folder of photos, or a JSONL file of captions.")],
    rewriter: Annotated[str, typer.Option(metavar="MODEL[@URL]", help="Puts the unsafe details back.")],
    captioner: Annotated[str | None, typer.Option(metavar="MODEL[@URL]", help="Writes the neutral captions; not for "
                                                  "a JSONL file.")] = None,
    out: Annotated[Path, typer.Option(file_okay=False, help="Folder for the captions; run again to go on.")] =
        Path("runs/recaption"),
    concurrency: Annotated[int, typer.Option(min=1, help="Questions under way at once, for a model at a URL.")] = 8,
    seed: Annotated[int, typer.Option(help="Of the answers that are drawn.")] = 0,
    retry_failed: Annotated[bool, typer.Option("--retry-failed", help="Ask again for the rows that failed.")] = False,
) -> None:
    """Caption photos, and put back the unsafe details that a careful captioner leaves out.

    A model is a folder or name for transformers, or NAME@URL of an OpenAI-compatible endpoint.
    Exit status: 0 every photo has an answer, 1 some rows failed, 2 it could not go on.
    Example: python -m training recaption photos --captioner qwen@http://127.0.0.1:8000/v1 --rewriter models/gemma
    """
    with _readable_errors():
        from training.recaption.pipeline import recaption as run
        counts = run(photos, captioner, rewriter, out, concurrency=concurrency, seed=seed, retry_failed=retry_failed)
        typer.echo(json.dumps(counts))
        raise typer.Exit(1 if counts["failed"] else 0)


@app.command()
def calibrate(
    bundle: Annotated[Path, typer.Argument(exists=True, file_okay=False, help="The bundle; its manifest is changed.")],
    rows: Annotated[Path, typer.Argument(exists=True, help="CSV or Parquet of path, policy, label and perhaps rule; "
                                         "or a folder of photos with an index.csv, for --policy.")],
    policy: Annotated[list[str] | None, typer.Option(metavar="FILE", help="A policy to judge the photos of a folder "
                                                     "by; may be given several times.")] = None,
    split: Annotated[Split, typer.Option(help="Which photos of a folder.")] = "validation",
    method: Annotated[Method, typer.Option(help="How logits become scores; keep chooses thresholds only.")] = "platt",
    per_rule: Annotated[bool, typer.Option("--per-rule", help="One for each rule with enough rows; that of all rules "
                                           "stays.")] = False,
    max_fpr: Annotated[float | None, typer.Option(help="Wished: of safe images, at most this share unsafe.")] = None,
    min_precision: Annotated[float | None, typer.Option(help="Wished: of those called unsafe, at least this share "
                                                        "is.")] = None,
    min_recall: Annotated[float | None, typer.Option(help="Wished: of unsafe images, this share found.")] = None,
    plot: Annotated[Path | None, typer.Option(dir_okay=False, help="Reliability plot, .png or .svg.")] = None,
    policies_out: Annotated[Path | None, typer.Option(file_okay=False, help="Folder for the policies with the "
                                                      "thresholds.")] = None,
    assets: Annotated[Path, typer.Option(file_okay=False, help="Folder for word lists.")] = Path("runs/assets"),
) -> None:
    """Make a bundle's scores probabilities on held-out rows, and find thresholds for a wish.

    Exit status: 0 the bundle is calibrated, 2 it is as it was.
    Example: python -m training calibrate runs/bundle rows.csv --max-fpr 0.01 --plot reliability.svg
    """
    with _readable_errors():
        from training.calibration.calibrate import calibrate as run
        from training.calibration.thresholds import Wish
        entry = run(bundle, rows, policies=policy or (), split=split, assets=assets, method=method, per_rule=per_rule,
                    wish=Wish(max_fpr, min_precision, min_recall), plot=plot, policies_out=policies_out)
        typer.echo(json.dumps(entry, indent=1))


@app.command()
def sft(
    recipe: Annotated[Path, typer.Argument(exists=True, dir_okay=False, help="Recipe in YAML.")],
    out: Annotated[Path, typer.Option(file_okay=False, help="Folder of the run; run again to go on.")],
    captions: Annotated[Path | None, typer.Option(exists=True, help="Captions: the folder OUT/recaptions of "
                                                  "recaption, or JSONL.")] = None,
    photos: Annotated[Path | None, typer.Option(exists=True, file_okay=False, help="What their paths are relative to; "
                                                "for JSONL its own folder by default.")] = None,
    classify: Annotated[bool, typer.Option("--classify", help="The ablation: verdicts under one policy, of --data, in "
                                           "place of captions.")] = False,
    data: DataOption = None,
    policy: Annotated[str | None, typer.Option(help="With --classify: which policy of the data.")] = None,
    dry_run: DryRunOption = False,
) -> None:
    """Stage 1: learn to see. Captions only, no verdict.

    Writes OUT/sft/model, which stage 2 starts with.
    Example: python -m training sft training/recipes/7b-full.yaml --captions runs/recaption/recaptions --photos photos
    --out runs/7b-full
    """
    with _readable_errors():
        from training.vlm.sft import run
        run(recipe, out, captions, photos, classify, _folders(data), policy, dry_run)


@app.command()
def grpo(
    recipe: Annotated[Path, typer.Argument(exists=True, dir_okay=False, help="Recipe in YAML.")],
    out: Annotated[Path, typer.Option(file_okay=False, help="Folder of the run; run again to go on.")],
    data: DataOption = None,
    dry_run: DryRunOption = False,
) -> None:
    """Stage 2: learn to judge by policies, from rewards.

    Starts with OUT/sft/model if the recipe has a stage 1, and writes OUT/grpo/model. Without --data the data sets of
    the recipe are read from data/NAME.
    Example: python -m training grpo training/recipes/7b-full.yaml --data llavaguard=data/llavaguard --out runs/7b-full
    """
    with _readable_errors():
        from training.vlm.grpo import run
        run(recipe, out, _folders(data), dry_run)


def _folders(data: list[str] | None) -> list[tuple[str, Path]]:
    from training.datasets import DATASETS
    from training.errors import TrainingError
    folders = []
    for item in data or ():
        name, equals, folder = item.partition("=")
        if name not in DATASETS or not equals or not folder:
            raise TrainingError(f"--data {item}: must be NAME=FOLDER with a NAME of {', '.join(DATASETS)}")
        if (name, Path(folder)) in folders:
            raise TrainingError(f"--data {item}: is given twice; leave one out")
        folders.append((name, Path(folder)))
    return folders


@contextmanager
def _readable_errors() -> Iterator[None]:
    """As those of the SDK's command, and packages of the extra `train` that are missing."""
    from training.errors import TrainingError
    with readable_errors():
        try:
            yield
        except ModuleNotFoundError as error:
            if error.name not in TRAIN_PACKAGES:
                raise
            raise TrainingError(f"this command needs the package {error.name}, which is not installed; install the "
                                "extra train: pip install -e '.[cpu,train]'") from error


if __name__ == "__main__":
    app()
