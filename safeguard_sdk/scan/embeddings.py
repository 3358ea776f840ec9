"""Embeddings of images that a scan has judged, kept so that another policy can be tried without reading a file."""

from __future__ import annotations

import io
import sqlite3
from collections.abc import Iterator
from pathlib import Path

from safeguard_sdk.engine import Engine
from safeguard_sdk.errors import ImageError, ScanError
from safeguard_sdk.scan.item import Item
from safeguard_sdk.scan.job import Job, Ready
from safeguard_sdk.scan.ledger import Ledger
from safeguard_sdk.scan.options import Options, Progress
from safeguard_sdk.scan.output import ScanFolder
from safeguard_sdk.scan.pdq import Pdq
from safeguard_sdk.scan.rows import record_of

BATCH_ROWS = 16  # read at a time: an embedding of a large model takes many MB


def encode_embeddings(kept: list[tuple[str, int, bytes]]) -> bytes:
    """(sha256, frame, embedding) of images → a parquet file with these columns, embeddings as the engine packs them."""
    import pyarrow.parquet
    schema = pyarrow.schema([("sha256", pyarrow.string()), ("frame", pyarrow.int32()), ("embedding", pyarrow.binary())])
    rows = [dict(zip(schema.names, one, strict=True)) for one in kept]
    buffer = io.BytesIO()
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows, schema=schema), buffer, compression="zstd")
    return buffer.getvalue()


def kept_in(file: Path) -> set[str]:
    """The sha256 of every image that the file has an embedding of."""
    import pyarrow.parquet
    return set(pyarrow.parquet.read_table(file, columns=["sha256"])["sha256"].to_pylist())


class CachedImages:
    """The rows of an earlier scan with the embeddings of their images, found by sha256 on the disk."""

    def __init__(self, source: ScanFolder, engine: Engine, index: Path, options: Options) -> None:
        settings = source.facts["settings"]
        for is_there, what, option in (
                (settings["cache_embeddings"], "embeddings", "--cache-embeddings"),
                (settings["near_duplicates"] or not options.near_duplicates, "PDQ hashes", "--near-duplicates")):
            if not is_there:
                raise ScanError(f"{source.path}: has no {what}, as it was made without {option}; scan again from the "
                                "images")
        self._source, self._engine, self._index, self._options = source, engine, index, options

    def __enter__(self) -> CachedImages:
        import pyarrow.parquet
        self._index.unlink(missing_ok=True)
        self._base = sqlite3.connect(self._index, isolation_level=None, check_same_thread=False)
        self._base.executescript("""
            PRAGMA journal_mode = OFF; PRAGMA synchronous = OFF;
            CREATE TABLE embedding (sha256 TEXT, frame INTEGER, packed BLOB, PRIMARY KEY (sha256, frame)) WITHOUT ROWID;
        """)
        for part in self._source.parts:
            with pyarrow.parquet.ParquetFile(self._source.embeddings_file(part)) as file:
                for batch in file.iter_batches(BATCH_ROWS):
                    rows = zip(*(column.to_pylist() for column in batch.columns), strict=True)
                    self._base.executemany("INSERT OR IGNORE INTO embedding VALUES (?, ?, ?)", rows)
        return self

    def __exit__(self, *_: object) -> None:
        self._base.close()
        self._index.unlink(missing_ok=True)

    def ready(self, ledger: Ledger[Job], progress: Progress) -> Iterator[Ready]:
        """Every row that the ledger does not know yet, ready for the engine. Raises ScanError if an embedding of a row
        with a verdict is missing."""
        for row in self._source.rows():
            record, identity = record_of(row), bytes.fromhex(row["id"])
            job = Job(Item(record.path, record.member), identity, row["sha256"], row["bytes"])
            progress.found += 1
            if not ledger.claim_again(identity):
                continue
            if record.failure is not None:
                job.item = Item(record.path, record.member, failure=ImageError(record.failure, record.failure_kind))
                yield Ready(job, (), 0)
                continue
            found = self._base.execute("SELECT frame, packed FROM embedding WHERE sha256 = ? ORDER BY frame",
                                       (row["sha256"],)).fetchall()
            if not found:
                raise ScanError(f"{self._source.path}: has no embedding of {job.item.name}; finish that scan first")
            yield Ready(job, tuple(frame for frame, _ in found), sum(len(packed) for _, packed in found),
                        embeddings=[self._engine.unpack(packed) for _, packed in found],
                        pdq=Pdq.of_row(row) if self._options.near_duplicates else None)
