"""The whole experiment: every trained level, method and seed from the same base, each judged on all levels.

    python -m training levels ../shared/data/photos --out runs/levels --start safeguard_sdk/nano

Writes OUT/results.jsonl, a line for each run as it ends, and goes on from it; then OUT/table.md and OUT/table.svg.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from statistics import fmean, stdev

import numpy as np
from sklearn.metrics import f1_score
from tqdm import tqdm

from safeguard_sdk.durable import write_durably
from safeguard_sdk.engine.tags import Encode
from training.assets import fetch_wordnet
from training.errors import TrainingError
from training.nano.levels.learn import EVALUATE_EVERY, METHODS, learn
from training.nano.levels.policies import Judged, Level, judged_photos, read_levels
from training.nano.reader import Reader
from training.nano.start import open_start, start_from
from training.nano.train import FURTHER, Recipe, photo_world, score, see
from training.policyflip.concepts import Concepts, Heldout
from training.wordnet import WordNet

SEEDS = (1, 2, 3)
PHOTOS = {"train": 4000, "validation": 240, "test": 400}  # at most
PHOTO_SEED = 1
BASE, ALWAYS = "base", "always unsafe"


def run_levels(photos: Path, out: Path, start: Path, trained: Sequence[str]) -> str:
    """Run what is missing of `trained` × METHODS × SEEDS, and return the table.

    trained  names of the levels to learn. Raises TrainingError for one that levels.yaml lacks.
    """
    out.mkdir(parents=True, exist_ok=True)
    start_from(start, out)
    recipe = Recipe.read(FURTHER)
    assets = out.parent / "assets"
    concepts = Concepts.read(WordNet.read(fetch_wordnet(assets)))
    levels = read_levels(concepts)
    require_levels(levels, trained)
    heldout = Heldout.read(concepts)
    sight = see(photos, out, concepts, heldout, recipe)
    judged = {split: judged_photos(levels, photo_world(sight, split, concepts, heldout, first_view=split != "train"),
                                   most, PHOTO_SEED) for split, most in PHOTOS.items()}

    def fresh() -> tuple[Reader, Encode]:
        tokenizer, reader, _ = open_start(out, assets, recipe.layers, recipe.rank)
        return reader, cache(lambda text: tokenizer.encode(text, add_special_tokens=False))

    rows = _read(out / "results.jsonl")
    if not rows:
        rows.append(_row(BASE, "", 0, [], marks(*fresh(), levels, judged["test"])))
        _write(out / "results.jsonl", rows)
    runs = [(level, method, seed) for level in levels if level.name in trained for method in METHODS for seed in SEEDS]
    done = {(row["method"], row["level"], row["seed"]) for row in rows}
    for level, method, seed in tqdm([one for one in runs if (one[1], one[0].name, one[2]) not in done]):
        reader, encode = fresh()
        accuracies = learn(reader, method, level, judged["train"], judged["validation"], encode, seed)
        rows.append(_row(method, level.name, seed, accuracies, marks(reader, encode, levels, judged["test"])))
        _write(out / "results.jsonl", rows)
    text = table(rows, levels, judged["test"])
    write_durably(out / "table.md", text.encode())
    plot(rows, levels, out / "table.svg")
    return text


def require_levels(levels: Sequence[Level], trained: Sequence[str]) -> None:
    if unknown := set(trained) - {level.name for level in levels}:
        raise TrainingError(f"--level: there is no level {', '.join(sorted(unknown))}; there are "
                            f"{', '.join(level.name for level in levels)}")


def marks(reader: Reader, encode: Encode, levels: Sequence[Level], judged: Judged) -> dict[str, float]:
    """Level → F1 of unsafe, as the paper has it; accuracy where nothing is unsafe."""
    return {level.name: mark(judged.broken[level.name],
                             score(reader, [(level.text, scene) for scene in judged.scenes], encode) > 0)
            for level in levels}


def mark(broken: Sequence[bool], called: np.ndarray) -> float:
    return float(f1_score(broken, called) if any(broken) else (~called).mean())


def table(rows: list[dict], levels: Sequence[Level], judged: Judged) -> str:
    """Markdown: mean ± standard deviation over the seeds, in percent."""
    names = [level.name for level in levels]
    lines = [f"| trained on | by | steps | {' | '.join(names)} | mean |", "|---" * (len(names) + 4) + "|"]
    always = {name: mark(broken, np.ones(len(broken), bool)) for name, broken in judged.broken.items()}
    everything = [_row(ALWAYS, "", 0, [], always), *rows]
    for level, method in dict.fromkeys((row["level"], row["method"]) for row in everything):
        same = [row for row in everything if (row["level"], row["method"]) == (level, method)]
        cells = [_spread([row["marks"][name] for row in same]) for name in names]
        steps = f"{fmean(row['steps'] for row in same):.0f}"
        mean = _spread([fmean(row["marks"][name] for name in names) for row in same])
        lines.append(f"| {level or '–'} | {method} | {steps} | {' | '.join(cells)} | {mean} |")
    return "\n".join(lines) + "\n"


def plot(rows: list[dict], levels: Sequence[Level], path: Path) -> None:
    """Marks over the levels, one panel for each trained level, a line for each method with its spread."""
    from matplotlib.figure import Figure
    names = [level.name for level in levels]
    trained = [name for name in names if any(row["level"] == name for row in rows)]
    figure = Figure(figsize=(1 + 3 * len(trained), 3.4), layout="constrained")
    for axes, level in zip(figure.subplots(1, len(trained), sharey=True, squeeze=False)[0], trained, strict=True):
        for method, where in ((BASE, ""), *((method, level) for method in METHODS)):
            found = [[row["marks"][name] for name in names] for row in rows
                     if (row["method"], row["level"]) == (method, where)]
            if found:
                axes.errorbar(names, 100 * np.mean(found, 0), 100 * np.std(found, 0, ddof=len(found) > 1), label=method,
                              marker="o", capsize=3)
        axes.set(title=f"trained on {level}", xlabel="judged on", ylim=(0, 103))
    figure.axes[0].set_ylabel("F1 of unsafe (L1: accuracy), %")
    figure.axes[-1].legend()
    figure.savefig(path)


def _row(method: str, level: str, seed: int, accuracies: list[float], marked: dict[str, float]) -> dict:
    return {"method": method, "level": level, "seed": seed, "steps": EVALUATE_EVERY * max(0, len(accuracies) - 1),
            "validation": accuracies, "marks": marked}


def _spread(values: list[float]) -> str:
    return f"{100 * fmean(values):.1f}" + (f" ± {100 * stdev(values):.1f}" if len(values) > 1 else "")


def _read(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()] if path.is_file() else []


def _write(path: Path, rows: list[dict]) -> None:
    write_durably(path, "".join(json.dumps(row) + "\n" for row in rows).encode())
