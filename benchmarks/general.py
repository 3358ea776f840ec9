"""General ability: MMMU, RealWorldQA, BLINK and MMT-Bench, asked and marked by lmms-eval or VLMEvalKit, not by us.

    python -m benchmarks.general command safeguard-vl-rl                    prints the command of lmms-eval to run
    python -m benchmarks.general read RESULTS --system safeguard-vl-rl --out runs/general-safeguard-vl-rl

RESULTS is a results file of lmms-eval (…_results.json), or the folder of a model in VLMEvalKit's outputs, with files
such as MODEL_BLINK_acc.csv. DIR/metrics.json is what `python -m benchmarks.tables` reads.
"""

from __future__ import annotations

import csv
import json
import math
import shlex
from pathlib import Path
from typing import Annotated

import typer

from benchmarks.errors import BenchmarkError
from benchmarks.quality.systems.chat import CHAT_MODELS
from safeguard_sdk.cli.printing import readable_errors
from safeguard_sdk.durable import write_durably

# Benchmark → task and metric of lmms-eval (0716c69), and data set and split of VLMEvalKit (028a6e7).
LMMS_EVAL = {"MMMU": ("mmmu_val", "mmmu_acc"), "RealWorldQA": ("realworldqa", "exact_match"),
             "BLINK": ("blink", "blink_acc"), "MMT": ("mmt_val", "accuracy")}
VLMEVALKIT = {"MMMU": ("MMMU_DEV_VAL", ("validation",)), "RealWorldQA": ("RealWorldQA", ("none",)),
              "BLINK": ("BLINK", ("val", "none")), "MMT": ("MMT-Bench_VAL", ("ALL",))}
# Which of lmms-eval's models runs a system's weights.
ADAPTERS = {"qwen2_5_vl": ("safeguard-vl-", "qwen2.5-vl-", "qwenguard-"), "qwen2_vl": ("qwen2-vl-",),
            "llava_hf": ("llava-1.6-",)}

app = typer.Typer(no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False)


@app.command()
def command(system: Annotated[str, typer.Argument(help="A chat model of docs/quality.md, or NAME:DIR.")]) -> None:
    """Print the command that lmms-eval runs a system with."""
    with readable_errors():
        typer.echo(shlex.join(lmms_eval_command(system)))


@app.command()
def read(
    results: Annotated[Path, typer.Argument(help="…_results.json of lmms-eval, or a model's folder of VLMEvalKit.")],
    system: Annotated[str, typer.Option(help="Which system was run.")],
    out: Annotated[Path, typer.Option(file_okay=False, help="Folder for metrics.json.")],
) -> None:
    """Read what lmms-eval or VLMEvalKit has measured."""
    with readable_errors():
        benchmarks = read_vlmevalkit(results) if results.is_dir() else read_lmms_eval(results)
        metrics = {"suite": "general", "system": system, "benchmarks": benchmarks,
                   "average": sum(benchmarks.values()) / len(benchmarks) if len(benchmarks) == len(LMMS_EVAL) else None}
        out.mkdir(parents=True, exist_ok=True)
        text = json.dumps(metrics, indent=1)
        write_durably(out / "metrics.json", f"{text}\n".encode())
        typer.echo(text)


def lmms_eval_command(spec: str) -> list[str]:
    """Raises BenchmarkError for a system without weights, or one that lmms-eval has no adapter for."""
    name, _, folder = spec.partition(":")
    adapter = next((adapter for adapter, starts in ADAPTERS.items() if name.startswith(starts)), None)
    if adapter is None:
        raise BenchmarkError(f"{name}: which of lmms-eval's models runs it is not known here; see `python -m lmms_eval "
                             "--help`, or serve it and take its model openai_compatible")
    model = CHAT_MODELS.get(name)
    weights = folder or (model.repo if model else None)
    if weights is None:
        raise BenchmarkError(f"{name}: its weights are not published; name a folder: {name}:DIR")
    limit = f",max_pixels={model.max_pixels}" if model and model.max_pixels else ""
    return ["python", "-m", "lmms_eval", "--model", adapter, "--model_args", f"pretrained={weights}{limit}",
            "--tasks", ",".join(task for task, _ in LMMS_EVAL.values()), "--batch_size", "1",
            "--output_path", f"runs/general-{name}"]


def read_lmms_eval(file: Path) -> dict[str, float]:
    """Shares in [0, 1] by benchmark, of those the file has. Keys are "metric,filter"; "…_stderr,filter" is not read."""
    try:
        tasks = json.loads(file.read_text(encoding="utf-8"))["results"]
        found = {name: [value for key, value in tasks[task].items() if key.partition(",")[0] == metric]
                 for name, (task, metric) in LMMS_EVAL.items() if task in tasks}
    except (OSError, UnicodeDecodeError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise BenchmarkError(f"{file}: is no results file of lmms-eval ({error!r})") from error
    for name, values in found.items():
        if len(values) != 1:
            task, metric = LMMS_EVAL[name]
            raise BenchmarkError(f"{file}: has {len(values)} values of {metric} for {task}, must have one")
    return _shares({name: values[0] for name, values in found.items()}, file, LMMS_EVAL)


def read_vlmevalkit(folder: Path) -> dict[str, float]:
    """Shares in [0, 1] by benchmark, of those whose …_acc.csv is there."""
    found = {}
    for name, (data, splits) in VLMEVALKIT.items():
        files = sorted(folder.glob(f"*_{data}_acc.csv"))
        if len(files) > 1:
            raise BenchmarkError(f"{folder}: has {len(files)} files for {data}; name the folder of one model")
        if files:
            with open(files[0], newline="", encoding="utf-8") as file:
                rows = [row for row in csv.DictReader(file) if row.get("split", "none") in splits]
            if len(rows) != 1 or "Overall" not in rows[0]:
                raise BenchmarkError(f"{files[0]}: has {len(rows)} rows of the split {' or '.join(splits)}, must have "
                                     "one, with a column Overall")
            found[name] = rows[0]["Overall"]
    return _shares(found, folder, VLMEVALKIT)


def _shares(found: dict[str, object], where: Path, known: dict) -> dict[str, float]:
    if not found:
        raise BenchmarkError(f"{where}: has no result of {', '.join(known)}")
    shares = {}
    for name, value in found.items():
        try:
            share = float(value)
        except (TypeError, ValueError) as error:
            raise BenchmarkError(f"{where}: {name} is {value!r}, no number") from error
        if not (math.isfinite(share) and 0 <= share <= 1):
            raise BenchmarkError(f"{where}: {name} is {share:g}, must be a share in [0, 1]")
        shares[name] = share
    return shares


if __name__ == "__main__":
    app()
