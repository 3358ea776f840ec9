"""Labelled photos → a table of the published schema: pairs by inpainting, truth by labels (truth.py).

Photos of the test split alone (training/photos.py), so that nano has not been trained on these files.
"""

from __future__ import annotations

import csv
from collections import defaultdict
from pathlib import Path

from benchmarks.boxpairs.truth import THINGS, Thing, thing_in
from benchmarks.errors import BenchmarkError
from benchmarks.safeeditbench.build import Pair, build, checked_tasks
from benchmarks.safeeditbench.editors import Task
from benchmarks.safeeditbench.rows import Row, write_rows
from safeguard_sdk.policy import Policy
from training.photos import Photo, read_photos

EDITOR = "inpaint"
LEVELS = ("L1", "L2", "L3", "L4", "L5")


def build_table(photos: Path, out: Path, each: int | None = None) -> tuple[list[Row], list[Pair]]:
    """Write OUT/data/test-….parquet and what `build` writes; the rows, and the pairs that were rejected.

    each    at most so many photos of each thing, for a try; None for all
    raises  BenchmarkError; what is in OUT of an earlier try goes on
    """
    try:
        found = _chosen([photo for photo in read_photos(photos) if photo.split == "test"], each)
        licences = _licences(photos)
    except (OSError, KeyError, ValueError) as error:
        raise BenchmarkError(f"{photos}: cannot be read as labelled photos ({error}); see training/photos.py"
                             ) from error
    tasks = checked_tasks([_task(photo, thing, licences) for photo, thing in found], str(photos))
    pairs = build(tasks, out, EDITOR)
    rows = [row for pair in pairs if pair.status == "kept" for row in _rows(pair, out)]
    if not rows:
        raise BenchmarkError(f"{out}: no pair was kept; see the reasons in {out / 'pairs.jsonl'}")
    write_rows(rows, out)
    return rows, [pair for pair in pairs if pair.status == "rejected"]


def _chosen(photos: list[Photo], each: int | None) -> list[tuple[Photo, Thing]]:
    by_thing: dict[str, list[tuple[Photo, Thing]]] = defaultdict(list)
    for photo in photos:
        if (thing := thing_in(photo)) is not None:
            by_thing[thing.name].append((photo, thing))
    return [one for thing in THINGS for one in by_thing[thing.name][:each]]


def _task(photo: Photo, thing: Thing, licences: dict[Path, str]) -> Task:
    boxes = tuple(box for _, box in photo.boxes)
    return Task(f"{photo.source}_{photo.path.stem}", photo.path, thing.instruction, boxes, thing.name,
                licences[photo.path], photo.source)


def _rows(pair: Pair, out: Path) -> list[Row]:
    (thing,) = (thing for thing in THINGS if thing.name == pair.category)
    rows = []
    for level in LEVELS:
        if (verdict := thing.levels.get(level)) is None:
            continue
        policy = Policy.packaged(level).canonical_text
        for file, label in ((pair.original, verdict.original), (pair.edited, verdict.edited)):
            if label is not None:
                rows.append(Row((out / file).read_bytes(), Path(file).name, label, f"Policy {level}", policy,
                                thing.name))
    return rows


def _licences(photos: Path) -> dict[Path, str]:
    with open(photos / "index.csv", newline="", encoding="utf-8") as file:
        return {photos / row["path"]: row["licence"] for row in csv.DictReader(file)}
