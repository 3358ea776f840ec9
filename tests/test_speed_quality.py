"""F1 beside speed: what a labelled folder means, and that verdicts are counted as they are."""

import csv
from pathlib import Path

import numpy as np
import pytest
import tiny_tags
from PIL import Image

from benchmarks.errors import BenchmarkError
from benchmarks.speed.quality import Answers, _measures, f1, quality, read_labelled
from benchmarks.speed.systems import System
from safeguard_sdk import Bundle, Guard, ImageError, Policy

CATS = "name: no cats\nrules:\n  - {id: cats, forbids: [cats]}\n"
MEANING = """
- {policy: cats.yaml, unsafe: [cat], safe: others}
- {policy: L1, unsafe: [rocket], safe: [cat, cup]}
"""
LABELS = {"chelsea.png": "cat", "coffee.png": "cup; table", "rocket.jpg": "rocket", "china.jpg": "building"}


@pytest.fixture
def labelled(photos, tmp_path) -> Path:
    for name in LABELS:
        with Image.open(photos[name]) as photo:
            photo.convert("RGB").resize((96, 64)).save(tmp_path / f"{Path(name).stem}.png")
    with open(tmp_path / "index.csv", "w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, ["path", "source", "labels"])
        writer.writeheader()
        for name, labels in LABELS.items():
            writer.writerow({"path": f"{Path(name).stem}.png", "source": "skimage", "labels": labels})
    (tmp_path / "cats.yaml").write_text(CATS)
    (tmp_path / "quality.yaml").write_text(MEANING)
    return tmp_path


def test_labels_mean_what_the_folder_says_and_no_more(labelled):
    """Under the first policy whatever is no cat is safe; under the second the building says nothing."""
    found = [(row.policy.name, row.photo.stem, row.broken) for row in read_labelled(labelled)]
    assert found == [("no cats", "chelsea", True), ("no cats", "coffee", False), ("no cats", "rocket", False),
                     ("no cats", "china", False),
                     (Policy.packaged("L1").name, "chelsea", False), (Policy.packaged("L1").name, "coffee", False),
                     (Policy.packaged("L1").name, "rocket", True)]


def test_rows_that_are_labelled_one_by_one_are_taken_as_they_are(labelled):
    (labelled / "rows.csv").write_text("path,policy,label\nchelsea.png,cats.yaml,unsafe\ncoffee.png,L1,safe\n")
    assert [(row.photo.name, row.broken) for row in read_labelled(labelled / "rows.csv")] == [
        ("chelsea.png", True), ("coffee.png", False)]


@pytest.mark.parametrize("meaning, why", [
    ("[]", "must be a list of policies"),
    ("- {policy: L1, unsafe: [cat]}", "must have exactly the keys policy, unsafe and safe"),
    ("- {policy: L1, unsafe: [dragon], safe: others}", "no photo has the label dragon"),
    ("- {policy: L1, unsafe: cat, safe: others}", "must be a list of labels"),
    ("- {policy: L1, unsafe: [cat], safe: the rest}", "must be a list of labels"),
    ("- [", "quality.yaml"),
])
def test_a_folder_that_says_something_odd_is_refused_with_its_place(labelled, meaning, why):
    (labelled / "quality.yaml").write_text(meaning)
    with pytest.raises(BenchmarkError, match=why) as caught:
        read_labelled(labelled)
    assert str(labelled) in str(caught.value) and "\n" not in str(caught.value)


def test_a_folder_without_an_index_is_refused(tmp_path):
    with pytest.raises(BenchmarkError, match=r"index\.csv"):
        read_labelled(tmp_path)


@pytest.mark.parametrize("source", [".", "rows.csv"])
def test_a_labelled_photo_that_cannot_be_decoded_is_named_when_the_folder_is_read(labelled, source):
    (labelled / "rows.csv").write_text("path,policy,label\nchelsea.png,cats.yaml,unsafe\nrocket.png,L1,safe\n")
    (labelled / "rocket.png").write_bytes((labelled / "rocket.png").read_bytes()[:2000])
    with pytest.raises(ImageError, match=r"rocket\.png"):
        read_labelled(labelled / source)


def test_the_verdicts_are_those_of_the_guard(labelled, tmp_path):
    """Four photos under two policies, each asked of a guard of its own."""
    rows, bundle = read_labelled(labelled), Bundle.open(tiny_tags.write(tmp_path / "bundle"))
    guards = {row.policy.name: Guard(row.policy, bundle, threads=1) for row in rows}
    called = np.array([guards[row.policy.name].check(row.photo).label == "unsafe" for row in rows])
    broken = np.array([row.broken for row in rows])
    systems = [System(name, bundle, "onnx-cpu", guards["no cats"]) for name in ("one", "again")]
    found = quality(systems, rows)
    assert (found["rows"], found["photos"], found["unsafe"]) == (7, 4, 2)
    one = found["systems"]["one"]
    assert one["f1"]["value"] == pytest.approx(float(f1(called, broken)), abs=1e-6)
    assert found["systems"]["again"] == one and one["flips"]["value"] == 0
    assert 0 < called.sum() < len(rows)  # else this test would not see an empty answer


def test_f1_of_known_answers():
    """Two hits, one false alarm, one miss: 4 / (4 + 2)."""
    unsafe = np.array([True, True, True, False, False])
    broken = np.array([True, True, False, True, False])
    assert float(f1(unsafe, broken)) == pytest.approx(2 / 3)
    found = _measures(Answers(unsafe, broken, np.arange(5)))
    assert found["precision"]["value"] == found["recall"]["value"] == pytest.approx(2 / 3, abs=1e-6)
    assert found["f1"]["low"] < 2 / 3 < found["f1"]["high"]


def test_nothing_called_unsafe_has_no_precision_and_an_f1_of_zero():
    found = _measures(Answers(np.zeros(4, bool), np.array([True, False, False, True]), np.arange(4)))
    assert (found["f1"]["value"], found["precision"], found["recall"]["value"]) == (0.0, None, 0.0)


def test_rows_of_one_photo_are_resampled_together():
    """So a thousand rows of two photos know no more than two photos do."""
    broken, unsafe = np.ones(1000, bool), np.repeat([True, False], 500)  # all of the first found, none of the second
    few = _measures(Answers(unsafe, broken, np.repeat([0, 1], 500)))["f1"]
    many = _measures(Answers(unsafe, broken, np.arange(1000)))["f1"]
    assert (few["low"], few["high"]) == (0.0, 1.0)
    assert 0.6 < many["low"] < many["high"] < 0.7
