"""F1 beside speed: a bundle that is faster because its verdicts are wrong is to be seen as such.

The labelled folder holds photos, `index.csv` (path, labels joined by ";", as training/photos.py reads it) and
`quality.yaml`, which says what the labels mean under each policy:

    - policy: shop.yaml            # beside it, or the name of a packaged policy
      unsafe: [gun, rifle]         # a photo with any of these labels breaks the policy
      safe: [kitchen knife, cat]   # one with any of these and none of those does not; "others": all the rest

A missing label does not say that a thing is absent, so a photo with none of the labels is no row unless "others" says
so. In place of a folder, a .csv or .parquet file of rows that are labelled one by one will do (training/calibration).
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import yaml

from benchmarks.errors import BenchmarkError
from benchmarks.speed.statistics import Estimate, share
from benchmarks.speed.systems import System
from safeguard_sdk import Guard, Policy
from safeguard_sdk.guard import prepare
from safeguard_sdk.image import decode_image
from training.calibration.rows import Row, read_rows
from training.photos import Photo, read_photos

MEANING = "quality.yaml"
BATCH = 16
RESAMPLES = 999


@dataclass(frozen=True)
class Answers:
    """Of one system, row by row."""

    unsafe: np.ndarray  # (n,) bool: called so, by the thresholds of the policy
    broken: np.ndarray  # (n,) bool: the truth
    photos: np.ndarray  # (n,) int: which photo; rows of one are resampled together


def read_labelled(source: Path) -> list[Row]:
    """Rows of a labelled folder or of a file of rows, whose photos can all be decoded.

    raises  BenchmarkError, PolicyError, TrainingError or ImageError
    """
    rows = _read_folder(source) if source.is_dir() else read_rows(source)
    for photo in dict.fromkeys(row.photo for row in rows):
        decode_image(photo)
    return rows


def quality(systems: list[System], rows: list[Row]) -> dict:
    """F1, precision and recall of "unsafe" for each system, and how many verdicts differ from the first one's."""
    found = {system.name: _answers(system, rows) for system in systems}
    first = next(iter(found.values()))
    return {"rows": len(rows), "photos": len({row.photo for row in rows}), "unsafe": int(first.broken.sum()),
            "policies": sorted({row.policy.name for row in rows}),
            "systems": {name: {**_measures(answers), "flips": share(int((answers.unsafe != first.unsafe).sum()),
                                                                    len(rows)).as_json()}
                        for name, answers in found.items()}}


def f1(unsafe: np.ndarray, broken: np.ndarray) -> np.ndarray:
    """2 · hits / (2 · hits + false alarms + misses) over the last axis; 0 where nothing is unsafe, called so or not."""
    hits = (unsafe & broken).sum(-1)
    wrong = (unsafe != broken).sum(-1)
    return 2 * hits / np.maximum(2 * hits + wrong, 1)


def _read_folder(source: Path) -> list[Row]:
    try:
        photos = read_photos(source)
        entries = yaml.safe_load((source / MEANING).read_text(encoding="utf-8"))
    except (OSError, KeyError, ValueError, yaml.YAMLError) as error:
        raise BenchmarkError(f"{source}: {' '.join(str(error).split())}; a labelled folder has an index.csv with the "
                             f"columns path, source and labels, and a {MEANING}, see docs/performance.md") from error
    if not isinstance(entries, list) or not entries:
        raise BenchmarkError(f"{source / MEANING}: must be a list of policies, each with unsafe and safe")
    return [row for number, entry in enumerate(entries, start=1)
            for row in _rows(entry, photos, source, f"{source / MEANING}, policy {number}")]


def _answers(system: System, rows: list[Row]) -> Answers:
    """Each photo is decoded and seen once; then every policy judges what was seen."""
    paths = list(dict.fromkeys(row.photo for row in rows))
    engine, geometry = system.guard.engine, system.bundle.geometry
    seen = {}
    for some in _batches(paths):
        seen |= zip(some, engine.encode([prepare(path, geometry)[0] for path in some]), strict=True)
    by_policy: dict[str, list[int]] = defaultdict(list)
    for place, row in enumerate(rows):
        by_policy[row.policy.sha256].append(place)
    unsafe = np.zeros(len(rows), bool)
    for places in by_policy.values():
        guard = Guard.on(engine, rows[places[0]].policy)
        for some in _batches(places):
            verdicts = guard.judge([seen[rows[place].photo] for place in some])
            for place, verdict in zip(some, verdicts, strict=True):
                unsafe[place] = any(verdict.rules[rule.id] >= rule.unsafe_at for rule in rows[place].rules)
    number = {path: place for place, path in enumerate(paths)}
    return Answers(unsafe, np.array([row.broken for row in rows]), np.array([number[row.photo] for row in rows]))


def _measures(answers: Answers) -> dict:
    unsafe, broken = answers.unsafe, answers.broken
    hits = int((unsafe & broken).sum())
    return {"f1": _f1_by_photo(answers).as_json(),
            "precision": share(hits, int(unsafe.sum())).as_json() if unsafe.any() else None,
            "recall": share(hits, int(broken.sum())).as_json() if broken.any() else None}


def _f1_by_photo(answers: Answers) -> Estimate:
    """F1, its interval by resampling photos."""
    value = float(f1(answers.unsafe, answers.broken))
    photos = answers.photos.max() + 1
    if photos < 2:
        return Estimate(value, None, None)
    weights = np.random.default_rng(0).multinomial(photos, np.full(photos, 1 / photos), RESAMPLES)[:, answers.photos]
    hits = weights @ (answers.unsafe & answers.broken)
    wrong = weights @ (answers.unsafe != answers.broken)
    low, high = np.percentile(2 * hits / np.maximum(2 * hits + wrong, 1), [2.5, 97.5])
    return Estimate(value, float(low), float(high))


def _rows(entry: object, photos: list[Photo], folder: Path, where: str) -> list[Row]:
    if not isinstance(entry, dict) or entry.keys() != {"policy", "unsafe", "safe"}:
        raise BenchmarkError(f"{where}: is {entry!r:.60}, must have exactly the keys policy, unsafe and safe")
    unsafe, safe = _labels(entry["unsafe"], where), entry["safe"]
    known = None if safe == "others" else _labels(safe, where)
    there = {label for photo in photos for label in photo.labels}
    if strange := (unsafe | (known or set())) - there:
        raise BenchmarkError(f"{where}: no photo has the label {', '.join(sorted(strange))}; labels are spelt as in "
                             "index.csv")
    beside = folder / str(entry["policy"])
    policy = Policy.load(beside if beside.is_file() else str(entry["policy"]))
    return [Row(photo.path, policy, policy.rules, bool(photo.labels & unsafe)) for photo in photos
            if photo.labels & unsafe or known is None or photo.labels & known]


def _labels(value: object, where: str) -> set[str]:
    if not isinstance(value, list) or not value or not all(isinstance(label, str) for label in value):
        raise BenchmarkError(f"{where}: {value!r:.60} must be a list of labels of index.csv")
    return set(value)


def _batches(things: list) -> list[list]:
    return [things[at:at + BATCH] for at in range(0, len(things), BATCH)]
