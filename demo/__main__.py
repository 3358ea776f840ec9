"""Sample photos under two opposite policies: a table here, and demo/report.html for a person.

    make demo                            or, in an environment that has the extras cpu and demo:
    python -m demo --bundle runs/bundle  with another bundle than the embedded one

The photos lie in the packages scikit-image and scikit-learn; nothing is downloaded. The page is made by report.py.
"""

from __future__ import annotations

import importlib.util
from pathlib import Path
from statistics import median
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from demo.report import Judged, Sample, write_report
from safeguard_sdk import Guard, Policy, SafeguardError

HERE = Path(__file__).parent
POLICIES = ("life", "objects")  # files in demo/policies; every sample breaks exactly one of the two
COLOURS = {"safe": "green", "review": "yellow", "unsafe": "red"}
FOLDERS = {"skimage": "data", "sklearn": "datasets/images"}
SAMPLES = (
    Sample("skimage", "chelsea.png", "a cat", breaks="objects"),
    Sample("skimage", "motorcycle_left.png", "a motorcycle", breaks="life"),
    Sample("sklearn", "flower.jpg", "a flower", breaks="objects"),
    Sample("skimage", "rocket.jpg", "a rocket", breaks="life"),
    Sample("skimage", "astronaut.png", "an astronaut", breaks="objects"),
    Sample("sklearn", "china.jpg", "a temple", breaks="life"),
    Sample("skimage", "coffee.png", "a cup of coffee", breaks="objects"),
    Sample("skimage", "coins.png", "old coins", breaks="life"),
)


def main(
    bundle: Annotated[Path | None, typer.Option(exists=True, file_okay=False, help="Bundle; default: nano.")] = None,
    out: Annotated[Path, typer.Option(dir_okay=False, help="The page to write.")] = HERE / "report.html",
) -> None:
    """Judge the sample photos under both policies of demo/policies."""
    try:
        guards = [Guard(Policy.load(HERE / "policies" / f"{name}.yaml"), bundle) for name in POLICIES]
        judged = [judge(sample, guards) for sample in SAMPLES]
    except SafeguardError as error:
        Console(stderr=True).print(f"error: {error}", style="red", markup=False, soft_wrap=True)
        raise typer.Exit(2) from error
    write_report(out, guards[0].bundle, [guard.policy for guard in guards], judged)
    console = Console()
    console.print(table(guards, judged))
    right = sum(one.is_right(name) for one in judged for name in POLICIES)
    console.print(f"{right} of {len(judged) * len(POLICIES)} verdicts are as the policies say; "
                  f"median {median(one.ms for one in judged):.0f} ms a check.")
    console.print(f"The same with the pictures: {out}", soft_wrap=True)


def judge(sample: Sample, guards: list[Guard]) -> Judged:
    """Judge one sample under every policy. Raises ImageError, also where the package does not hold the photo."""
    path = locate(sample)
    verdicts = {name: guard.check(path) for name, guard in zip(POLICIES, guards, strict=True)}
    return Judged(sample, path, verdicts, guards[0].explain(path).rationale)


def locate(sample: Sample) -> Path:
    """Where an installed package keeps the photo; the package itself is not imported."""
    spec = importlib.util.find_spec(sample.package)
    if spec is None:
        raise SafeguardError(f"the sample photos come with {sample.package}, which is not installed; run `make demo`")
    return Path(spec.origin).parent / FOLDERS[sample.package] / sample.file


def table(guards: list[Guard], judged: list[Judged]) -> Table:
    """One row a photo; a verdict that is not what the policy says is marked."""
    result = Table("photo", *(guard.policy.name for guard in guards))
    result.add_column("ms", justify="right")
    for one in judged:
        cells = []
        for name, verdict in one.verdicts.items():
            text = f"{verdict.label} {verdict.score:.2f}{f'  {verdict.rule}' if verdict.rule else ''}"
            mark = "" if one.is_right(name) else "  ✗ wrong"
            cells.append(f"[{COLOURS[verdict.label]}]{text}[/]{mark}")
        result.add_row(one.sample.shows, *cells, f"{one.ms:.0f}")
    return result


if __name__ == "__main__":
    typer.run(main)
