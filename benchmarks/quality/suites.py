"""The suites: data in the formats that they are published in, from a local folder, and their metrics.

    safeeditbench  data/test-*.parquet         one photo, its edit, five policies; our own tables of that form, too
    unsafebench    data/test-*.parquet         one policy of eleven categories
    llavaguard     test.json and its images    a default policy, and variants that allow or forbid a category
    policyflip     photos with an index.csv    the questions of training/nano/exam.py: opposite policies over one photo
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from benchmarks.errors import BenchmarkError
from benchmarks.quality.cases import Case
from benchmarks.quality.metrics import (
    mark_llavaguard,
    mark_policyflip,
    mark_safeeditbench,
    mark_unsafebench,
    safeeditbench_predictions,
)
from benchmarks.quality.predictions import Predicted
from benchmarks.safeeditbench.rows import read_rows, write_predictions
from training.datasets import Row
from training.datasets.flips import ASSETS
from training.datasets.llavaguard import read_llavaguard
from training.datasets.unsafebench import read_unsafebench

EXAM_QUESTIONS, EXAM_SEED = 300, 3  # of each part and kind of wording, and the draw; those of `python -m training exam`
WORDINGS = {"known": "known", "heldout": "held out", "plain": "plain", "rules": "rules"}


@dataclass(frozen=True, slots=True)
class Suite:
    read: Callable[[Path], list[Case]]
    mark: Callable[[list[Predicted]], dict]  # every case answered → marks, as JSON
    write_official: Callable[[list[Predicted], Path], object] = lambda rows, folder: None  # where there is such a form


def read_safeeditbench_cases(folder: Path) -> list[Case]:
    return [Case(f"safeeditbench:{row.photo}:{row.policy_name}", row.image, hashlib.sha256(row.image).hexdigest(),
                 row.policy, row.policy_name, row.label, row.category, row.pair) for row in read_rows(folder)]


def write_safeeditbench(rows: list[Predicted], folder: Path) -> None:
    """official.jsonl, for `python -m benchmarks.safeeditbench score`; what failed is an answer that is none."""
    write_predictions(safeeditbench_predictions(rows), folder / "official.jsonl")


def read_policyflip_cases(folder: Path, assets: Path = ASSETS) -> list[Case]:
    """Cases of one pair are one photo under opposite policies."""
    from training.nano.examiner import Examiner  # word lists and a tokenizer
    try:
        examiner = Examiner(folder, assets)
    except (OSError, KeyError) as error:
        raise BenchmarkError(f"{folder}: cannot be read as labelled photos ({error})") from error
    photos = examiner.split("test")
    cases = []
    exam = examiner.exam("test", EXAM_QUESTIONS, EXAM_SEED)
    for number, question in enumerate(exam):
        photo = photos[question.scene.photo]
        cases.append(Case(
            f"policyflip:{number}", photo.path, photo.sha256, question.text,
            f"{question.part}, {WORDINGS[question.kind]}",
            "unsafe" if question.broken else "safe", question.part, str(question.flip) if question.flip >= 0 else ""))
    return cases


def _cases(rows: list[Row]) -> list[Case]:
    return [Case(row.source, row.image, row.image_sha256, row.policy, row.policy_name, row.label, row.category or "")
            for row in rows]


SUITES: dict[str, Suite] = {
    "safeeditbench": Suite(read_safeeditbench_cases, mark_safeeditbench, write_safeeditbench),
    "unsafebench": Suite(lambda folder: _cases(read_unsafebench(folder, "test")), mark_unsafebench),
    "llavaguard": Suite(lambda folder: _cases(read_llavaguard(folder, "test")), mark_llavaguard),
    "policyflip": Suite(read_policyflip_cases, mark_policyflip),
}
