"""A scan: its rows equal what the guard says of each image, whatever the source; failures are rows; equal files are
judged once; what is in the folder already is not judged again."""

from __future__ import annotations

import io
import json
import os
import time
import zipfile
from pathlib import Path

import duckdb
import pandas
import pyarrow.parquet
import pytest
from image_files import file_of
from PIL import Image
from scan_world import DARK, MeanGuard, by_name, pictures, rows_of, write_folder

from safeguard_sdk import Guard, ImageError, Policy, ScanError, VerdictError
from safeguard_sdk.guard import prepare
from safeguard_sdk.scan import Limits, Options, Progress, scan
from safeguard_sdk.scan.decoding import Decoder
from safeguard_sdk.scan.output import ScanFolder
from safeguard_sdk.scan.rows import record_of, schema

ONE_WORKER = Options(workers=1)


@pytest.fixture
def guard(tmp_path) -> MeanGuard:
    return MeanGuard(DARK, tmp_path / "bundle")


@pytest.fixture(scope="module")
def files(photos) -> dict[str, bytes]:
    return {f"{number:02}.png": data for number, data in enumerate(pictures(photos["coffee.png"], 12))}


@pytest.fixture
def folder(tmp_path, files) -> Path:
    return write_folder(tmp_path / "photos", files)


# Rows

def test_the_embedded_model_gives_in_a_scan_to_the_bit_what_check_gives(photos, tmp_path):
    names = ("astronaut.png", "chelsea.png", "china.jpg", "coins.png")
    guard = Guard(Policy.from_text("No cats."))
    scan(guard, [photos[name] for name in names], tmp_path / "out", Options(batch_size=3))
    rows = by_name(tmp_path / "out")
    for name in names:
        assert record_of(rows[name]).verdict == guard.check(photos[name])
    assert rows["chelsea.png"]["label"] == "unsafe"


@pytest.mark.parametrize("batch_size, workers", [(1, 1), (5, 3), (64, 2)])
def test_every_file_has_one_row_with_the_verdict_of_check_however_the_work_is_split(
        guard, folder, files, tmp_path, batch_size, workers):
    summary = scan(guard, [folder], tmp_path / "out", Options(batch_size=batch_size, workers=workers))
    rows = by_name(tmp_path / "out")
    assert {name: record_of(row).verdict for name, row in rows.items()} == {
        name: guard.check(data) for name, data in files.items()}
    assert len({row["label"] for row in rows.values()}) > 1  # or the sameness would prove little
    assert summary["rows"] == len(files) and summary["failed"] == 0


def test_a_row_says_where_the_image_is_what_it_holds_and_what_the_verdict_comes_from(guard, folder, files, tmp_path):
    scan(guard, [folder], tmp_path / "out", ONE_WORKER)
    row = by_name(tmp_path / "out")["03.png"]
    assert (row["path"], row["member"], row["bytes"]) == (str(folder / "03.png"), None, len(files["03.png"]))
    assert row["policy_sha256"] == DARK.sha256 and row["bundle_sha256"] == guard.bundle.sha256
    assert list(row["rules"]) == ["dark", "red"]


def test_duckdb_and_pandas_read_the_rows_in_one_line(guard, folder, tmp_path):
    scan(guard, [folder], tmp_path / "out", ONE_WORKER)
    expected = sorted(row["label"] for row in rows_of(tmp_path / "out"))
    assert sorted(pandas.read_parquet(tmp_path / "out/parts")["label"]) == expected
    found = duckdb.sql(f"SELECT label, rules['dark'] FROM '{tmp_path}/out/parts/*.parquet'").fetchall()
    assert sorted(label for label, _ in found) == expected and all(score is not None for _, score in found)


def test_the_schema_is_versioned_and_stands_in_the_documents(guard, folder, tmp_path):
    scan(guard, [folder], tmp_path / "out", ONE_WORKER)
    (part,) = (tmp_path / "out/parts").iterdir()
    written = pyarrow.parquet.read_schema(part)
    assert written.equals(schema()) and written.metadata == {b"safeguard.schema": b"1"}
    documented = (Path(__file__).parents[1] / "docs/scan.md").read_text(encoding="utf-8")
    assert all(f"| `{name}` |" in documented for name in schema().names)


def test_json_lines_hold_the_same_rows(guard, folder, tmp_path):
    scan(guard, [folder], tmp_path / "parquet", ONE_WORKER)
    scan(guard, [folder], tmp_path / "jsonl", Options(format="jsonl", workers=1))
    assert rows_of(tmp_path / "jsonl") == rows_of(tmp_path / "parquet")
    (part,) = (tmp_path / "jsonl/parts").iterdir()
    assert all(json.loads(line)["path"] for line in part.read_text().splitlines())


