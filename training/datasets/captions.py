"""Captions that stage 1 trains on: what `python -m training recaption` writes, or the official file of captions.

    a folder with part-*.parquet    columns path, sha256, status, recaption; no rejected or failed rows
    a .jsonl file                   objects with image (a path) and answer (its caption), the official format
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from training.datasets.rows import photo_sha256
from training.datasets.tables import read_tables
from training.errors import TrainingError
from training.recaption.parts import STATUSES, USABLE


@dataclass(frozen=True, slots=True)
class Caption:
    image: Path
    image_sha256: str
    text: str
    source: str


def read_captions(captions: Path, photos: Path | None) -> list[Caption]:
    """All usable captions in their order. Paths are relative to `photos`; of a JSONL file, by default to its folder.

    raises  TrainingError if there are none, a photo is not there, or it is another one than was captioned
    """
    if captions.suffix == ".jsonl":
        found = _of_jsonl(captions, photos or captions.parent)
    elif photos is None:
        raise TrainingError(f"{captions}: name the folder of its photos with --photos; its paths are relative to it")
    else:
        found = _of_tables(captions, photos)
    rows = list(found)
    if not rows:
        raise TrainingError(f"{captions}: has no captions to train on; give the folder OUT/recaptions of "
                            "`python -m training recaption`, or a JSONL file with the fields image and answer")
    return rows


def _of_tables(folder: Path, photos: Path) -> Iterator[Caption]:
    for place, row in read_tables(folder, "part-*.parquet", ("path", "sha256", "status", "recaption")):
        if row["status"] not in STATUSES:
            raise TrainingError(f"{place}: its status is {row['status']!r}, none of {', '.join(STATUSES)}")
        if row["status"] in USABLE:
            if not isinstance(row["path"], str):
                raise TrainingError(f"{place}: its path is {row['path']!r:.40}, must be text")
            caption = _caption(photos / row["path"], row["recaption"], place)
            if caption.image_sha256 != row["sha256"]:
                raise TrainingError(f"{place}: {caption.image} is another file than the one that was captioned; "
                                    "caption it again")
            yield caption


def _of_jsonl(file: Path, photos: Path) -> Iterator[Caption]:
    try:
        lines = file.read_text(encoding="utf-8-sig").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise TrainingError(f"{file}: cannot be read as text in UTF-8 ({error})") from error
    for number, line in enumerate(lines, start=1):
        if line.strip():
            place = f"{file}, line {number}"
            try:
                row = json.loads(line)
                image, text = photos / row["image"], row["answer"]
            except (ValueError, KeyError, TypeError) as error:
                raise TrainingError(f"{place}: is no JSON object with the texts image and answer ({error})") from error
            yield _caption(image, text, place)


def _caption(image: Path, text: object, place: str) -> Caption:
    if not isinstance(text, str) or not text.strip():
        raise TrainingError(f"{place}: its caption is {text!r:.40}, must be text")
    return Caption(image, photo_sha256(image, place), text.strip(), place)
