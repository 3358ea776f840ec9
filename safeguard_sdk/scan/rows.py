"""The rows of a scan: their schema, and how they are written to a part and read back. docs/scan.md describes them."""

from __future__ import annotations

import base64
import io
import json
import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from safeguard_sdk.record import Record
from safeguard_sdk.scan.item import Item, raw_name
from safeguard_sdk.verdict import Verdict

if TYPE_CHECKING:
    import pyarrow

    from safeguard_sdk.guard import Guard

SCHEMA = 1             # version of the columns; new ones may be added within it, none changes its meaning
BATCH_ROWS = 1024      # read back at a time
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


def row_of(record: Record, identity: bytes, hashes: Hashes, size: int | None, thumbnail: bytes | None) -> Row:
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
        "thumbnail": thumbnail,
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
    def encode(rows: list[Row]) -> bytes:
        import pyarrow.parquet
        table = pyarrow.Table.from_pylist(rows, schema=schema())
        buffer = io.BytesIO()
        pyarrow.parquet.write_table(table, buffer, compression="zstd")
        return buffer.getvalue()

    @staticmethod
    def read(path: Path, columns: Iterable[str] | None = None) -> Iterator[Row]:
        import pyarrow.parquet
        with pyarrow.parquet.ParquetFile(path) as file:
            for batch in file.iter_batches(BATCH_ROWS, columns=None if columns is None else list(columns)):
                yield from rows_in(batch)


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
    def encode(cls, rows: list[Row]) -> bytes:
        lines = []
        for row in rows:
            coded = {name: base64.b64encode(row[name]).decode() for name in cls._binary if row[name] is not None}
            lines.append(json.dumps(row | coded) + "\n")
        return "".join(lines).encode()

    @classmethod
    def read(cls, path: Path, columns: Iterable[str] | None = None) -> Iterator[Row]:
        wanted = None if columns is None else set(columns)
        binary = [name for name in cls._binary if wanted is None or name in wanted]
        with open(path, encoding="utf-8") as file:
            for line in file:
                row = json.loads(line)
                if wanted is not None:
                    row = {name: row[name] for name in wanted}
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
        ("thumbnail", binary),
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
