"""Rows and predictions of SafeEditBench: the published table, our own of its form, the official prediction files.

    data/test-*.parquet    image, image_path, safety_label, policy_name, policy, and in our own tables perhaps category
    *.jsonl                an input record of the official script and its `prediction`, one JSON object a line

A pair is a photo `x.jpg` and its edit `x_edited.jpg`. Rows are known by the name of the photo, whatever folder stands
before it, and by their policy, never by their place: the published table has not the same number of rows a policy.
"""

from __future__ import annotations

import glob
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pyarrow
import pyarrow.parquet

from benchmarks.errors import BenchmarkError
from safeguard_sdk.durable import write_durably
from training.datasets.rows import LABELS
from training.datasets.safeedit import ASK, EDITED, LEVELS
from training.datasets.tables import read_tables

TABLES = "data/test-*.parquet"
COLUMNS = ("image", "image_path", "safety_label", "policy_name", "policy")


@dataclass(frozen=True, slots=True)
class Row:
    """One question and its answer: does this photo break this policy?"""

    image: bytes = field(repr=False)  # of the file; rows of one photo share them
    image_path: str    # "x.jpg", or "x_edited.jpg" for its edit
    label: str         # "safe" or "unsafe"
    policy_name: str   # "Policy L1" … "Policy L5"; in our own tables any name
    policy: str        # what a guard reads
    category: str = ""  # what the edit is about; the published table has none

    @property
    def photo(self) -> str:
        return _photo(self.image_path)

    @property
    def pair(self) -> str:
        """What a photo and its edit have in common: "x"."""
        return Path(self.image_path).stem.removesuffix(EDITED)

    @property
    def role(self) -> str:
        return "edited" if Path(self.image_path).stem.endswith(EDITED) else "original"


@dataclass(frozen=True, slots=True)
class Prediction:
    """One answer of a guard. Of `policy_name` and `policy` one may be empty: files name the policy by either."""

    image_path: str
    answer: str            # as the file has it: "safe", "unsafe", "unknown"
    policy_name: str = ""
    policy: str = ""
    truth: str | None = None  # the right label, where the file brings it along

    @property
    def photo(self) -> str:
        return _photo(self.image_path)

    @property
    def label(self) -> str | None:
        """"safe", "unsafe", or None for an answer that is neither and therefore wrong.

        A period at the end and capitals are read over: the official prompt prints `unsafe.`, and its own script then
        refuses it. "yes" and "no" are no answers: they mean the opposite to different guards.
        """
        word = self.answer.strip().lower().removesuffix(".")
        return LABELS[int(word)] if word in ("0", "1") else word if word in LABELS else None

    @property
    def official_label(self) -> str:
        """As the official script (a21cdfe) reads it: whatever it does not know is safe."""
        return "unsafe" if self.answer.lower() in ("unsafe", "1", "true", "yes") else "safe"


def read_rows(path: Path) -> list[Row]:
    """Rows of a folder with data/test-*.parquet, or of one such file. Raises BenchmarkError, TrainingError."""
    folder, pattern = (path.parent, glob.escape(path.name)) if path.is_file() else (path, TABLES)
    files = sorted(folder.glob(pattern))
    if not files:
        raise BenchmarkError(f"{folder / pattern}: no such file; make one with `python -m benchmarks.safeeditbench "
                             f"annotate`, or take the published one. {ASK}")
    columns = COLUMNS + (("category",) if all(map(_has_category, files)) else ())
    photos: dict[bytes, bytes] = {}  # a photo stands under several policies, and in memory once
    rows = []
    for place, entry in read_tables(folder, pattern, columns):
        image = photos.setdefault(entry["image"], entry["image"])
        rows.append(Row(image, _expect_text(entry["image_path"], "image_path", place),
                        _class_name(entry["safety_label"], LABELS, place), _policy_name(entry["policy_name"], place),
                        _expect_text(entry["policy"], "policy", place), entry.get("category") or ""))
    return rows


def write_rows(rows: Sequence[Row], folder: Path) -> Path:
    """Write folder/data/test-00000-of-00001.parquet as the library `datasets` would. Policies of other names than the
    published five are text in place of classes; the column category is there if any row has one."""
    levels = all(row.policy_name in LEVELS for row in rows)
    columns = {
        "image": ([{"bytes": row.image, "path": row.image_path} for row in rows],
                  pyarrow.struct({"bytes": pyarrow.binary(), "path": pyarrow.string()}), {"_type": "Image"}),
        "image_path": _text(row.image_path for row in rows),
        "safety_label": _classes([row.label for row in rows], LABELS),
        "policy_name": _classes([row.policy_name for row in rows], LEVELS) if levels else
                       _text(row.policy_name for row in rows),
        "policy": _text(row.policy for row in rows),
    }
    if any(row.category for row in rows):
        columns["category"] = _text(row.category for row in rows)
    features = {"info": {"features": {name: feature for name, (_, _, feature) in columns.items()}}}
    schema = pyarrow.schema([(name, kind) for name, (_, kind, _) in columns.items()],
                            metadata={"huggingface": json.dumps(features)})
    table = pyarrow.table({name: values for name, (values, _, _) in columns.items()}, schema=schema)
    buffer = pyarrow.BufferOutputStream()
    pyarrow.parquet.write_table(table, buffer)
    path = folder / "data" / "test-00000-of-00001.parquet"
    path.parent.mkdir(parents=True, exist_ok=True)
    write_durably(path, buffer.getvalue().to_pybytes())
    return path


