"""Reviews as labelled photos: an index.csv that training and calibration read, with the policy beside it.

    OUT_DIR/review/index.csv      path, policy, broken, label: one line for each photo that a reviewer is sure of
    OUT_DIR/review/policy.yaml    the policy of the scan
    OUT_DIR/review/photos/        photos that were members of archives, named by their sha256

`training.datasets.folder` reads path, policy and broken; `training.calibration` reads path, policy and label.
"""

from __future__ import annotations

import csv
import hashlib
import io
from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from safeguard_sdk.durable import write_durably
from safeguard_sdk.errors import ImageError, ScanError
from safeguard_sdk.image.files import printable
from safeguard_sdk.scan.names import kind_of_name
from safeguard_sdk.scan.rows import Row, item_name, record_of
from safeguard_sdk.scan.sources import Sources
from safeguard_sdk.serve.review_pictures import local_path, unchanged_bytes
from safeguard_sdk.serve.review_rows import ScanRows

INDEX, POLICY, PHOTOS = "index.csv", "policy.yaml", "photos"
COLUMNS = ("path", "policy", "broken", "label", "decision", "id")


@dataclass(frozen=True, slots=True)
class Export:
    """What was written, and what was not."""

    path: Path
    photos: int
    unsure: int           # reviewed, and the reviewer could not tell
    left_out: list[str]   # one line for each photo: why, and how to mend it


def export_reviews(rows: ScanRows, changed: Iterable[Row], folder: Path) -> Export:
    """Write what reviewers were sure of; each photo once, whatever names it has. Raises OSError.

    changed  rows whose decisions were about another content of their file
    """
    decided = list(rows.decided())
    sure = [row for row in decided if row["decision"] != "unsure"]
    left_out = [f"{item_name(row)}: has changed since it was reviewed; review it again" for row in changed]
    photos = dict(_photos(list(_one_of_each(sure, left_out)), folder, left_out))
    lines = io.StringIO(newline="")
    table = csv.writer(lines, lineterminator="\n")
    table.writerow(COLUMNS)
    for row in sure:
        if (path := photos.get(row["id"])) is not None:
            table.writerow((path, POLICY, ";".join(row["broken"]), "unsafe" if row["broken"] else "safe",
                            row["decision"], row["id"]))
    write_durably(folder / POLICY, rows.policy.to_yaml().encode())
    write_durably(folder / INDEX, lines.getvalue().encode())
    return Export(folder / INDEX, len(photos), len(decided) - len(sure), left_out)


def _one_of_each(sure: Iterable[Row], left_out: list[str]) -> Iterator[Row]:
    """The first row of each content; none where reviewers of equal files disagree, or training would see another
    picture than they did."""
    copies: dict[str, list[Row]] = defaultdict(list)
    for row in sure:
        copies[row["sha256"]].append(row)
    for first, *others in copies.values():
        record = record_of(first)
        if any(other["broken"] != first["broken"] for other in others):
            names = ", ".join(item_name(row) for row in (first, *others))
            left_out.append(f"{names}: are the same photo, reviewed in different ways; review them again")
        elif kind_of_name(record.member or record.path) == "video":
            left_out.append(f"{item_name(first)}: is a video; save the frame that counts as a photo")
        elif first["frame"] and first["broken"]:
            left_out.append(f"{item_name(first)}: its frame {first['frame']} decided, and only the first would be "
                            "read; save that frame as a photo")
        else:
            yield first


def _photos(rows: list[Row], folder: Path, left_out: list[str]) -> Iterator[tuple[str, str]]:
    """(id, path for the index) of every photo that is still what was judged."""
    within: dict[str, list[Row]] = defaultdict(list)
    for row in rows:
        path = local_path(row)
        if path is None:
            within[record_of(row).path].append(row)
            continue
        try:
            data = unchanged_bytes(row)
        except ImageError as error:
            left_out.append(str(error))
            continue
        absolute = str(path.absolute())
        yield row["id"], absolute if absolute.isprintable() else _kept(data, row["sha256"], folder)
    for archive, members in within.items():
        yield from _members(archive, members, folder, left_out)


def _members(archive: str, rows: list[Row], folder: Path, left_out: list[str]) -> Iterator[tuple[str, str]]:
    """Of one archive, read once from end to end."""
    wanted = {row["sha256"]: row for row in rows}
    try:
        if "://" in archive:
            raise ScanError(f"{archive}: lies elsewhere, and nothing is fetched here; copy it and scan the copy")
        for item in Sources([archive]):
            row = item.data and wanted.pop(hashlib.sha256(item.data).hexdigest(), None)
            if row:
                yield row["id"], _kept(item.data, row["sha256"], folder)
            if not wanted:
                return
        reason = f"is not in {printable(archive)} any more; bring the archive back"
    except ScanError as error:
        reason = f"cannot be taken out of its archive ({error})"
    left_out += [f"{item_name(row)}: {reason}" for row in wanted.values()]


def _kept(data: bytes, sha256: str, folder: Path) -> str:
    """Copy a photo beside the index; its path from there."""
    path = folder / PHOTOS / sha256
    path.parent.mkdir(exist_ok=True)
    if not path.exists():  # written durably: whole if it is there
        write_durably(path, data)
    return f"{PHOTOS}/{sha256}"
