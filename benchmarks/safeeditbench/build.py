"""Photos and instructions → pairs of a photo and its minimal edit; run again and it goes on.

    OUT/pairs.jsonl      one line a photo: whether its edit was kept, why not, how much it changed, where all comes from
    OUT/images/          x.jpg and x_edited.jpg of the kept pairs
    OUT/rejected/        x_edited.jpg of edits that are not minimal, to look at

Both halves are written by one encoder, so that nobody can tell an edit by the traces of a format. The bytes of the
source are known by `photo_sha256`.
"""

from __future__ import annotations

import csv
import hashlib
import io
import json
from collections.abc import Iterable
from contextlib import closing
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
from PIL import Image
from rich.console import Console
from rich.progress import track

from benchmarks.errors import BenchmarkError
from benchmarks.safeeditbench.editors import EditError, Editor, Task, mask_of, open_editor
from benchmarks.safeeditbench.minimality import Change, change
from safeguard_sdk.durable import write_durably
from safeguard_sdk.errors import ImageError
from safeguard_sdk.image import decode_image, read_bytes
from training.datasets.safeedit import EDITED

TASK_COLUMNS = ("path", "instruction", "category", "boxes", "licence", "source")
SHAPE_TOLERANCE = 0.04  # of width / height: endpoints round it to shapes that they can paint; beyond it, it was cropped
MIN_SIDE = 32           # pixels
JPEG_QUALITY = 95


@dataclass(frozen=True, slots=True)
class Pair:
    """A line of pairs.jsonl."""

    name: str
    status: str          # "kept" or "rejected"
    reason: str | None   # of Change.reason, "photo", "shape", or a kind of EditError
    message: str
    photo: str           # path of the source
    photo_sha256: str    # of its bytes
    licence: str
    source: str
    category: str
    instruction: str
    boxes: tuple[tuple[float, float, float, float], ...]
    editor: str
    seed: int
    area: float | None = None      # of Change; None where there is no edit
    distance: float | None = None
    edited_size: tuple[int, int] | None = None  # width, height as the editor gave it
    original: str | None = None    # files below OUT
    edited: str | None = None
    original_sha256: str | None = None
    edited_sha256: str | None = None


def read_tasks(path: Path) -> list[Task]:
    """Tasks of a CSV with TASK_COLUMNS; paths are relative to its folder. `boxes` is a JSON list of [cx, cy, w, h],
    relative to the photo, and may be empty. Raises BenchmarkError naming the line."""
    try:
        with open(path, newline="", encoding="utf-8") as file:
            reader = csv.DictReader(file)
            missing = [column for column in TASK_COLUMNS if column not in (reader.fieldnames or ())]
            if missing:
                raise BenchmarkError(f"{path}: has no column {', '.join(missing)}; it needs {', '.join(TASK_COLUMNS)}")
            tasks = [_task(path, reader.line_num, entry) for entry in reader]
    except (OSError, UnicodeDecodeError) as error:
        raise BenchmarkError(f"{path}: cannot be read ({error}); name a CSV file of tasks") from error
    return checked_tasks(tasks, str(path))


def checked_tasks(tasks: list[Task], where: str) -> list[Task]:
    """The same tasks. Raises BenchmarkError if there are none, or names that would overwrite each other."""
    if not tasks:
        raise BenchmarkError(f"{where}: holds no task; give it a line for each photo")
    seen: dict[str, Path] = {}
    for task in tasks:
        if task.name in seen:
            raise BenchmarkError(f"{where}: {task.photo} and {seen[task.name]} would both be {task.name}.jpg; rename "
                                 "one")
        if task.name.endswith(EDITED):
            raise BenchmarkError(f"{where}: {task.photo}: names that end in {EDITED} are those of edits; rename it")
        seen[task.name] = task.photo
    return tasks


def build(tasks: list[Task], out: Path, editor: str, *, seed: int = 0, retry_rejected: bool = False) -> list[Pair]:
    """Edit every photo that has no line in pairs.jsonl yet; returns all lines, in the order of the tasks.

    A task whose photo, instruction or boxes have changed is edited anew.
    raises  BenchmarkError if no photo can be edited, ImageError if one has gone; what was done stays
    """
    out.mkdir(parents=True, exist_ok=True)
    done = {pair.name: pair for pair in read_pairs(out, missing_ok=True)}
    other = {pair.editor for pair in done.values()} - {editor}
    if other:
        raise BenchmarkError(f"{out}: was begun with the editor {min(other)}; give another --out for {editor}")
    waiting = open_tasks(tasks, done, retry_rejected)
    if waiting:
        with closing(open_editor(editor, seed)) as opened:
            for task in track(waiting, "editing", console=Console(stderr=True)):
                done[task.name] = _pair(task, opened, editor, seed, out)
                _write_pairs(done.values(), out)
    return [done[task.name] for task in tasks]


def open_tasks(tasks: list[Task], done: dict[str, Pair], retry_rejected: bool) -> list[Task]:
    """Those that have no edit yet, or another one than they ask for."""
    return [task for task in tasks if (pair := done.get(task.name)) is None
            or retry_rejected and pair.status == "rejected"
            or (pair.instruction, pair.boxes) != (task.instruction, task.boxes)
            or pair.photo_sha256 != hashlib.sha256(read_bytes(task.photo)).hexdigest()]