def read_predictions(path: Path) -> list[Prediction]:
    """Answers of an official prediction file, or of one in its form. Raises BenchmarkError naming the line at fault.

    Needed a line: image_path, prediction, and policy_name, policy_level or policy; safety_label may be there.
    """
    predictions = []
    try:
        lines = path.read_text(encoding="utf-8").split("\n")  # splitlines would cut at U+2028 within a text, too
    except (OSError, UnicodeDecodeError) as error:
        raise BenchmarkError(f"{path}: cannot be read ({error}); name a JSONL file of predictions") from error
    for number, line in enumerate(lines, start=1):
        if line.strip():
            predictions.append(_prediction(line, f"{path}, line {number}"))
    if not predictions:
        raise BenchmarkError(f"{path}: holds no prediction; run the guard again")
    return predictions


def write_predictions(predictions: Iterable[Prediction], path: Path) -> None:
    """In the official form. Raises OSError."""
    records = ({"image_path": one.image_path, "safety_label": one.truth, "policy_name": one.policy_name,
                "policy": one.policy, "prediction": one.answer} for one in predictions)
    lines = [json.dumps({key: value for key, value in record.items() if value not in ("", None)}, ensure_ascii=False)
             for record in records]
    write_durably(path, ("\n".join(lines) + "\n").encode())


def rows_of(predictions: Sequence[Prediction], where: Path) -> list[Row]:
    """The rows that a prediction file answers, without their photos: it may bring labels and names of policies along.

    raises  BenchmarkError if it does not, and the table itself is needed
    """
    for number, one in enumerate(predictions, start=1):
        if one.truth is None or not one.policy_name:
            lacks = "safety_label" if one.truth is None else "policy_name"
            raise BenchmarkError(f"{where}, prediction {number}: has no {lacks}; give the table with --data")
    return [Row(b"", one.image_path, one.truth, one.policy_name, one.policy) for one in predictions]


def _has_category(table: Path) -> bool:
    try:
        return "category" in pyarrow.parquet.read_schema(table).names
    except (OSError, pyarrow.ArrowInvalid) as error:
        raise BenchmarkError(f"{table}: cannot be read as parquet ({error}); make or fetch it again") from error


def _class_name(value: object, names: tuple[str, ...], place: str) -> str:
    """A class by its name, or by its number where the table has lost the names."""
    if isinstance(value, int) and not isinstance(value, bool) and 0 <= value < len(names):
        return names[value]
    if value in names:
        return value
    raise BenchmarkError(f"{place}: {value!r} is none of {', '.join(names)}")


def _policy_name(value: object, place: str) -> str:
    """Any text is a name; a number is one of the published five."""
    return value if isinstance(value, str) and value.strip() else _class_name(value, LEVELS, place)


def _prediction(line: str, place: str) -> Prediction:
    try:
        record = json.loads(line)
        image_path, answer = record["image_path"], record["prediction"]
    except (ValueError, KeyError, TypeError) as error:
        raise BenchmarkError(f"{place}: is no JSON object with image_path and prediction ({error})") from error
    name = record.get("policy_name", record.get("policy_level", ""))
    policy, truth = _expect_text(record.get("policy") or "", "policy", place), record.get("safety_label")
    if name in ("", None) and not policy:
        raise BenchmarkError(f"{place}: names no policy; it needs policy_name, policy_level or policy")
    return Prediction(_expect_text(image_path, "image_path", place), "" if answer is None else str(answer),
                      _policy_name(name, place) if name not in ("", None) else "", policy,
                      None if truth is None else _class_name(truth, LABELS, place))


def _expect_text(value: object, column: str, place: str) -> str:
    if not isinstance(value, str):
        raise BenchmarkError(f"{place}: its {column} is {value!r:.60}, must be text")
    return value


def _photo(image_path: str) -> str:
    return image_path.replace("\\", "/").rpartition("/")[2]


def _text(values: Iterable[str]) -> tuple[list[str], pyarrow.DataType, dict]:
    return list(values), pyarrow.string(), {"dtype": "string", "_type": "Value"}


def _classes(values: list[str], names: tuple[str, ...]) -> tuple[list[int], pyarrow.DataType, dict]:
    return [names.index(value) for value in values], pyarrow.int64(), {"names": list(names), "_type": "ClassLabel"}
