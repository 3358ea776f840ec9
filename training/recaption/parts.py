"""Rows in Parquet parts of a fixed number of rows, each renamed into place when it is complete: what a stop leaves is
whole, and a run that goes on writes the parts that one without a stop would have written."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from safeguard_sdk.durable import write_durably
from training.errors import TrainingError
from training.runs import RUN, check_same_run

USABLE = ("restored", "unchanged")  # statuses of a row that can be trained on
STATUSES = (*USABLE, "rejected", "failed")


@dataclass(frozen=True)
class Parts:
    """The parts of one stage. Part k holds rows k · size to (k + 1) · size of the source."""

    folder: Path
    schema: pa.Schema
    size: int

    def open(self, run: dict) -> None:
        """Make the folder, or go on in it if it holds the same run. Raises TrainingError naming what differs."""
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise TrainingError(f"{self.folder}: cannot be made a folder ({error.strerror}); give another --out"
                                ) from error
        if check_same_run(self.folder, run):
            return
        if any(self.folder.glob("part-*.parquet")):
            raise TrainingError(f"{self.folder}: has parts but no {RUN}, so nothing says which run they are of; "
                                "give another --out")
        write_durably(self.folder / RUN, json.dumps(run, indent=1).encode())

    def read(self, number: int) -> list[dict] | None:
        """The rows of a part; None if it is not written yet."""
        path = self._path(number)
        if not path.is_file():
            return None
        try:
            return pq.read_table(path, schema=self.schema).to_pylist()
        except (OSError, pa.ArrowException) as error:
            raise TrainingError(f"{path}: cannot be read ({' '.join(str(error).split())[:200]}); delete it and run the "
                                "command again, it writes this part anew") from error

    def write(self, number: int, rows: list[dict]) -> None:
        sink = pa.BufferOutputStream()
        pq.write_table(pa.Table.from_pylist(rows, schema=self.schema), sink, compression="zstd")
        write_durably(self._path(number), sink.getvalue().to_pybytes())

    def _path(self, number: int) -> Path:
        return self.folder / f"part-{number:05}.parquet"
