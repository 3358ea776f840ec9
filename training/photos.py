"""Labelled photos: a folder with an `index.csv`, and the split that never moves.

`index.csv` has the columns path, source, labels (;-joined), caption, boxes (JSON list of [label, [cx, cy, w, h]],
relative), licence. A label says what is there; a missing label does not say that it is absent.
"""

from __future__ import annotations

import csv
import hashlib
import json
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from training.errors import TrainingError

COLUMNS = ("path", "source", "labels")  # that an index must have
ADVICE = ("a folder of photos needs an index.csv with the columns path, source, labels, boxes (see "
          "training/photos.py)")
TEST_SHARE, VALIDATION_SHARE = 0.10, 0.04  # of the photos, by hash of their bytes


class PhotosError(TrainingError, ValueError):
    """A CSV file, or a photo that it names, that cannot be used as it is."""


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
    return [_photo(folder, row, place) for place, row in read_csv(folder / "index.csv", COLUMNS, ADVICE)]


def require_photos(folder: Path, splits: tuple[str, ...], least: int) -> None:
    """Raise PhotosError unless each of the splits has at least `least` photos with labels."""
    labelled = Counter(photo.split for photo in read_photos(folder) if photo.labels)
    for split in splits:
        if labelled[split] < least:
            raise PhotosError(f"{folder / 'index.csv'}: of the split {split} it has {labelled[split]} photos with "
                              f"labels, this needs {least} at least; add photos, their split goes by their bytes")


def read_csv(file: Path, columns: tuple[str, ...], advice: str) -> list[tuple[str, dict[str, str]]]:
    """(place for messages, row) of every line of a CSV file, in UTF-8 with or without a byte order mark.

    columns  that it must have; it may have others
    advice   what a file of this kind should be; the end of a message
    raises   PhotosError if it cannot be read, lacks a column, or a line has more or fewer cells than there are columns
    """
    try:
        with open(file, newline="", encoding="utf-8-sig") as opened:
            reader = csv.reader(opened)
            lines = [(reader.line_num, cells) for cells in reader if cells]
    except FileNotFoundError as error:
        raise PhotosError(f"{file}: no such file; {advice}") from error
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise PhotosError(f"{file}: cannot be read as CSV in UTF-8 ({error}); {advice}") from error
    names = lines[0][1] if lines else []
    if missing := [column for column in columns if column not in names]:
        found = f"has no column {', '.join(missing)} (it has {', '.join(names)})" if names else "is empty"
        raise PhotosError(f"{file}: {found}; {advice}")
    for number, cells in lines[1:]:
        if len(cells) != len(names):
            raise PhotosError(f"{file}, line {number}: has {len(cells)} cells, there are {len(names)} columns "
                              f"({', '.join(names)}); add what is missing, or put a cell with a comma in quotes")
    return [(f"{file}, line {number}", dict(zip(names, cells, strict=True))) for number, cells in lines[1:]]


def _photo(folder: Path, row: dict[str, str], place: str) -> Photo:
    path = folder / row["path"]
    try:
        digest = hashlib.sha256(path.read_bytes()).hexdigest()
    except OSError as error:
        raise PhotosError(f"{place}: {path}: cannot be read ({error.strerror}); mend the path or delete the "
                          "line") from error
    return Photo(
        path=path,
        source=row["source"],
        labels=frozenset(label.strip() for label in row["labels"].split(";") if label.strip()),
        boxes=_boxes(row.get("boxes", ""), place),
        sha256=digest,
    )


def _boxes(text: str, place: str) -> tuple[tuple[str, tuple[float, float, float, float]], ...]:
    try:
        boxes = json.loads(text) if text.strip() else []
        if not isinstance(boxes, list):
            raise ValueError("no list")
        return tuple((str(label), (float(cx), float(cy), float(w), float(h))) for label, (cx, cy, w, h) in boxes)
    except (ValueError, TypeError) as error:
        raise PhotosError(f"{place}: boxes is {text!r:.60}, must be a JSON list of [label, [cx, cy, w, h]] "
                          f"({error})") from error
