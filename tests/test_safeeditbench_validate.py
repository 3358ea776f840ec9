"""A table of SafeEditBench is checked before anyone is scored on it; and the four commands as they are typed."""

import csv
import io
import json
from dataclasses import replace

import pytest
from PIL import Image
from typer.testing import CliRunner

pytest.importorskip("skimage", reason="the benchmark needs the extra bench")
pytest.importorskip("pdqhash", reason="the benchmark needs the extra bench")
pytest.importorskip("krippendorff", reason="the benchmark needs the extra bench")
from edited_pairs import inpainted

from benchmarks.errors import BenchmarkError
from benchmarks.safeeditbench.__main__ import app
from benchmarks.safeeditbench.annotations import Annotations
from benchmarks.safeeditbench.rows import Prediction, Row, write_predictions, write_rows
from benchmarks.safeeditbench.validate import validate

BOXES = {"astronaut.png": (0.43, 0.25, 0.24, 0.42), "coffee.png": (0.5, 0.48, 0.62, 0.75),
         "chelsea.png": (0.5, 0.5, 0.3, 0.3)}


@pytest.fixture(scope="module")
def built(photos, tmp_path_factory):
    return inpainted(photos, BOXES, tmp_path_factory.mktemp("pairs"))


@pytest.fixture
def rows(built):
    """Three pairs under three levels; the photos are unsafe from L4 on, the edits never."""
    return [Row((built / "images" / f"{name}{edited}.jpg").read_bytes(), f"{name}{edited}.jpg",
                "unsafe" if level > 3 and not edited else "safe", f"Policy L{level}", f"text {level}")
            for name in ("astronaut", "coffee", "chelsea") for edited in ("", "_edited") for level in (3, 4, 5)]


def kinds(rows, training=None) -> dict[str, int]:
    return {finding.kind: finding.count for finding in validate(rows, training).findings}


def test_a_sound_table_has_no_findings(rows):
    report = validate(rows)
    assert report.findings == () and report.sound
    assert report.rows == {"Policy L3": 6, "Policy L4": 6, "Policy L5": 6}
    assert report.unsafe == {"Policy L3": 0.0, "Policy L4": 0.5, "Policy L5": 0.5}


@pytest.mark.parametrize("change, kind, count, sound", [
    (lambda rows: rows[1:], "half_a_pair", 1, True),
    (lambda rows: [*rows, rows[0]], "repeated", 1, True),
    (lambda rows: [*rows, replace(rows[0], label="unsafe")], "contradiction", 1, False),
    (lambda rows: [replace(rows[0], policy="another text"), *rows[1:]], "policy_differs", 1, False),
    (lambda rows: [replace(rows[0], image=rows[6].image), *rows[1:]], "photo_differs", 1, False),
    (lambda rows: [replace(rows[0], label="unsafe"), replace(rows[1], label="safe"), *rows[2:]],
     "not_monotone", 1, True),
    (lambda rows: [*rows[:3], replace(rows[3], label="unsafe"), *rows[4:]], "edit_is_worse", 1, True),
    (lambda rows: [replace(row, image=rows[0].image) if row.pair == "astronaut" else row for row in rows],
     "same_photo", 1, False)])
def test_what_is_wrong_with_a_table_is_found(rows, change, kind, count, sound):
    report = validate(change(rows))
    assert {finding.kind: finding.count for finding in report.findings}[kind] == count
    assert report.sound is sound


