"""A folder of labelled photos and the split that never moves."""

from __future__ import annotations

import csv
import hashlib
from collections import Counter
from pathlib import Path

import pytest

from training.errors import TrainingError
from training.photos import TEST_SHARE, VALIDATION_SHARE, Photo, read_photos, require_photos

COLUMNS = ("path", "source", "labels", "caption", "boxes", "licence")


def write_folder(folder: Path, rows: list[dict[str, str]], files: dict[str, bytes]) -> Path:
    folder.mkdir(exist_ok=True)
    for name, data in files.items():
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_bytes(data)
    with open(folder / "index.csv", "w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, COLUMNS, restval="")
        writer.writeheader()
        writer.writerows(rows)
    return folder


def photo_with(sha256: str) -> Photo:
    return Photo(Path("photo.jpg"), "made up", frozenset(), (), sha256)


def test_photos_come_in_the_order_of_the_index(tmp_path):
    rows = [{"path": name, "source": "zoo"} for name in ("b.jpg", "a.jpg")]
    folder = write_folder(tmp_path / "photos", rows, {"a.jpg": b"a", "b.jpg": b"b"})
    assert [photo.path for photo in read_photos(folder)] == [folder / "b.jpg", folder / "a.jpg"]


def test_labels_are_separated_by_semicolons_and_may_be_missing(tmp_path):
    rows = [{"path": "a.jpg", "source": "zoo", "labels": "dog; grass ;"}, {"path": "b.jpg", "source": "zoo"}]
    some, none = read_photos(write_folder(tmp_path / "photos", rows, {"a.jpg": b"a", "b.jpg": b"b"}))
    assert some.labels == {"dog", "grass"} and none.labels == set()


def test_boxes_are_read_from_json_and_may_be_missing(tmp_path):
    rows = [{"path": "a.jpg", "source": "zoo", "boxes": '[["dog", [0.5, 0.25, 0.5, 0.1]], ["cat", [0, 0, 1, 1]]]'},
            {"path": "b.jpg", "source": "zoo"}]
    some, none = read_photos(write_folder(tmp_path / "photos", rows, {"a.jpg": b"a", "b.jpg": b"b"}))
    assert some.boxes == (("dog", (0.5, 0.25, 0.5, 0.1)), ("cat", (0, 0, 1, 1)))
    assert none.boxes == ()


def test_a_folder_without_an_index_is_an_error_that_says_what_an_index_is(tmp_path):
    with pytest.raises(TrainingError, match=r"index\.csv: no such file; .* columns path, source, labels, boxes"):
        read_photos(tmp_path)


def test_a_row_without_a_file_is_an_error_and_never_left_out(tmp_path):
    folder = write_folder(tmp_path / "photos", [{"path": "gone.jpg", "source": "zoo"}], {})
    with pytest.raises(TrainingError, match=r"index\.csv, line 2: .*gone\.jpg: cannot be read"):
        read_photos(folder)


HEADER = "path,source,labels,boxes\n"


@pytest.mark.parametrize("index, message", [
    (b"", r"index\.csv: is empty"),
    (b"\xff\xfeno", r"index\.csv: cannot be read as CSV in UTF-8"),
    (b"path,labels\na.jpg,dog\n", r"index\.csv: has no column source \(it has path, labels\)"),
    (HEADER.encode() + b"\na.jpg,zoo,dog\n", r"index\.csv, line 3: has 3 cells, there are 4 columns"),
    (HEADER.encode() + b"a.jpg,zoo,dog,,\n", r"index\.csv, line 2: has 5 cells, there are 4 columns"),
    (HEADER.encode() + b"a.jpg,zoo,dog,[[\n", r"index\.csv, line 2: boxes is '\[\[', must be a JSON list of"),
    (HEADER.encode() + b"a.jpg,zoo,dog,7\n", "line 2: boxes is '7', must be"),
    (HEADER.encode() + b'a.jpg,zoo,dog,"[[""dog"", [0.5, 1]]]"\n', "line 2: boxes is .*, must be"),
    (HEADER.encode() + b'a.jpg,zoo,dog,"[[""dog"", [0, 0, 1, null]]]"\n', "line 2: boxes is .*, must be"),
])
def test_an_index_of_another_form_is_one_line_that_names_file_and_line(tmp_path, index, message):
    (tmp_path / "a.jpg").write_bytes(b"a")
    (tmp_path / "index.csv").write_bytes(index)
    with pytest.raises(TrainingError, match=message) as caught:
        read_photos(tmp_path)
    assert "\n" not in str(caught.value)


def test_an_index_that_excel_saves_begins_with_a_byte_order_mark_and_is_read(tmp_path):
    (tmp_path / "a.jpg").write_bytes(b"a")
    (tmp_path / "index.csv").write_text("path,source,labels\na.jpg,zoo,dog\n", encoding="utf-8-sig")
    assert [photo.labels for photo in read_photos(tmp_path)] == [{"dog"}]


def test_a_split_with_too_few_photos_with_labels_is_an_error_that_counts_them(tmp_path):
    rows = [{"path": f"{number}.jpg", "source": "zoo", "labels": "dog" if number % 2 else ""} for number in range(200)]
    folder = write_folder(tmp_path / "photos", rows, {row["path"]: row["path"].encode() for row in rows})
    count = sum(photo.split == "test" and bool(photo.labels) for photo in read_photos(folder))
    require_photos(folder, ("test",), count)
    with pytest.raises(TrainingError, match=f"of the split test it has {count} photos with labels, this needs"):
        require_photos(folder, ("train", "test"), count + 1)


def test_copies_of_a_photo_fall_into_one_split_whatever_they_and_their_folder_are_called(tmp_path):
    bytes_of = {"a.jpg": b"one photo", "deep/b.png": b"one photo"}
    rows = [{"path": name, "source": name, "labels": name} for name in bytes_of]
    first = read_photos(write_folder(tmp_path / "one", rows, bytes_of))
    second = read_photos(write_folder(tmp_path / "other", rows[::-1], bytes_of))
    assert len({photo.split for photo in first + second}) == 1
    assert {photo.sha256 for photo in first + second} == {hashlib.sha256(b"one photo").hexdigest()}


@pytest.mark.parametrize("start, split", [  # hash / 2^32 against the shares 0.10 and 0.04
    ("00000000", "test"), ("19999999", "test"), ("1999999a", "validation"), ("23d70a3d", "validation"),
    ("23d70a3e", "train"), ("ffffffff", "train")])
def test_the_split_of_a_hash_never_moves(start, split):
    assert photo_with(start + "0" * 56).split == split


def test_the_splits_have_about_their_shares():
    count = 20_000
    splits = Counter(photo_with(hashlib.sha256(b"%d" % number).hexdigest()).split for number in range(count))
    assert splits["test"] / count == pytest.approx(TEST_SHARE, abs=0.01)
    assert splits["validation"] / count == pytest.approx(VALIDATION_SHARE, abs=0.01)
    assert sum(splits.values()) == count and set(splits) == {"train", "validation", "test"}
