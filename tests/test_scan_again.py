"""A scan that is run once more: failures are tried again, another policy judges, and what is refused leaves a finished
scan as it is."""

from __future__ import annotations

import importlib.util
import os
import threading
import time
from collections.abc import Callable
from pathlib import Path

import fsspec
import pytest
from scan_world import DARK, MeanGuard, animation, by_name, pictures, rows_of, write_folder
from test_scan_sources import tar_of, zip_of
from test_scan_tables import parquet_of
from tiny_bundle import FILES

from safeguard_sdk import Guard, Policy, ScanError
from safeguard_sdk.scan import Options, rescan, scan, sources
from safeguard_sdk.scan.merge import merge_shards
from safeguard_sdk.scan.output import ScanFolder
from safeguard_sdk.scan.pipeline import Pipeline
from safeguard_sdk.scan.rows import record_of

ONE_WORKER = Options(workers=1)
CACHED = Options(workers=1, cache_embeddings=True, near_duplicates=importlib.util.find_spec("pdqhash") is not None)


@pytest.fixture
def guard(tmp_path) -> MeanGuard:
    return MeanGuard(DARK, tmp_path / "bundle")


@pytest.fixture(scope="module")
def files(photos) -> dict[str, bytes]:
    return {f"{number:02}.png": data for number, data in enumerate(pictures(photos["coffee.png"], 12))}


@pytest.fixture
def folder(tmp_path, files) -> Path:
    return write_folder(tmp_path / "photos", files)


# Failures that are tried again

def test_retry_failed_tries_failures_again_and_nothing_else(guard, folder, files, tmp_path):
    (folder / "late.png").write_bytes(files["00.png"][:100])
    options = Options(workers=1, part_rows=4)
    scan(guard, [folder], tmp_path / "out", options)
    (folder / "late.png").write_bytes(files["00.png"] + b"whole")
    assert scan(guard, [folder], tmp_path / "out", options)["failed"] == 1  # a failure is a result too
    summary = scan(guard, [folder], tmp_path / "out", options, retry_failed=True)
    assert (summary["rows"], summary["failed"], summary["last_run"]["rows"]) == (len(files) + 1, 0, 1)
    scan(guard, [folder], tmp_path / "fresh", options)
    assert rows_of(tmp_path / "out") == rows_of(tmp_path / "fresh")


def test_a_failure_whose_source_is_not_named_stays_one_when_others_are_tried_again(guard, folder, files, tmp_path):
    broken = write_folder(tmp_path / "broken", {f"{number}.png": files["00.png"][:100] for number in range(3)})
    options = Options(workers=1, part_rows=4)
    scan(guard, [folder, broken], tmp_path / "out", options)
    before = rows_of(tmp_path / "out")
    summary = scan(guard, [folder], tmp_path / "out", options, retry_failed=True)
    assert (summary["failed"], summary["last_run"]["rows"]) == (3, 0)
    assert rows_of(tmp_path / "out") == before and not (tmp_path / "out" / "retried.parquet").exists()


def test_failures_that_are_tried_again_outlive_a_run_that_is_stopped(guard, folder, files, tmp_path, monkeypatch):
    broken = write_folder(tmp_path / "broken", {f"{number}.png": files["00.png"][:100] for number in range(3)})
    options = Options(workers=1, part_rows=4)
    scan(guard, [folder, broken], tmp_path / "out", options)
    before = rows_of(tmp_path / "out")

    def stop(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Pipeline, "run", stop)
        with pytest.raises(KeyboardInterrupt):
            scan(guard, [folder], tmp_path / "out", options, retry_failed=True)
    assert len(rows_of(tmp_path / "out")) == len(files) and (tmp_path / "out" / "retried.parquet").exists()
    assert scan(guard, [folder], tmp_path / "out", options)["failed"] == 3
    assert rows_of(tmp_path / "out") == before


MENDED: dict[str, Callable[[dict[str, bytes]], tuple[bytes, bytes]]] = {  # what is broken, and the same made whole
    "cut.zip": lambda files: (zip_of(files)[:-10], zip_of(files)),
    "cut.tar": lambda files: (tar_of(files)[:1000], tar_of(files)),
    "inner.zip": lambda files: (zip_of({"in.zip": zip_of(files)[:-10]}), zip_of({"in.zip": zip_of(files)})),
    "paths.csv": lambda files: (b"path,note\n,first\n", b"path,note\nphotos/00.png,first\n"),
    "paths.jsonl": lambda files: (b"no json\n", b'{"path": "photos/00.png"}\n'),
    "broken.parquet": lambda files: (b"PAR1", parquet_of(image=list(files.values()))),
}


