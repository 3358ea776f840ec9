"""Parquet tables of Hugging Face datasets: their rows with photos as bytes and class labels as names."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pyarrow
import pyarrow.parquet

from training.errors import TrainingError


def read_tables(folder: Path, pattern: str, columns: tuple[str, ...]) -> Iterator[tuple[str, dict[str, object]]]:
    """(place for messages, row) of all parquet files that fit `pattern`, in the order of their names.

    Of an image the bytes are given; of a ClassLabel its name, as the table itself has it.
    raises  TrainingError if a column is missing, or an image is a path and not embedded
    """
    for path in sorted(folder.glob(pattern)):
        try:
            yield from _rows(path, columns)
        except (OSError, pyarrow.ArrowException) as error:
            raise TrainingError(f"{path}: cannot be read as parquet ({' '.join(str(error).split())}); fetch it "
                                "again") from error


def _rows(path: Path, columns: tuple[str, ...]) -> Iterator[tuple[str, dict[str, object]]]:
    table = pyarrow.parquet.ParquetFile(path)
    missing = [column for column in columns if column not in table.schema_arrow.names]
    if missing:
        raise TrainingError(f"{path}: has no column {', '.join(missing)} (it has "
                            f"{', '.join(table.schema_arrow.names)}); fetch it again")
    names = _class_names(table.schema_arrow, path)
    number = 0
    for batch in table.iter_batches(batch_size=64, columns=list(columns)):
        for row in batch.to_pylist():
            place = f"{path}, row {number}"
            yield place, {column: _value(row[column], names.get(column), place) for column in columns}
            number += 1


def _value(value: object, names: list[str] | None, place: str) -> object:
    if isinstance(value, dict) and "bytes" in value:
        if not value["bytes"]:
            raise TrainingError(f"{place}: its image is the path {value.get('path')!r} and not embedded; fetch the "
                                "table that holds the images")
        return value["bytes"]
    if names is not None and isinstance(value, int):
        if not 0 <= value < len(names):
            raise TrainingError(f"{place}: class {value} is none of 0 to {len(names) - 1}; fetch the table again")
        return names[value]
    return value


def _class_names(schema: pyarrow.Schema, path: Path) -> dict[str, list[str]]:
    """Names of the ClassLabel columns out of the metadata that the library `datasets` writes."""
    try:
        metadata = json.loads((schema.metadata or {}).get(b"huggingface", b"{}"))
        features = metadata.get("info", {}).get("features", {})
        return {column: [str(name) for name in feature["names"]] for column, feature in features.items()
                if isinstance(feature, dict) and feature.get("_type") == "ClassLabel"}
    except (ValueError, AttributeError, KeyError, TypeError) as error:
        raise TrainingError(f"{path}: its metadata `huggingface` are not those of the library datasets "
                            f"({type(error).__name__}: {error}); fetch it again") from error
