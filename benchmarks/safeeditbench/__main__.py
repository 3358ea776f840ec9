"""`python -m benchmarks.safeeditbench COMMAND`: make the benchmark, label it, check it, score guards on it."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from benchmarks.errors import BenchmarkError
from safeguard_sdk.cli.printing import readable_errors

# Of the extras `bench` and `train`.
PACKAGES = ("skimage", "scipy", "cv2", "krippendorff", "pdqhash", "fastapi", "uvicorn", "inflect")

app = typer.Typer(no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False)
stderr = Console(stderr=True)


@app.callback()
def safeeditbench() -> None:
    """SafeEditBench: photos and their minimal edits under five policies; run from a clone."""


@app.command()
def build(
    tasks: Annotated[Path, typer.Argument(exists=True, dir_okay=False, help="CSV: path, instruction, category, boxes, "
                                          "licence, source.")],
    out: Annotated[Path, typer.Option(file_okay=False, help="Folder for the pairs; run again to go on.")],
    editor: Annotated[str, typer.Option(metavar="NAME[:MODEL[@URL]]", help="folder:PATH, inpaint, diffusers:MODEL, "
                                        "openai-images:MODEL@URL or gemini:MODEL@URL.")],
    price: Annotated[float, typer.Option(min=0, help="What one edit costs, for the estimate.")] = 0.0,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what there is to do and what it costs; edit nothing."
                                          )] = False,
    retry_rejected: Annotated[bool, typer.Option("--retry-rejected", help="Edit again what was rejected.")] = False,
    seed: Annotated[int, typer.Option(help="Of editors that draw; diffusers.")] = 0,
) -> None:
    """Edit photos into pairs, and send back edits that are not minimal.

    Exit status: 0 every edit was kept, 1 some were rejected (see OUT/pairs.jsonl), 2 it could not go on.
    Example: python -m benchmarks.safeeditbench build tasks.csv --out runs/pairs --editor inpaint
    """
    with _readable_errors():
        from benchmarks.safeeditbench import build as building
        to_do = building.read_tasks(tasks)
        done = {pair.name: pair for pair in building.read_pairs(out, missing_ok=True)}
        waiting = building.open_tasks(to_do, done, retry_rejected)
        plan = {"tasks": len(to_do), "to_edit": len(waiting), "cost": round(price * len(waiting), 2)}
        if dry_run:
            typer.echo(json.dumps(plan))
            return
        if price:
            stderr.print(f"{plan['to_edit']} edits for about {plan['cost']}")
        pairs = building.build(to_do, out, editor, seed=seed, retry_rejected=retry_rejected)
        rejected = Counter(pair.reason for pair in pairs if pair.status == "rejected")
        for pair in pairs:
            if pair.status == "rejected":
                stderr.print(f"{pair.name}: {pair.reason}: {pair.message}", markup=False, highlight=False,
                             soft_wrap=True)
        typer.echo(json.dumps({"kept": len(pairs) - rejected.total(), "rejected": rejected.total(), **rejected}))
        raise typer.Exit(1 if rejected else 0)


@app.command()
def annotate(
    pairs: Annotated[Path, typer.Argument(exists=True, file_okay=False, help="Folder that build wrote.")],
    port: Annotated[int, typer.Option(min=0, max=65535, help="Of the page, on this machine only.")] = 8750,
    export: Annotated[bool, typer.Option("--export", help="Write what is settled as a table of the published schema, "
                                         "and stop.")] = False,
) -> None:
    """Label pairs on a local page; with --export, write PAIRS/data/test-00000-of-00001.parquet.

    Exit status of --export: 0 every question is settled, 1 some are left out, 2 none is settled.
    Example: python -m benchmarks.safeeditbench annotate runs/pairs
    """
    with _readable_errors():
        from benchmarks.safeeditbench.annotations import Annotations
        annotations = Annotations(pairs)
        if not export:
            from benchmarks.safeeditbench.page import serve
            stderr.print(f"http://127.0.0.1:{port} (Ctrl-C ends it; labels are kept as they are given)")
            serve(annotations, port)
            return
        path, counts = annotations.export()
        agreement = {name: asdict(one) for name, one in annotations.agreement().items()}
        typer.echo(json.dumps({"table": str(path), **counts, "agreement": agreement}))
        raise typer.Exit(1 if counts["disputed"] + counts["unanswered"] else 0)


@app.command()
def validate(
    data: Annotated[Path, typer.Argument(exists=True, help="Folder with data/test-*.parquet, or such a file.")],
    training: Annotated[Path | None, typer.Option(exists=True, file_okay=False, help="Photos that guards were trained "
                                                  "on; any of them in the data is an error.")] = None,
) -> None:
    """Check a table: pairs, labels, strictness, near duplicates, leakage.

    Exit status: 0 sound, perhaps with notes; 1 scores on it would be wrong; 2 it cannot be read.
    Example: python -m benchmarks.safeeditbench validate runs/pairs --training data/train_images
    """
    with _readable_errors():
        from benchmarks.safeeditbench.rows import read_rows
        from benchmarks.safeeditbench.validate import validate as check
        report = check(read_rows(data), training)
        for finding in report.findings:
            stderr.print(f"{'error' if finding.error else 'note'}: {finding.message}", markup=False, highlight=False,
                         soft_wrap=True)
        typer.echo(json.dumps(asdict(report)))
        raise typer.Exit(0 if report.sound else 1)


@app.command()
def score(
    predictions: Annotated[Path, typer.Argument(exists=True, dir_okay=False, help="JSONL with image_path, prediction "
                                                "and a policy; the official script writes such.")],
    data: Annotated[Path | None, typer.Option(exists=True, help="The table; without it labels and names of policies "
                                              "are those in the predictions.")] = None,
    seed: Annotated[int, typer.Option(help="Of the bootstrap.")] = 0,
) -> None:
    """Score a guard: a table for people on stderr, JSON on stdout.

    Example: python -m benchmarks.safeeditbench score guard_safeeditbench.jsonl --data data/SafeEditBench > scores.json
    """
    with _readable_errors():
        from benchmarks.safeeditbench.report import as_markdown
        from benchmarks.safeeditbench.rows import read_predictions, read_rows, rows_of
        from benchmarks.safeeditbench.score import score as scored
        answers = read_predictions(predictions)
        rows = rows_of(answers, predictions) if data is None else read_rows(data)
        scores = scored(rows, answers, seed=seed)
        stderr.print(as_markdown(scores), markup=False, highlight=False, soft_wrap=True)
        typer.echo(json.dumps(scores.as_json()))


@contextmanager
def _readable_errors() -> Iterator[None]:
    """As those of the SDK's command, and packages of the extras that are missing."""
    with readable_errors():
        try:
            yield
        except ImportError as error:
            if (error.name or "").partition(".")[0] not in PACKAGES:
                raise
            raise BenchmarkError(f"needs the package {error.name}; install it: pip install 'safeguard[train,bench]'"
                                 ) from error


if __name__ == "__main__":
    app()