@pytest.mark.parametrize("name", MENDED)
def test_the_failure_of_a_source_that_is_whole_now_is_over(guard, folder, files, tmp_path, name):
    broken, whole = MENDED[name](files)
    source = tmp_path / name
    source.write_bytes(broken)
    assert scan(guard, [source], tmp_path / "out", ONE_WORKER)["failed"] == 1
    source.write_bytes(whole)
    assert scan(guard, [source], tmp_path / "out", ONE_WORKER, retry_failed=True)["failed"] == 0
    scan(guard, [source], tmp_path / "fresh", ONE_WORKER)
    assert rows_of(tmp_path / "out") == rows_of(tmp_path / "fresh")


@pytest.mark.parametrize("module, function, refused", [(os, "scandir", "deep"), (sources, "_head", "notes")])
def test_the_failure_of_a_folder_or_of_a_file_without_an_image_that_can_be_read_now_is_over(
        guard, folder, files, tmp_path, module, function, refused, monkeypatch):
    write_folder(folder, {"deep/notes": b"hello", "deep/more.png": files["00.png"]})
    real = getattr(module, function)

    def refuses(path):
        if str(path).endswith(refused):
            raise PermissionError(13, "Permission denied")
        return real(path)

    with monkeypatch.context() as patch:
        patch.setattr(module, function, refuses)
        assert scan(guard, [folder], tmp_path / "out", ONE_WORKER)["failed"] == 1
    summary = scan(guard, [folder], tmp_path / "out", ONE_WORKER, retry_failed=True)
    assert (summary["failed"], summary["rows"]) == (0, len(files) + 1)


def test_the_failure_of_a_listing_that_is_whole_now_is_over(guard, files, tmp_path, monkeypatch):
    system = fsspec.filesystem("memory")
    system.pipe("/listed/a.png", files["00.png"])

    def refuses(*_: object, **__: object) -> None:
        raise ConnectionError("nobody answers")

    with monkeypatch.context() as patch:
        patch.setattr(type(system), "glob", refuses)
        assert scan(guard, ["memory://listed/*"], tmp_path / "out", ONE_WORKER)["failed"] == 1
    summary = scan(guard, ["memory://listed/*"], tmp_path / "out", ONE_WORKER, retry_failed=True)
    assert (summary["failed"], summary["rows"]) == (0, 1)


def test_failures_in_an_archive_that_is_not_whole_stay_failures(guard, files, tmp_path):
    source = tmp_path / "a.tar"
    source.write_bytes(tar_of({"00.png": files["00.png"], "bad.png": b"no image"}))
    assert scan(guard, [source], tmp_path / "out", ONE_WORKER)["failed"] == 1
    source.write_bytes(source.read_bytes()[:1000])  # within the first image
    assert scan(guard, [source], tmp_path / "out", ONE_WORKER, retry_failed=True)["failed"] == 2
    assert {row["member"] for row in rows_of(tmp_path / "out") if row["failure_kind"]} == {"bad.png", None}


# What is refused leaves a finished scan as it is

def contents(out: Path) -> dict[str, bytes]:
    return {str(path.relative_to(out)): path.read_bytes() for path in out.rglob("*") if path.is_file()}


def refused_merge(guard: MeanGuard, folder: Path, out: Path) -> None:
    share = out.with_name("share")
    scan(guard, [folder], share, CACHED)
    merge_shards(out, [share])


def refused_cluster(guard: MeanGuard, folder: Path, out: Path) -> None:
    scan(guard, [folder], out, CACHED, cluster="local")


def rescan_of_another_bundle(guard: MeanGuard, folder: Path, out: Path) -> None:
    other = MeanGuard(DARK, out.with_name("other bundle"), FILES | {"tokenizer.json": b"[]"})
    scan(other, [folder], out.with_name("old"), CACHED)
    rescan(guard, out.with_name("old"), out, CACHED)


def rescan_without_embeddings(guard: MeanGuard, folder: Path, out: Path) -> None:
    scan(guard, [folder], out.with_name("old"), ONE_WORKER)
    rescan(guard, out.with_name("old"), out, CACHED)


@pytest.mark.parametrize("refused, says", [
    (refused_merge, "holds rows already; name a new folder"),
    (refused_cluster, "--ray does not go with --cache-embeddings"),
    (rescan_of_another_bundle, "its embeddings are of another bundle"),
    (rescan_without_embeddings, "has no embeddings"),
])
def test_what_is_refused_leaves_a_finished_scan_as_it_is(guard, folder, tmp_path, refused, says):
    scan(guard, [folder], tmp_path / "out", CACHED)
    before = contents(tmp_path / "out")
    assert "summary.json" in before
    with pytest.raises(ScanError, match=says):
        refused(guard, folder, tmp_path / "out")
    assert contents(tmp_path / "out") == before


