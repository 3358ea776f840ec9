"""The photos to caption: a folder with an index.csv, a folder of image files, or a JSONL file of given captions."""

from __future__ import annotations

import json
import unicodedata
from dataclasses import dataclass
from pathlib import Path

from safeguard_sdk.scan.names import kind_of_name
from training.errors import TrainingError
from training.photos import read_csv


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
        files = sorted(path for path in source.rglob("*") if kind_of_name(path.name) == "image" and path.is_file())
        items = [Item(path.relative_to(source).as_posix(), path) for path in files]
    if not items:
        raise TrainingError(f"{source}: holds no photos; give a folder of image files, one with an index.csv, or a "
                            "JSONL file with the fields image and answer")
    seen: set[str] = set()
    for item in items:
        if item.path in seen:
            raise TrainingError(f"{source}: lists {item.path!r} twice; delete one of the rows")
        if any(unicodedata.category(character) in ("Cc", "Cs") for character in item.path):
            raise TrainingError(f"{source}: the name {item.path!a} has control characters or is no UTF-8 and cannot "
                                "stand in a table; rename the file")
        seen.add(item.path)
    return items


def _from_index(folder: Path) -> list[Item]:
    rows = read_csv(folder / "index.csv", ("path",), "see training/photos.py for its columns")
    for place, row in rows:
        if not row["path"]:
            raise TrainingError(f"{place}: path is empty; name a photo or delete the line")
    return [Item(row["path"], folder / row["path"]) for _, row in rows]


def _from_jsonl(source: Path) -> list[Item]:
    try:
        lines = source.read_text(encoding="utf-8-sig").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise TrainingError(f"{source}: cannot be read as text in UTF-8 ({error}); write it anew") from error
    return [_item(source, number, line) for number, line in enumerate(lines, start=1) if line.strip()]


def _item(source: Path, number: int, line: str) -> Item:
    try:
        row = json.loads(line)
        path, caption = row["image"], row["answer"].strip()
        caption.encode()
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise TrainingError(f"{source}, line {number}: is no JSON object with the texts image and answer "
                            f"({type(error).__name__}: {error}); see docs/recaption.md") from error
    if not isinstance(path, str) or not path or not caption:
        raise TrainingError(f"{source}, line {number}: image is no text, or it or answer is empty; delete the line or "
                            "mend it")
    return Item(path, source.parent / path, caption)
