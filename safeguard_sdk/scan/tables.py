"""Tables that hold images or name them: parquet, CSV, JSONL, and lists with a path on each line."""

from __future__ import annotations

import csv
import io
import json
import os
from collections.abc import Iterable, Iterator
from typing import BinaryIO

from safeguard_sdk.errors import ScanError
from safeguard_sdk.image.files import printable
from safeguard_sdk.scan.item import URL, Item, failed

# Names of the column that is wanted, the likeliest first: those of Hugging Face, webdataset, img2dataset and plain use.
COLUMNS = ("image", "img", "jpg", "png", "webp", "image_bytes", "bytes", "content", "file_name", "image_path",
           "filename", "filepath", "file_path", "path", "file", "member")
PARQUET_ROWS = 16         # read at a time: each may be a whole photo
MAX_LINE = 1 << 20        # bytes of a line in a list, characters of one in a table of paths


def list_items(file: BinaryIO, path: str) -> Iterator[Item]:
    """A path on each line, or between NUL bytes as `find -print0` writes them, relative to the current folder.

    A pipe must be unbuffered, so that its lines are there as they come.
    """
    rest, chunk = b"", file.read(1 << 16)
    separator = b"\0" if b"\0" in chunk else b"\n"
    while chunk:
        *lines, rest = (rest + chunk).split(separator)
        for line in lines:
            yield from _line(line, separator)
        if len(rest) > MAX_LINE:
            yield failed(path, None, f"has a line of over {MAX_LINE} bytes, which is no list of paths; name another "
                                     "file", "unreadable")
            return
        chunk = file.read(1 << 16)
    yield from _line(rest, separator)


def _line(line: bytes, separator: bytes) -> Iterator[Item]:
    if separator == b"\n":
        line = line.removesuffix(b"\r")
    if line:
        yield Item(os.fsdecode(line))


def table_items(file: BinaryIO, path: str, column: str | None) -> Iterator[Item]:
    """Paths in a column of a CSV, TSV or JSONL file, relative to the folder of the file.

    Raises ScanError where there is no such column. Each line of JSON has columns of its own: one without that which
    is named, or which the first has, is a failure.
    """
    suffix = os.path.splitext(path)[1].lower()
    with io.TextIOWrapper(file, encoding="utf-8-sig", errors="surrogateescape", newline="") as text:
        lines = _lines(text)
        rows = _json_rows(lines, path) if suffix in (".jsonl", ".ndjson") else _csv_rows(
            lines, path, "\t" if suffix == ".tsv" else ",", column)
        try:
            for number, row in rows:
                if isinstance(row, Item):
                    yield row
                    continue
                if column is None:
                    column = _column_among(row, path)
                named = row.get(column)
                if isinstance(named, str) and named:
                    yield Item(_beside(path, named))
                else:
                    yield failed(path, f"line {number}", f"has no path in the column {column!r}; write one or delete "
                                                         "the line", "not_found")
        except _LongLine:
            yield failed(path, None, f"has a line of over {MAX_LINE} characters, which is no table of paths; name "
                                     "another file", "unreadable")


class _LongLine(Exception):
    """A line of over MAX_LINE characters."""


def _lines(text: io.TextIOWrapper) -> Iterator[str]:
    while line := text.readline(MAX_LINE + 1):
        if len(line) > MAX_LINE:
            raise _LongLine
        yield line


def parquet_items(file: BinaryIO, path: str, column: str | None, named: bool) -> Iterator[Item]:
    """Images or paths in a column of a parquet file, a few rows at a time; a member is called "row 17", from 0 on.

    The column holds bytes, paths relative to the folder of the file, or {bytes, path} as Hugging Face writes it.
    A file that nobody has `named` is taken only if it holds bytes. Raises ScanError where there is no such column.
    """
    import pyarrow
    import pyarrow.parquet
    try:
        table = pyarrow.parquet.ParquetFile(file)
        column = column or _column_among(table.schema_arrow.names, path)
        if column not in table.schema_arrow.names:
            raise ScanError(_no_column(path, column, table.schema_arrow.names))
        kind = table.schema_arrow.field(column).type
        if not named and not (pyarrow.types.is_struct(kind) or pyarrow.types.is_binary(kind)
                              or pyarrow.types.is_large_binary(kind)):
            raise ScanError(_no_column(path, None, table.schema_arrow.names))
        number = 0
        for batch in table.iter_batches(PARQUET_ROWS, columns=[column]):
            for value in batch.column(0):
                yield _cell(value.as_py(), path, f"row {number}")
                number += 1
    except (pyarrow.ArrowException, OSError, MemoryError) as error:
        yield failed(path, None, f"cannot be read as parquet ({' '.join(str(error).split())}); write it again",
                     "corrupt")


def _cell(value: object, path: str, member: str) -> Item:
    if isinstance(value, dict):
        value = value.get("bytes") or value.get("path")
    if isinstance(value, bytes) and value:
        return Item(path, member, value)
    if isinstance(value, str) and value:
        return Item(_beside(path, value))
    if value is None or value in (b"", ""):
        return failed(path, member, "has no image", "empty")
    return failed(path, member, f"holds {type(value).__name__}, not the bytes of an image or a path", "not_an_image")


def _csv_rows(lines: Iterable[str], path: str, delimiter: str,
              column: str | None) -> Iterator[tuple[int, dict | Item]]:
    reader = csv.DictReader(lines, delimiter=delimiter)
    try:
        if column is not None and reader.fieldnames and column not in reader.fieldnames:
            raise ScanError(_no_column(path, column, reader.fieldnames))
        for row in reader:
            yield reader.line_num, row
    except csv.Error as error:
        yield 0, failed(path, f"line {reader.line_num}", f"cannot be read as CSV ({error}); write it again", "corrupt")


def _json_rows(lines: Iterable[str], path: str) -> Iterator[tuple[int, dict | Item]]:
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except (ValueError, RecursionError):
            row = None
        yield number, row if isinstance(row, dict) else failed(
            path, f"line {number}", "is not a JSON object; write one on each line", "corrupt")


def _column_among(names: Iterable[str], path: str) -> str:
    names = list(names)
    for wanted in COLUMNS:
        if wanted in names:
            return wanted
    raise ScanError(_no_column(path, None, names))


def _no_column(path: str, column: str | None, names: list[str]) -> str:
    missing = f"no column {column!r}" if column else "no column with a usual name for images or paths"
    return f"{printable(path)}: has {missing}; say which with --column, there are: {', '.join(map(str, names))[:200]}"


def _beside(path: str, named: str) -> str:
    return named if URL in named else os.path.join(os.path.dirname(path), named)
