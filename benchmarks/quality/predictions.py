"""Predictions as rows: one JSON object a line, written as they come, so that a run goes on where it was stopped.

    id, policy_name, category, pair, image_sha256, label      the case
    prediction                                                safe, unsafe, invalid or failed
    score, text, note, error, seconds                         what the system said, or why it could not be asked

The last line of a case counts: a failed one is asked again by the next run.
"""

from __future__ import annotations

import json
import os
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import get_args

from benchmarks.errors import BenchmarkError
from benchmarks.quality.cases import Case, Outcome

OUTCOMES = get_args(Outcome)


@dataclass(frozen=True, slots=True)
class Predicted:
    """A case, without its photo, and what became of it."""

    id: str
    policy_name: str
    category: str
    pair: str
    image_sha256: str
    label: str
    prediction: Outcome
    score: float | None
    text: str
    note: str
    error: str       # kind of the failure, "" for none
    seconds: float

    @property
    def called(self) -> str:
        """safe or unsafe as scored: what is neither counts as the wrong one."""
        if self.prediction in ("safe", "unsafe"):
            return self.prediction
        return "safe" if self.label == "unsafe" else "unsafe"


def predicted(case: Case, prediction: Outcome, seconds: float, score: float | None = None, text: str = "",
              note: str = "", error: str = "") -> Predicted:
    return Predicted(case.id, case.policy_name, case.category, case.pair, case.image_sha256, case.label, prediction,
                     score, text, note, error, round(seconds, 4))


class Predictions:
    """The rows of one file. Use as a context manager; rows are on the disk when `add` returns."""

    def __init__(self, path: Path) -> None:
        """Raises BenchmarkError naming a line that is no row. A last line that was torn off in writing is cut."""
        self.path = path
        self.rows: dict[str, Predicted] = {}
        whole = 0
        if path.exists():
            data = path.read_bytes()
            whole = data.rfind(b"\n") + 1
            for number, line in enumerate(data[:whole].splitlines(), start=1):
                row = _row(line, f"{path}, line {number}")
                self.rows[row.id] = row
        self._file = open(path, "ab")  # noqa: SIM115, closed by __exit__
        self._file.truncate(whole)

    def __enter__(self) -> Predictions:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def add(self, row: Predicted) -> None:
        self.rows[row.id] = row
        self._file.write(json.dumps(asdict(row)).encode() + b"\n")
        self._file.flush()
        os.fsync(self._file.fileno())


def _row(line: bytes, place: str) -> Predicted:
    try:
        row = Predicted(**json.loads(line))
    except (ValueError, TypeError) as error:
        raise BenchmarkError(f"{place}: is no prediction ({error}); move the file away and run again") from error
    if row.prediction not in OUTCOMES:
        raise BenchmarkError(f"{place}: its prediction is {row.prediction!r}, none of {', '.join(OUTCOMES)}")
    return row
