"""The photos to caption: a folder with an index.csv, a folder of image files, or a JSONL file of given captions."""

from __future__ import annotations

import csv
import json
from dataclasses import dataclass
from pathlib import Path

from training.errors import TrainingError

SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".webp", ".gif", ".bmp", ".tif", ".tiff", ".avif", ".heic"})


@dataclass(frozen=True)
class Item:
    path: str                  # names the photo in the table, relative to its folder, with forward slashes
    file: Path
    caption: str | None = None  # given captions only


def read_items(source: Path) -> list[Item]:
    """All photos of a source, each once, in a stable order: that of the index or the file, else by name.

    A `.jsonl` file has the official fields: `image`, a path beside the file, and `answer`, its caption.
    raises  TrainingError if there is nothing to caption, a row is not of that form or a photo is listed twice
    """
    if source.is_file():
        items = _from_jsonl(source)
    elif (source / "index.csv").is_file():
        items = _from_index(source)
    else:
        files = sorted(path for path in source.rglob("*") if path.suffix.lower() in SUFFIXES and path.is_file())
        items = [Item(path.relative_to(source).as_posix(), path) for path in files]
    if not items:
        raise TrainingError(f"{source}: holds no photos; give a folder of image files, one with an index.csv, or a "
                            "JSONL file with the fields image and answer")
    seen: set[str] = set()
    for item in items:
        if item.path in seen:
            raise TrainingError(f"{source}: lists {item.path!r} twice; delete one of the rows")
        if not item.path.isprintable():
            raise TrainingError(f"{source}: the name {item.path!a} is no printable UTF-8 and cannot stand in a table; "
                                "rename the file")
        seen.add(item.path)
    return items


def _from_index(folder: Path) -> list[Item]:
    index = folder / "index.csv"
    try:
        with open(index, newline="", encoding="utf-8") as file:
            rows = list(csv.DictReader(file))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise TrainingError(f"{index}: cannot be read as CSV in UTF-8 ({error}); write it anew") from error
    if rows and "path" not in rows[0]:
        raise TrainingError(f"{index}: has no column path (it has {', '.join(map(str, rows[0]))}); see "
                            "training/photos.py for its columns")
    return [Item(row["path"], folder / row["path"]) for row in rows]


def _from_jsonl(source: Path) -> list[Item]:
    try:
        lines = source.read_text(encoding="utf-8").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise TrainingError(f"{source}: cannot be read as text in UTF-8 ({error}); write it anew") from error
    return [_item(source, number, line) for number, line in enumerate(lines, start=1) if line.strip()]


def _item(source: Path, number: int, line: str) -> Item:
    try:
        row = json.loads(line)
        path, caption = row["image"], row["answer"].strip()
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise TrainingError(f"{source}, line {number}: is no JSON object with the texts image and answer "
                            f"({type(error).__name__}: {error}); see docs/recaption.md") from error
    if not isinstance(path, str) or not caption:
        raise TrainingError(f"{source}, line {number}: image is no text or answer is empty; delete the line or mend it")
    return Item(path, source.parent / path, caption)