# Rescan

def test_rescan_gives_the_rows_of_a_scan_by_the_new_policy_without_reading_a_file(guard, folder, files, tmp_path):
    write_folder(folder, {"bad.png": b"x", "copy.png": files["01.png"],
                          "moving.gif": animation(["white", "red", "blue"])})
    options = Options(workers=2, frames=2, part_rows=3, cache_embeddings=True, thumbnails=False)
    scan(guard, [folder], tmp_path / "old", options)
    other = MeanGuard(Policy.from_text("Nothing bright."), tmp_path / "bundle")
    fresh = Options(workers=2, frames=2, thumbnails=False)
    scan(other, [folder], tmp_path / "fresh", fresh)
    for path in folder.iterdir():
        path.unlink()
    rescan(other, tmp_path / "old", tmp_path / "again", Options(thumbnails=False))
    assert rows_of(tmp_path / "again") == rows_of(tmp_path / "fresh")
    again, as_fresh = (ScanFolder.open(tmp_path / name).facts["settings"] for name in ("again", "fresh"))
    assert again == as_fresh


def test_the_embedded_model_rescans_to_the_bit(photos, tmp_path):
    names = ("chelsea.png", "coffee.png")
    scan(Guard(Policy.from_text("No cats.")), [photos[name] for name in names], tmp_path / "old",
         Options(cache_embeddings=True, workers=1))
    guard = Guard(Policy.from_text("No drinks."))
    rescan(guard, tmp_path / "old", tmp_path / "new")
    rows = by_name(tmp_path / "new")
    for name in names:
        assert record_of(rows[name]).verdict == guard.check(photos[name])


def test_rescan_of_a_scan_without_embeddings_says_what_to_do(guard, folder, tmp_path):
    scan(guard, [folder], tmp_path / "old", ONE_WORKER)
    with pytest.raises(ScanError, match="without --cache-embeddings; scan again"):
        rescan(guard, tmp_path / "old", tmp_path / "new")


@pytest.mark.parametrize("options, named", [({"shard": (1, 2)}, "--shard"), ({"max_rate": 5.0}, "--max-rate"),
                                            ({"shard": (2, 2), "frames": 2}, "--shard, --frames")])
def test_options_that_say_what_is_read_are_refused_in_a_rescan(guard, folder, tmp_path, options, named):
    scan(guard, [folder], tmp_path / "old", CACHED)
    with pytest.raises(ScanError, match=f"reads nothing; leave out {named}$"):
        rescan(guard, tmp_path / "old", tmp_path / "new", Options(**options))
    assert not (tmp_path / "new").exists()


def test_rescans_of_shares_are_shares_and_merge_into_the_rescan_of_the_whole(guard, folder, tmp_path):
    other = MeanGuard(Policy.from_text("Nothing bright."), guard.bundle.path)
    for name, shard in (("whole", (1, 1)), ("1", (1, 2)), ("2", (2, 2))):
        scan(guard, [folder], tmp_path / name, Options(workers=1, cache_embeddings=True, shard=shard))
        rescan(other, tmp_path / name, tmp_path / f"{name} again")
    merge_shards(tmp_path / "merged", [tmp_path / "1 again", tmp_path / "2 again"])
    assert rows_of(tmp_path / "merged") == rows_of(tmp_path / "whole again")


def test_control_c_ends_a_rescan_and_keeps_what_is_judged(guard, folder, files, tmp_path, monkeypatch):
    scan(guard, [folder], tmp_path / "old", CACHED)
    other = MeanGuard(Policy.from_text("Nothing bright."), guard.bundle.path)
    judge, interrupted, ended = other.judge, threading.Event(), threading.Event()

    def slow(embeddings):
        time.sleep(0.1)
        return judge(embeddings)

    def interrupt(progress) -> None:
        if progress.rows and not interrupted.is_set():
            interrupted.set()
            raise KeyboardInterrupt

    def run() -> None:
        with pytest.raises(KeyboardInterrupt):
            rescan(other, tmp_path / "old", tmp_path / "new", Options(batch_size=1), watch=interrupt)
        ended.set()

    monkeypatch.setattr(other, "judge", slow)
    threading.Thread(target=run, daemon=True).start()
    assert ended.wait(60)
    assert 0 < len(rows_of(tmp_path / "new")) < len(files)
    rescan(other, tmp_path / "old", tmp_path / "new")
    rescan(other, tmp_path / "old", tmp_path / "fresh")
    assert rows_of(tmp_path / "new") == rows_of(tmp_path / "fresh")
