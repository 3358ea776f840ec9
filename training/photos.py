"""Labelled photos: a folder with an `index.csv`, and the split that never moves.

`index.csv` has the columns path, source, labels (;-joined), caption, boxes (JSON list of [label, [cx, cy, w, h]],
relative), licence. A label says what is there; a missing label does not say that it is absent.
"""

from __future__ import annotations

import csv
import hashlib
import json
from dataclasses import dataclass
from pathlib import Path

TEST_SHARE, VALIDATION_SHARE = 0.10, 0.04  # of the photos, by hash of their bytes


@dataclass(frozen=True, slots=True)
class Photo:
    path: Path
    source: str
    labels: frozenset[str]
    boxes: tuple[tuple[str, tuple[float, float, float, float]], ...]  # (label, (cx, cy, w, h)), relative
    sha256: str

    @property
    def split(self) -> str:
        return split_of(self.sha256)


def split_of(sha256: str) -> str:
    """"train", "validation" or "test", by the hash of the file alone: the same in every run, whatever the folder is
    called, and the same for two copies of one photo."""
    place = int(sha256[:8], 16) / 2**32
    return "test" if place < TEST_SHARE else "validation" if place < TEST_SHARE + VALIDATION_SHARE else "train"


def read_photos(folder: Path) -> list[Photo]:
    """All photos of a folder in the order of its index; a row without a file is an error, never left out."""
    index = folder / "index.csv"
    if not index.is_file():
        raise FileNotFoundError(f"{index}: no such file; a folder of photos needs an index.csv with the columns path, "
                                "source, labels, boxes (see training/photos.py)")
    with open(index, newline="", encoding="utf-8") as file:
        return [_photo(folder, row) for row in csv.DictReader(file)]


def _photo(folder: Path, row: dict[str, str]) -> Photo:
    path = folder / row["path"]
    boxes = json.loads(row["boxes"]) if row.get("boxes") else []
    return Photo(
        path=path,
        source=row["source"],
        labels=frozenset(label.strip() for label in row["labels"].split(";") if label.strip()),
        boxes=tuple((label, tuple(box)) for label, box in boxes),
        sha256=hashlib.sha256(path.read_bytes()).hexdigest(),
    )