def read_pairs(out: Path, missing_ok: bool = False) -> list[Pair]:
    """The lines of OUT/pairs.jsonl. Raises BenchmarkError."""
    path = out / "pairs.jsonl"
    if missing_ok and not path.exists():
        return []
    try:
        lines = path.read_text(encoding="utf-8").split("\n")  # splitlines would cut at U+2028 within a text, too
        entries = [json.loads(line) for line in lines if line]
        return [Pair(**entry | {"boxes": tuple(map(tuple, entry["boxes"]))}) for entry in entries]
    except FileNotFoundError as error:
        raise BenchmarkError(f"{path}: no such file; make the pairs with `python -m benchmarks.safeeditbench build`"
                             ) from error
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise BenchmarkError(f"{path}: cannot be read as pairs ({error}); move it away to begin anew") from error


def _pair(task: Task, editor: Editor, spec: str, seed: int, out: Path) -> Pair:
    data = read_bytes(task.photo)
    pair = Pair(task.name, "rejected", None, "", str(task.photo), hashlib.sha256(data).hexdigest(), task.licence,
                task.source, task.category, task.instruction, task.boxes, spec, seed)
    try:
        photo = Image.fromarray(decode_image(data, name=str(task.photo)))
        if min(photo.size) < MIN_SIDE:
            raise EditError(f"is {photo.width} x {photo.height}; needs {MIN_SIDE} pixels a side", "photo")
        edited = editor.edit(photo, task)
    except ImageError as error:
        return replace(pair, reason="photo", message=str(error))
    except EditError as error:
        return replace(pair, reason=error.kind, message=str(error))
    pair = replace(pair, edited_size=edited.size)
    ratio = (edited.width / edited.height) / (photo.width / photo.height)
    if abs(ratio - 1) > SHAPE_TOLERANCE:
        return replace(pair, reason="shape", message=f"the edit is {edited.width} x {edited.height}, the photo "
                       f"{photo.width} x {photo.height}: it was cropped or stretched",
                       edited=_write(edited, out / "rejected", f"{task.name}{EDITED}.jpg")[0])
    if edited.size != photo.size:
        edited = edited.resize(photo.size, Image.Resampling.LANCZOS)
    found = _change(photo, edited, task)
    pair = replace(pair, area=found.area, distance=found.distance, reason=found.reason, message=found.message)
    if found.reason:
        return replace(pair, edited=_write(edited, out / "rejected", f"{task.name}{EDITED}.jpg")[0])
    original_file, original_sha256 = _write(photo, out / "images", f"{task.name}.jpg")
    edited_file, edited_sha256 = _write(edited, out / "images", f"{task.name}{EDITED}.jpg")
    return replace(pair, status="kept", original=original_file, original_sha256=original_sha256, edited=edited_file,
                   edited_sha256=edited_sha256)


def _change(photo: Image.Image, edited: Image.Image, task: Task) -> Change:
    """Where boxes are given, an edit stays inside them, whoever made it."""
    mask = mask_of(task.boxes, photo.height, photo.width) if task.boxes else None
    return change(np.asarray(photo), np.asarray(edited.convert("RGB")), mask)


def _write(picture: Image.Image, folder: Path, name: str) -> tuple[str, str]:
    """(file below OUT, SHA-256 of its bytes)."""
    buffer = io.BytesIO()
    picture.convert("RGB").save(buffer, "JPEG", quality=JPEG_QUALITY, subsampling=0)
    folder.mkdir(exist_ok=True)
    write_durably(folder / name, buffer.getvalue())
    return f"{folder.name}/{name}", hashlib.sha256(buffer.getvalue()).hexdigest()


def _write_pairs(pairs: Iterable[Pair], out: Path) -> None:
    lines = [json.dumps(asdict(pair), ensure_ascii=False) for pair in pairs]
    write_durably(out / "pairs.jsonl", ("\n".join(lines) + "\n").encode())


def _task(path: Path, number: int, entry: dict[str, str]) -> Task:
    photo = path.parent / entry["path"]
    try:
        boxes = tuple(tuple(float(value) for value in box) for box in json.loads(entry["boxes"] or "[]"))
        if any(len(box) != 4 or not 0 < box[2] <= 1 or not 0 < box[3] <= 1 for box in boxes):
            raise ValueError("a box must be four numbers in [0, 1]")
    except (ValueError, TypeError) as error:
        raise BenchmarkError(f"{path}, line {number}: boxes {entry['boxes']!r:.60} are no JSON list of [cx, cy, w, h] "
                             f"({error})") from error
    for column in ("path", "instruction", "licence", "source"):
        if not (entry[column] or "").strip():
            raise BenchmarkError(f"{path}, line {number}: {column} is empty; write it ('not stated' for an unknown "
                                 "licence)")
    try:
        read_bytes(photo)
    except ImageError as error:
        raise BenchmarkError(f"{path}, line {number}: {error}") from error
    return Task(photo.stem, photo, entry["instruction"].strip(), boxes, (entry["category"] or "").strip(),
                entry["licence"].strip(), entry["source"].strip())