def test_a_name_that_is_not_utf_8_is_escaped_and_its_bytes_are_kept(guard, files, tmp_path):
    name = os.fsdecode(b"caf\xe9.png")
    try:
        folder = write_folder(tmp_path / "photos", {name: files["00.png"]})
    except OSError as error:
        pytest.skip(f"this file system refuses the name: {error.strerror}")
    for file_format in ("parquet", "jsonl"):
        scan(guard, [folder], tmp_path / file_format, Options(format=file_format, workers=1))
        (row,) = rows_of(tmp_path / file_format)
        assert row["path"] == str(folder / "caf\\xe9.png")
        assert row["path_bytes"] == os.fsencode(folder / name)
        assert record_of(row).path == str(folder / name)


# Failures are rows

def bad_files(good: bytes) -> dict[str, tuple[bytes, str]]:
    return {"cut.png": (good[:len(good) // 2], "truncated"), "empty.jpg": (b"", "empty"),
            "text.jpg": (b"no image", "not_an_image"), "photo.heic": (b"\0\0\0\x18ftypheic", "unsupported"),
            "bomb.bmp": (bomb(), "too_large")}


def bomb() -> bytes:
    data = bytearray(file_of(Image.new("RGB", (1, 1)), "BMP"))
    data[18:26] = (60_000).to_bytes(4, "little") * 2
    return bytes(data)


def test_a_fifth_of_bad_files_costs_no_other_row(guard, files, tmp_path):
    bad = bad_files(files["00.png"])
    named = {f"{name}-{number}{Path(name).suffix}": (data, kind) for name, (data, kind) in bad.items()
             for number in range(3)}
    good = {f"{turn}-{name}": data + bytes([turn]) for name, data in files.items() for turn in range(5)}
    folder = write_folder(tmp_path / "photos", good | {name: data for name, (data, _) in named.items()})
    assert len(named) / (len(named) + len(good)) == 0.2
    summary = scan(guard, [folder], tmp_path / "out", Options(workers=2))
    rows = by_name(tmp_path / "out")
    assert {name: row["failure_kind"] for name, row in rows.items() if row["label"] is None} == {
        name: kind for name, (_, kind) in named.items()}
    assert {name: record_of(rows[name]).verdict for name in good} == {
        name: guard.check(data) for name, data in good.items()}
    assert summary["failed"] == 15 and summary["failure_kinds"] == dict.fromkeys(sorted(
        kind for _, kind in bad.values()), 3)


def test_the_message_of_a_failure_is_that_of_check_and_names_the_file_even_among_equal_files(guard, files, tmp_path):
    cut = files["00.png"][:200]
    folder = write_folder(tmp_path / "photos", {"a.png": cut, "b.png": cut})
    scan(guard, [folder], tmp_path / "out", ONE_WORKER)
    for name, row in by_name(tmp_path / "out").items():
        with pytest.raises(ImageError) as caught:
            guard.check(folder / name)
        assert (row["failure"], row["failure_kind"]) == (str(caught.value), caught.value.kind)


def test_a_number_that_is_none_is_a_failure_of_its_image_alone(guard, folder, files, tmp_path, monkeypatch):
    broken = guard.engine.encode([prepare(files["05.png"], guard.bundle.geometry)[0]])[0].tokens
    score = guard.engine.score

    def nan_for_one(prefix, images):
        logits = score(prefix, images)
        for row, image in enumerate(images):
            if (image.tokens == broken).all():
                logits[row] = float("nan")
        return logits

    monkeypatch.setattr(guard.engine, "score", nan_for_one)
    with pytest.raises(VerdictError):
        guard.check(files["05.png"])
    scan(guard, [folder], tmp_path / "out", ONE_WORKER)
    rows = by_name(tmp_path / "out")
    assert [name for name, row in rows.items() if row["failure_kind"] == "no_verdict"] == ["05.png"]


# Equal files

class Counts(MeanGuard):
    """Counts the images that its engine sees."""

    seen = 0

    def judge(self, embeddings):
        self.seen += len(embeddings)
        return super().judge(embeddings)


def test_equal_files_are_judged_once_and_each_has_its_row(files, tmp_path):
    guard = Counts(DARK, tmp_path / "bundle")
    folder = write_folder(tmp_path / "photos", {f"{copy}/{name}": data for name, data in list(files.items())[:4]
                                                for copy in "abcde"})
    summary = scan(guard, [folder], tmp_path / "out", Options(workers=3, batch_size=2))
    assert (summary["rows"], guard.seen, summary["last_run"]["duplicates"]) == (20, 4, 16)
    for row in rows_of(tmp_path / "out"):
        assert record_of(row).verdict == MeanGuard(DARK, tmp_path / "bundle").check(Path(row["path"]))


def test_what_an_earlier_run_has_judged_is_known_by_its_content(files, folder, tmp_path):
    guard = Counts(DARK, tmp_path / "bundle")
    scan(guard, [folder], tmp_path / "out", ONE_WORKER)
    write_folder(folder, {"again.png": files["03.png"]})
    summary = scan(guard, [folder], tmp_path / "out", ONE_WORKER)
    assert (guard.seen, summary["rows"], summary["last_run"]["rows"]) == (len(files), len(files) + 1, 1)


def test_a_file_that_two_sources_name_has_one_row(guard, folder, files, tmp_path):
    scan(guard, [folder, folder / "03.png", f"{folder}/*.png"], tmp_path / "out", ONE_WORKER)
    assert len(rows_of(tmp_path / "out")) == len(files)


@pytest.mark.filterwarnings("ignore:Duplicate name")  # which a zip may hold
def test_an_archive_that_sources_reach_several_times_has_one_row_for_each_member(guard, folder, files, tmp_path):
    (folder / "deep").mkdir()
    with zipfile.ZipFile(folder / "deep/more.zip", "w") as archive:
        for number, data in enumerate(files.values()):
            archive.writestr("repeated.png" if number < 3 else f"{number}.png", data)
    scan(guard, [folder], tmp_path / "once", ONE_WORKER)
    assert len(rows_of(tmp_path / "once")) == 2 * len(files)
    again = [folder, folder / "deep/more.zip", f"{folder}/**/*"]  # the glob fits "deep" and what is in it
    for _ in range(2):
        scan(guard, again, tmp_path / "out", ONE_WORKER)
        assert rows_of(tmp_path / "out") == rows_of(tmp_path / "once")


# The folder

@pytest.mark.parametrize("change, says", [
    (lambda guard, options: (MeanGuard(Policy.from_text("No cats."), guard.bundle.path), options),
     "was begun with another policy"),
    (lambda guard, options: (guard, Options(frames=3, workers=1)), "was begun with another setting of frames"),
    (lambda guard, options: (guard, Options(format="jsonl", workers=1)), "was begun with another setting of format"),
])
def test_another_policy_or_setting_is_refused_with_advice_and_nothing_is_changed(guard, folder, tmp_path, change, says):
    scan(guard, [folder], tmp_path / "out", ONE_WORKER)
    before = rows_of(tmp_path / "out")
    other, options = change(guard, ONE_WORKER)
    with pytest.raises(ScanError, match=f"{says}.*name another --out"):
        scan(other, [folder], tmp_path / "out", options)
    assert rows_of(tmp_path / "out") == before


def test_a_folder_that_holds_something_else_is_refused(guard, folder, files, tmp_path):
    with pytest.raises(ScanError, match="holds files of something else"):
        scan(guard, [folder], folder, ONE_WORKER)
    assert sorted(path.name for path in folder.iterdir()) == sorted(files)


def test_two_scans_cannot_write_to_one_folder(guard, folder, tmp_path):
    scan(guard, [folder], tmp_path / "out", ONE_WORKER)
    facts = ScanFolder.open(tmp_path / "out").facts
    with (ScanFolder.begin(tmp_path / "out", facts), pytest.raises(ScanError, match="another scan writes to this")):
        scan(guard, [folder], tmp_path / "out", ONE_WORKER)
    assert scan(guard, [folder], tmp_path / "out", ONE_WORKER)["last_run"]["rows"] == 0


def test_an_output_folder_within_the_source_is_not_scanned(guard, folder, files, tmp_path):
    for _ in range(2):
        summary = scan(guard, [folder], folder / "out", ONE_WORKER)
    assert summary["rows"] == len(files)


def test_a_glob_that_fits_the_output_folder_too_does_not_scan_it(guard, folder, files, tmp_path):
    scan(guard, [folder], folder / "out", ONE_WORKER)
    write_folder(folder / "out", {"deep/picture.png": files["00.png"]})
    for pattern in ("**", "**/*", "*/*", "out/[d]*"):
        summary = scan(guard, [f"{folder}/{pattern}"], folder / "out", ONE_WORKER)
        assert summary["rows"] == len(files) and summary["skipped"] == {}


# Summary and report

def test_the_summary_counts_labels_rules_scores_and_what_was_passed_over(guard, folder, tmp_path):
    write_folder(folder, {"notes.txt": b"hello", "sub/more.txt": b"hello", "broken.png": b"x"})
    summary = scan(guard, [folder], tmp_path / "out", ONE_WORKER)
    rows = rows_of(tmp_path / "out")
    assert json.loads((tmp_path / "out/summary.json").read_text()) == summary
    for label in ("safe", "review", "unsafe"):
        assert summary[label] == sum(row["label"] == label for row in rows)
    assert sum(summary["scores"]["counts"]) + summary["failed"] == summary["rows"] == len(rows)
    assert sum(sum(counts.values()) for counts in summary["rules"].values()) == summary["unsafe"] + summary["review"]
    assert summary["skipped"] == {".txt": 2}


def test_the_report_needs_no_other_file_hides_pictures_and_escapes_names(guard, files, tmp_path):
    hostile = '<img src=x onerror=alert(1)>".png'
    flagged = next(data for data in files.values() if guard.check(data).label == "unsafe")
    folder = write_folder(tmp_path / "photos", files | {hostile: flagged + b"1", "bad.png": b"x"})
    summary = scan(guard, [folder], tmp_path / "out", ONE_WORKER)
    page = (tmp_path / "out/report.html").read_text(encoding="utf-8")
    assert "http" not in page.replace("http-equiv", "") and "<script" not in page and "<img src=x" not in page
    assert page.count("data:image/jpeg;base64,") == summary["unsafe"] + summary["review"] > 0
    assert "filter: blur" in page and "not_an_image" in page


def test_a_thumbnail_shows_the_picture_in_its_side_ratio(photos, tmp_path):
    everything = Policy.from_yaml("rules: [{id: all, text: Everything., unsafe_at: 0}]")
    scan(MeanGuard(everything, tmp_path / "bundle"), [photos["china.jpg"]], tmp_path / "out", ONE_WORKER)
    (row,) = rows_of(tmp_path / "out")
    with Image.open(io.BytesIO(row["thumbnail"])) as thumbnail, Image.open(photos["china.jpg"]) as photo:
        assert max(thumbnail.size) == 160
        assert thumbnail.width / thumbnail.height == pytest.approx(photo.width / photo.height, rel=0.02)
        small = photo.resize((1, 1)).getpixel((0, 0))
        assert thumbnail.resize((1, 1)).getpixel((0, 0)) == pytest.approx(small, abs=12)


def test_without_thumbnails_no_pixel_is_kept(guard, folder, tmp_path):
    scan(guard, [folder], tmp_path / "out", Options(workers=1, thumbnails=False))
    assert {row["thumbnail"] for row in rows_of(tmp_path / "out")} == {None}


# On the way

@pytest.mark.parametrize("workers", [1, 3])
def test_the_rate_is_kept_by_all_workers_together(guard, folder, files, tmp_path, workers):
    seen: list[float] = []
    scan(guard, [folder], tmp_path / "out", Options(workers=workers, max_rate=20),
         watch=lambda progress: seen.append(progress.seconds))
    assert seen[-1] >= (len(files) - 1) / 20


def test_time_that_a_slow_file_takes_is_not_caught_up(guard, folder, files, tmp_path, monkeypatch):
    read, started = Decoder.read, []

    def slow_at_first(self, path, name):
        started.append(time.monotonic())
        if len(started) == 1:
            time.sleep(len(files) / 5)
        return read(self, path, name)

    monkeypatch.setattr(Decoder, "read", slow_at_first)
    scan(guard, [folder], tmp_path / "out", Options(workers=1, max_rate=5))
    assert started[-1] - started[1] >= (len(files) - 3) / 5


def test_progress_is_told_and_ends_at_the_number_of_rows(guard, folder, files, tmp_path):
    told: list[Progress] = []
    scan(guard, [folder], tmp_path / "out", ONE_WORKER, watch=told.append)
    assert told[-1].rows == told[-1].total == len(files)


def test_an_error_of_the_engine_ends_the_scan_with_that_error(guard, folder, tmp_path, monkeypatch):
    def gone(pixel_values):
        raise RuntimeError("the GPU is gone")

    monkeypatch.setattr(guard.engine, "encode", gone)
    with pytest.raises(RuntimeError, match="the GPU is gone"):
        scan(guard, [folder], tmp_path / "out", ONE_WORKER)


@pytest.mark.parametrize("options", [{"shard": (3, 2)}, {"shard": (0, 2)}, {"frames": 0}, {"batch_size": 0},
                                     {"format": "csv"}])
def test_options_that_mean_nothing_are_refused(options):
    with pytest.raises(ValueError, match=next(iter(options))):
        Options(**options)


def test_limits_have_defaults_that_fit_a_phone_photo():
    assert Limits().seconds >= 10 and Limits().memory_bytes >= 1 << 30


def test_zip_members_are_named_by_archive_and_member(guard, files, tmp_path):
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.writestr("in/00.png", files["00.png"])
    scan(guard, [tmp_path / "a.zip"], tmp_path / "out", ONE_WORKER)
    (row,) = rows_of(tmp_path / "out")
    assert (row["path"], row["member"]) == (str(tmp_path / "a.zip"), "in/00.png")
