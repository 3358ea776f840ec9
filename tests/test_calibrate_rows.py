"""Rows to calibrate on, out of CSV and Parquet files: a mistake is a line that names the row."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from training.calibration.calibrate import distinct_photos
from training.calibration.rows import read_rows
from training.errors import TrainingError

SHOP = "rules: [{id: weapons, forbids: [guns]}, {id: pets, forbids: [cats]}]"


@pytest.fixture
def folder(tmp_path) -> Path:
    for name, data in {"a.jpg": b"one", "copy.jpg": b"one", "b.jpg": b"two", "shop.yaml": SHOP.encode()}.items():
        (tmp_path / name).write_bytes(data)
    return tmp_path


def csv_of(folder: Path, *lines: str) -> Path:
    (folder / "rows.csv").write_text("\n".join(("path,policy,label,rule", *lines)), encoding="utf-8")
    return folder / "rows.csv"


def test_copies_of_a_photo_are_one_photo(folder):
    rows = read_rows(csv_of(folder, "a.jpg,shop.yaml,safe,weapons", "copy.jpg,shop.yaml,safe,pets",
                            "./a.jpg,shop.yaml,safe,", "b.jpg,shop.yaml,safe,weapons"))
    one, copy, again, other = distinct_photos(rows)
    assert one == copy == again != other


@pytest.mark.parametrize("lines, message", [
    (["a.jpg,shop.yaml,safe,weapons"] * 2, r"line 3: repeats .*line 2: the photo a\.jpg under the rule weapons"),
    (["a.jpg,shop.yaml,safe,weapons", "./a.jpg,shop.yaml,unsafe,weapons"], "line 3: contradicts .*line 2"),
    (["a.jpg,shop.yaml,safe,", "copy.jpg,shop.yaml,safe,"], r"line 3: repeats .*line 2: the photo copy\.jpg .*weapons"),
    (["a.jpg,shop.yaml,safe,pets", "copy.jpg,shop.yaml,unsafe,pets"], "line 3: contradicts .*line 2"),
])
def test_two_rows_about_one_photo_and_the_same_rules_are_an_error_that_names_both(folder, lines, message):
    with pytest.raises(TrainingError, match=message):
        distinct_photos(read_rows(csv_of(folder, *lines)))


@pytest.mark.parametrize("change, message", [
    ({"policy": ["shop.yaml"]}, r"row 1: policy is \['shop\.yaml'\]; name a policy file"),
    ({"path": None}, "row 1: path is None; name a photo"), ({"path": " "}, "row 1: path is ' '; name a photo")])
def test_a_parquet_row_of_another_form_is_an_error_that_names_it(folder, change, message):
    row = {"path": "a.jpg", "policy": "shop.yaml", "label": "safe"} | change
    pq.write_table(pa.Table.from_pylist([row]), folder / "rows.parquet")
    with pytest.raises(TrainingError, match=message):
        read_rows(folder / "rows.parquet")


def test_the_suffix_of_a_parquet_file_may_stand_in_capitals(folder):
    pq.write_table(pa.Table.from_pylist([{"path": "a.jpg", "policy": "shop.yaml", "label": "safe"}]),
                   folder / "rows.PARQUET")
    assert [row.photo.name for row in read_rows(folder / "rows.PARQUET")] == ["a.jpg"]
