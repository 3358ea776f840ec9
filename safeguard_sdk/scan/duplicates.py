"""Near duplicates of a scan, found at its end in the hashes of its rows: which images show the same picture.

Exact duplicates of one file are no group by themselves, but members of one. The groups depend on the rows alone, in
whatever order and in however many parts or shares they were made.
"""

from __future__ import annotations

import itertools
import sqlite3
from collections.abc import Iterator
from functools import cache
from typing import TYPE_CHECKING

import numpy as np

from safeguard_sdk.durable import open_durably
from safeguard_sdk.scan.near import groups_of
from safeguard_sdk.scan.output import ScanFolder
from safeguard_sdk.scan.pdq import LEAST_QUALITY, MOST_DISTANCE, Pdq
from safeguard_sdk.scan.rows import NAMES, Row, item_name

if TYPE_CHECKING:
    import pyarrow

INDEX = "duplicates.sqlite"
LARGEST = 20  # groups that the summary names
HASHES = ("label", "pdq", "pdq_quality")
MEMBER = ("id", *NAMES, "sha256", "bytes", "pdq")


def write_duplicates(folder: ScanFolder) -> dict:
    """Write a row for each image of a group into the folder's duplicates_file; returns what a summary tells of them.

    The largest groups come first, and in each the largest file, whose id names the group. In memory are about 200 bytes
    for each image that is compared; the rest is on the disk.
    """
    group_of, not_compared = _groups(folder)
    base = _gathered(folder, group_of)
    told = {"file": folder.duplicates_file.name, "groups": 0, "images": 0, "compared": len(group_of),
            "not_compared": not_compared, "most_distance": MOST_DISTANCE, "least_quality": LEAST_QUALITY, "largest": []}
    try:
        with open_durably(folder.duplicates_file) as file:
            folder.format.write(file, _members(base, told), schema())
    finally:
        base.close()
        (folder.path / INDEX).unlink(missing_ok=True)
    return told


def read_duplicates(folder: ScanFolder) -> Iterator[tuple[str, Iterator[Row]]]:
    """The groups in their order: the id of each, and its rows as long as the next group is not asked for."""
    rows = folder.format.read(folder.duplicates_file, schema().names)
    return itertools.groupby(rows, key=lambda row: row["group_id"])


@cache
def schema() -> pyarrow.Schema:
    """Of the rows: `group_id` is the id of the group's first image, `distance` the bits in which the hashes differ."""
    import pyarrow

    from safeguard_sdk.scan.rows import schema as of_rows
    group = [pyarrow.field("group_id", pyarrow.string(), nullable=False),
             pyarrow.field("distance", pyarrow.int32(), nullable=False)]
    return pyarrow.schema(group + [of_rows().field(name) for name in MEMBER], metadata=of_rows().metadata)


def _groups(folder: ScanFolder) -> tuple[np.ndarray, int]:
    """For each row that is compared, in order, the number of its group, -1 where it is alone; and how many images
    were judged and are not compared."""
    hashes = np.empty((sum(part.rows for part in folder.parts), 4), np.uint64)
    compared = not_compared = 0
    for row in folder.rows(HASHES):
        if _is_compared(row):
            hashes[compared] = np.frombuffer(bytes.fromhex(row["pdq"]), np.uint64)
            compared += 1
        elif row["label"] is not None:
            not_compared += 1
    hashes = hashes[:compared]
    order = np.lexsort(hashes.T)
    hashes = hashes[order]
    is_first = np.ones(compared, bool)
    is_first[1:] = (hashes[1:] != hashes[:-1]).any(axis=1)
    distinct = hashes[is_first]
    del hashes
    group_of = np.empty(compared, np.int32)
    group_of[order] = groups_of(distinct)[is_first.cumsum() - 1]
    group_of[np.bincount(group_of, minlength=1)[group_of] < 2] = -1
    return group_of, not_compared


def _is_compared(row: Row) -> bool:
    return (pdq := Pdq.of_row(row)) is not None and pdq.is_comparable


def _gathered(folder: ScanFolder, group_of: np.ndarray) -> sqlite3.Connection:
    """All rows that are not alone, on the disk."""
    (folder.path / INDEX).unlink(missing_ok=True)
    base = sqlite3.connect(folder.path / INDEX, isolation_level=None)
    base.executescript(f"""
        PRAGMA journal_mode = OFF; PRAGMA synchronous = OFF;
        CREATE TABLE member (number INTEGER, {", ".join(MEMBER)});
    """)
    compared = (row for row in folder.rows((*MEMBER, "pdq_quality")) if _is_compared(row))
    base.executemany(f"INSERT INTO member VALUES (?{', ?' * len(MEMBER)})", (
        (number, *(row[name] for name in MEMBER))
        for number, row in zip(map(int, group_of), compared, strict=True) if number >= 0))
    return base


def _members(base: sqlite3.Connection, told: dict) -> Iterator[Row]:
    """The rows of all groups with more than one content; counts them in `told`."""
    found = base.execute(f"""
        SELECT number, images, {", ".join(MEMBER)} FROM member JOIN (
            SELECT number, COUNT(*) AS images FROM member GROUP BY number HAVING COUNT(DISTINCT sha256) > 1)
        USING (number) ORDER BY images DESC, number, bytes DESC, id
    """)
    for (_, images), members in itertools.groupby(found, key=lambda one: one[:2]):
        first = None
        for member in members:
            row = dict(zip(MEMBER, member[2:], strict=True))
            if first is None:
                first = row
                told["groups"] += 1
                told["images"] += images
                if len(told["largest"]) < LARGEST:
                    told["largest"].append({"group_id": row["id"], "images": images, "first": item_name(row)})
            distance = (int(row["pdq"], 16) ^ int(first["pdq"], 16)).bit_count()
            yield {"group_id": first["id"], "distance": distance, **row}
