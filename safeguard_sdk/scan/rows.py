"""The rows of a scan: their schema, and how they are written to a part and read back. docs/scan.md describes them."""

from __future__ import annotations

import base64
import itertools
import json
import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

from safeguard_sdk.record import Record
from safeguard_sdk.scan.item import Item, raw_name
from safeguard_sdk.scan.pdq import Pdq
from safeguard_sdk.verdict import Verdict

if TYPE_CHECKING:
    import pyarrow

    from safeguard_sdk.guard import Guard

SCHEMA = 1             # version of the columns; new ones may be added within it, none changes its meaning
BATCH_ROWS = 1024      # read back at a time
GROUP_ROWS = 4096      # of a row group in parquet
NAMES = ("path", "path_bytes", "member", "member_bytes")  # the columns of item_name
Row = dict[str, object]


@dataclass(frozen=True, slots=True)
class Hashes:
    """What a verdict comes from; failures carry it too."""

    policy_sha256: str
    bundle_sha256: str
    prompt_sha256: str

    @classmethod
    def of(cls, guard: Guard) -> Hashes:
        return cls(guard.policy.sha256, guard.bundle.sha256, guard.bundle.style.sha256)


def row_of(record: Record, identity: bytes, hashes: Hashes, size: int | None, thumbnail: bytes | None,
           pdq: Pdq | None) -> Row:
    """The row of a record. Names that are not UTF-8 are escaped as in `b"\\xe9"`, and their bytes stand beside."""
    verdict = record.verdict
    return {
        "id": identity.hex(),
        "path": _text(record.path), "path_bytes": _bytes_if_odd(record.path),
        "member": _text(record.member), "member_bytes": _bytes_if_odd(record.member),
        "sha256": record.sha256, "bytes": size,
        "label": verdict and verdict.label, "score": verdict and verdict.score, "rule": verdict and verdict.rule,
        "rules": verdict and verdict.rules, "frame": record.frame,
        "failure_kind": record.failure_kind, "failure": record.failure,
        "policy_sha256": hashes.policy_sha256, "bundle_sha256": hashes.bundle_sha256,
        "prompt_sha256": hashes.prompt_sha256,
        "thumbnail": thumbnail, "pdq": pdq and pdq.hash, "pdq_quality": pdq and pdq.quality,
    }


def record_of(row: Row) -> Record:
    """The record of a row; raises ValueError if it is none."""
    verdict = None
    if row["label"] is not None:
        verdict = Verdict(row["label"], row["score"], row["rule"], row["rules"], row["policy_sha256"],
                          row["bundle_sha256"], row["prompt_sha256"])
    return Record(_name(row, "path"), verdict, row["failure"], row["failure_kind"], _name(row, "member"),
                  row["sha256"], row["frame"])


def item_name(row: Row) -> str:
    """What messages call the row's image."""
    return Item(_name(row, "path"), _name(row, "member")).name


class Parquet:
    """Parts as parquet files, compressed with Zstandard."""

    suffix = ".parquet"

    @staticmethod
    def write(file: BinaryIO, rows: Iterable[Row], schema: pyarrow.Schema) -> None:
        """A few rows at a time in memory."""
        import pyarrow.parquet
        rows = iter(rows)
        with pyarrow.parquet.ParquetWriter(file, schema, compression="zstd") as writer:
            while some := list(itertools.islice(rows, GROUP_ROWS)):
                writer.write_table(pyarrow.Table.from_pylist(some, schema=schema))

    @staticmethod
    def read(path: Path, columns: Sequence[str] | None = None) -> Iterator[Row]:
        """All columns of the schema, if it is not said which; null those that an older version did not write."""
        import pyarrow.parquet
        columns = columns or schema().names
        with pyarrow.parquet.ParquetFile(path) as file:
            there = [name for name in columns if name in file.schema_arrow.names]
            absent = dict.fromkeys(name for name in columns if name not in there)
            for batch in file.iter_batches(BATCH_ROWS, columns=there):
                for row in rows_in(batch):
                    yield row | absent


def rows_in(batch: pyarrow.RecordBatch | pyarrow.Table) -> Iterator[Row]:
    for row in batch.to_pylist():
        if row.get("rules") is not None:
            row["rules"] = dict(row["rules"])  # pyarrow gives a map as pairs
        yield row


class JsonLines:
    """Parts as one JSON object a line; bytes are base64."""

    suffix = ".jsonl"
    _binary = ("path_bytes", "member_bytes", "thumbnail")

    @classmethod
    def write(cls, file: BinaryIO, rows: Iterable[Row], schema: pyarrow.Schema) -> None:
        binary = [name for name in cls._binary if name in schema.names]
        for row in rows:
            coded = {name: base64.b64encode(row[name]).decode() for name in binary if row[name] is not None}
            file.write((json.dumps(row | coded) + "\n").encode())

    @classmethod
    def read(cls, path: Path, columns: Sequence[str] | None = None) -> Iterator[Row]:
        columns = columns or schema().names
        binary = [name for name in cls._binary if name in columns]
        with open(path, encoding="utf-8") as file:
            for line in file:
                there = json.loads(line)
                row = {name: there.get(name) for name in columns}
                yield row | {name: base64.b64decode(row[name]) for name in binary if row[name] is not None}


FORMATS = {"parquet": Parquet, "jsonl": JsonLines}


@cache
def schema() -> pyarrow.Schema:
    import pyarrow
    text, binary = pyarrow.string(), pyarrow.binary()
    columns = [
        ("id", text), ("path", text), ("path_bytes", binary), ("member", text), ("member_bytes", binary),
        ("sha256", text), ("bytes", pyarrow.int64()),
        ("label", text), ("score", pyarrow.float64()), ("rule", text),
        ("rules", pyarrow.map_(text, pyarrow.float64())), ("frame", pyarrow.int32()),
        ("failure_kind", text), ("failure", text),
        ("policy_sha256", text), ("bundle_sha256", text), ("prompt_sha256", text),
        ("thumbnail", binary), ("pdq", text), ("pdq_quality", pyarrow.int32()),
    ]
    always = {"id", "path", "policy_sha256", "bundle_sha256", "prompt_sha256"}
    fields = [pyarrow.field(name, kind, nullable=name not in always) for name, kind in columns]
    return pyarrow.schema(fields, metadata={"safeguard.schema": str(SCHEMA)})


def _text(name: str | None) -> str | None:
    return name and raw_name(name).decode("utf-8", "backslashreplace")


def _bytes_if_odd(name: str | None) -> bytes | None:
    if name is None or _text(name) == name:
        return None
    return raw_name(name)


def _name(row: Row, column: str) -> str | None:
    raw = row[f"{column}_bytes"]
    return row[column] if raw is None else os.fsdecode(raw)