def altered(data: bytes) -> bytes:
    """The same photo smaller and in another encoding: other bytes, the same picture."""
    buffer = io.BytesIO()
    photo = Image.open(io.BytesIO(data))
    photo.resize((photo.width // 2, photo.height // 2)).save(buffer, "JPEG", quality=60)
    return buffer.getvalue()


def test_near_copies_in_other_pairs_are_found_and_a_photo_and_its_edit_are_none(rows):
    copies = [replace(row, image=altered(row.image), image_path=row.image_path.replace("coffee", "tea"))
              for row in rows if row.pair == "coffee"]
    found = kinds([*rows, *copies])
    assert found["near_duplicate"] >= 2 and "same_photo" not in found


def test_leakage_is_found_by_bytes_and_by_sight(rows, tmp_path, photos):
    (tmp_path / "train").mkdir()
    (tmp_path / "train/rocket.jpg").write_bytes(photos["rocket.jpg"].read_bytes())
    assert kinds(rows, tmp_path) == {}
    (tmp_path / "train/1.jpg").write_bytes(rows[0].image)
    (tmp_path / "train/2.jpg").write_bytes(altered(rows[6].image))  # coffee
    report = validate(rows, tmp_path)
    assert {finding.kind for finding in report.findings} == {"leak", "near_leak"} and not report.sound
    assert "astronaut.jpg = train/1.jpg" in report.findings[0].message
    assert "coffee.jpg ~ train/2.jpg" in report.findings[1].message


def test_a_training_folder_without_photos_is_an_error_and_not_free_of_leaks(rows, tmp_path):
    with pytest.raises(BenchmarkError, match="holds no photos"):
        validate(rows, tmp_path)


# --- The commands -----------------------------------------------------------------------------------------------------
def run(*arguments: object) -> tuple[int, str, str]:
    result = CliRunner().invoke(app, list(map(str, arguments)))
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    return result.exit_code, result.stdout, result.stderr


@pytest.fixture
def tasks(tmp_path, photos):
    with open(tmp_path / "tasks.csv", "w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["path", "instruction", "category", "boxes", "licence", "source"])
        boxes = json.dumps([BOXES["coffee.png"]])
        writer.writerow([photos["coffee.png"], "Remove it.", "cup", boxes, "CC0", "skimage"])
        writer.writerow([photos["rocket.jpg"], "Remove it.", "", "", "CC0", "skimage"])  # no boxes to fill
    return tmp_path / "tasks.csv"


def test_build_says_what_it_costs_before_and_what_was_rejected_after(tasks, tmp_path):
    command = ("build", tasks, "--out", tmp_path / "out", "--editor", "inpaint")
    assert json.loads(run(*command, "--price", 0.04, "--dry-run")[1]) == {"tasks": 2, "to_edit": 2, "cost": 0.08}
    assert not (tmp_path / "out").exists()
    status, out, err = run(*command)
    assert status == 1 and json.loads(out) == {"kept": 1, "rejected": 1, "no_boxes": 1}
    assert "rocket: no_boxes: has no boxes" in err
    assert json.loads(run(*command, "--dry-run")[1])["to_edit"] == 0


def test_annotate_exports_what_is_settled(built):
    assert run("annotate", built, "--export")[0] == 2
    annotations = Annotations(built)
    for who in ("ann", "bob"):
        annotations.answer(who, ("coffee.jpg", "Policy L5"), "unsafe")
        annotations.answer(who, ("coffee.jpg", "Policy L1"), "safe")
    status, out, _ = run("annotate", built, "--export")
    result = json.loads(out)
    assert (status, result["settled"], result["unanswered"], result["agreement"]["all"]["alpha"]) == (1, 2, 28, 1.0)
    assert run("validate", built)[0] == 0


def test_validate_exits_with_one_for_a_table_that_cannot_be_scored_on(rows, tmp_path):
    write_rows([*rows, replace(rows[0], label="unsafe")], tmp_path)
    status, out, err = run("validate", tmp_path)
    assert status == 1 and "error: 1 questions are answered with safe and with unsafe: astronaut.jpg" in err
    assert json.loads(out)["findings"][0]["kind"] == "contradiction"
    status, _, err = run("validate", tmp_path / "data/test-00000-of-00001.parquet", "--training", tmp_path / "data")
    assert status == 2 and "holds no photos" in err


def test_score_prints_a_table_for_people_and_json_for_programs(rows, tmp_path):
    write_rows(rows, tmp_path)
    write_predictions([Prediction(row.image_path, row.label, row.policy_name) for row in rows], tmp_path / "all.jsonl")
    status, out, err = run("score", tmp_path / "all.jsonl", "--data", tmp_path)
    assert status == 0 and json.loads(out)["macro"] == {"value": 1.0, "low": 1.0, "high": 1.0}
    assert "| Policy L4 | 6 | 3 | F1 | 100.0 (100.0 to 100.0) |" in err
    assert "always unsafe would have: macro 44.4%, pooled F1 50.0%" in err
    status, _, err = run("score", tmp_path / "all.jsonl")
    assert status == 2 and "has no safety_label; give the table with --data" in err
    write_predictions([Prediction(row.image_path, row.label, row.policy_name, truth=row.label) for row in rows],
                      tmp_path / "all.jsonl")
    assert json.loads(run("score", tmp_path / "all.jsonl")[1])["macro"]["value"] == 1


def test_an_error_is_one_line(tmp_path):
    (tmp_path / "x.csv").write_text("path\nx.jpg\n")
    status, out, err = run("build", tmp_path / "x.csv", "--out", tmp_path / "out", "--editor", "inpaint")
    assert (status, out, err.count("\n")) == (2, "", 1) and "has no column instruction" in err
