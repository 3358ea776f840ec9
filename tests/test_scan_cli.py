"""`safeguard scan`, `diff` and `merge`: what they print where, and their exit status."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from scan_world import DARK, MeanGuard, by_name, pictures, rows_of, write_folder
from typer.testing import CliRunner, Result

from safeguard_sdk import Policy, ScanError
from safeguard_sdk.cli import app
from safeguard_sdk.policy import Rule
from safeguard_sdk.scan import Options, rescan, scan
from safeguard_sdk.scan.diff import compare_scans
from safeguard_sdk.scan.merge import merge_shards

ROOT = Path(__file__).parents[1]
THRESHOLDS = {"safe": "unsafe_at: 1", "review": "{review_at: 0, unsafe_at: 1}", "unsafe": "unsafe_at: 0"}


def run(*args: object) -> Result:
    return CliRunner().invoke(app, [str(arg) for arg in args])


def error_line(result: Result) -> str:
    assert result.exit_code == 2
    assert result.stderr.startswith("error: ") and result.stderr.count("\n") == 1, result.stderr
    return result.stderr


@pytest.fixture
def guard(tmp_path) -> MeanGuard:
    return MeanGuard(DARK, tmp_path / "bundle")


@pytest.fixture
def folder(tmp_path, photos) -> Path:
    files = {f"{number:02}.png": data for number, data in enumerate(pictures(photos["coffee.png"], 20))}
    return write_folder(tmp_path / "photos", files)


# scan

def test_the_exit_status_follows_the_gravest_row_and_the_last_lines_say_what_was_found(photos, tmp_path):
    for label, status in (("safe", 0), ("unsafe", 1)):
        policy = tmp_path / f"{label}.yaml"
        policy.write_text(f"rules: [{{id: guns, forbids: guns, {THRESHOLDS[label]}}}]")
        result = run("scan", photos["flower.jpg"], "--policy", policy, "--out", tmp_path / label)
        assert result.exit_code == status and result.stdout.startswith("1 image: ") and f"1 {label}" in result.stdout
        assert str(tmp_path / label / "report.html") in result.stdout and "\x1b" not in result.stderr
    (tmp_path / "bad.jpg").write_bytes(b"no image")
    result = run("scan", tmp_path / "bad.jpg", "--policy", policy, "--out", tmp_path / "failed")
    assert result.exit_code == 2 and "1 failed" in result.stdout
    assert json.loads((tmp_path / "failed/summary.json").read_text())["failure_kinds"] == {"not_an_image": 1}


@pytest.mark.parametrize("args, says", [
    (("missing", "--policy", "L1", "--out", "out"), "missing: no such file or folder"),
    (("--policy", "L1", "--out", "out"), "name what to scan"),
    ((".", "--rescan", "old", "--policy", "L1", "--out", "out"), "one of the two"),
    ((".", "--policy", "L1", "--out", "out", "--shard", "3/2"), "--shard is '3/2', must be I/N"),
    (("--rescan", ".", "--policy", "L1", "--out", "out"), "is not the output of a scan"),
])
def test_a_scan_that_cannot_begin_is_one_line(tmp_path, monkeypatch, args, says):
    monkeypatch.chdir(tmp_path)
    assert says in error_line(run("scan", *args))


@pytest.mark.skipif(os.name == "nt", reason="signals")
def test_control_c_ends_with_status_130_and_the_same_command_goes_on(photos, tmp_path):
    files = {f"{number:03}.png": data for number, data in enumerate(pictures(photos["coffee.png"], 30))}
    write_folder(tmp_path / "photos", files)
    command = [sys.executable, "-c", "from safeguard_sdk.cli import app; app(prog_name='safeguard')", "scan",
               tmp_path / "photos", "--policy", "L1", "--out", tmp_path / "out", "--max-rate", "10", "--workers", "1"]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, env=os.environ | {"PYTHONPATH": str(ROOT)})
    while not (tmp_path / "out/ledger.sqlite").exists():
        time.sleep(0.1)
        assert process.poll() is None
    time.sleep(1)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate()
    assert (process.returncode, errors) == (130, b"")
    result = run("scan", tmp_path / "photos", "--policy", "L1", "--out", tmp_path / "out")
    assert result.exit_code in (0, 1) and len(rows_of(tmp_path / "out")) == len(files)


@pytest.mark.skipif(os.name == "nt", reason="signals")
def test_control_c_ends_a_scan_that_waits_for_its_list(tmp_path):
    command = [sys.executable, "-c", "from safeguard_sdk.cli import app; app(prog_name='safeguard')", "scan", "-",
               "--policy", "L1", "--out", tmp_path / "out", "--workers", "1"]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stderr=subprocess.PIPE,
                               env=os.environ | {"PYTHONPATH": str(ROOT)})
    while not (tmp_path / "out/ledger.sqlite").exists():
        time.sleep(0.1)
        assert process.poll() is None
    time.sleep(1)
    process.send_signal(signal.SIGINT)
    try:
        assert (process.wait(60), process.stderr.read()) == (130, b"")  # with its stdin open still
    finally:
        process.kill()
        process.communicate()


@pytest.mark.parametrize("option", [("--column", "path"), ("--retry-failed",), ("--video",), ("--ray", "local"),
                                    ("--shard", "1/2"), ("--frames", "2"), ("--max-rate", "9")])
def test_an_option_that_says_what_is_read_is_refused_beside_rescan(tmp_path, option):
    result = run("scan", "--rescan", tmp_path, "--policy", "L1", "--out", tmp_path / "out", *option)
    assert f"reads nothing; leave out {option[0]}\n" in error_line(result)
    assert not (tmp_path / "out").exists()


# diff

def test_diff_tells_which_verdicts_changed_and_how(guard, folder, tmp_path):
    scan(guard, [folder], tmp_path / "old", Options(workers=1))
    stricter = MeanGuard(Policy("strict", "1", (Rule("dark", text="Nothing dark."), Rule("red", text="Nothing red."),
                                                Rule("all", text="Nothing.", review_at=0.0, unsafe_at=1.0))),
                         guard.bundle.path)
    (folder / "03.png").write_bytes(b"broken")
    (folder / "05.png").unlink()
    (folder / "<new>.png").write_bytes((folder / "06.png").read_bytes())
    scan(stricter, [folder], tmp_path / "new", Options(workers=1))
    old, new = by_name(tmp_path / "old"), by_name(tmp_path / "new")
    expected = {str(folder / name): (old[name]["label"] if name in old else "absent",
                                     (new[name]["label"] or "failed") if name in new else "absent")
                for name in old.keys() | new.keys()
                if name not in old or name not in new
                or (old[name]["label"], old[name]["rule"]) != (new[name]["label"], new[name]["rule"])}
    result = run("diff", tmp_path / "old", tmp_path / "new", "--json", "--html", tmp_path / "page.html")
    rows = [json.loads(line) for line in result.stdout.splitlines()]
    assert {row["name"]: (row["before"]["label"], row["after"]["label"]) for row in rows} == expected
    assert result.exit_code == 1 and len(rows) == len(expected) > 3
    text = run("diff", tmp_path / "old", tmp_path / "new").stdout
    assert text.startswith(f"{len(expected)} of 21 changed\n") and "safe → review" in text
    page = (tmp_path / "page.html").read_text()
    assert "&lt;new&gt;.png" in page and "<new>" not in page


def test_diff_of_equal_scans_has_status_0(guard, folder, tmp_path):
    for out, workers in (("old", 1), ("new", 2)):
        scan(guard, [folder], tmp_path / out, Options(workers=workers, part_rows=3))
    result = run("diff", tmp_path / "old", tmp_path / "new")
    assert (result.exit_code, result.stdout) == (0, "0 of 20 changed\n")


def test_diff_names_the_folder_that_is_no_scan(tmp_path):
    assert "is not the output of a scan" in error_line(run("diff", tmp_path, tmp_path))


def test_a_score_that_moves_within_its_label_is_no_change(guard, folder, tmp_path):
    scan(guard, [folder], tmp_path / "old", Options(workers=1))
    assert compare_scans(tmp_path / "old", tmp_path / "old").total == 0


# shards

def test_shards_share_the_images_and_merge_into_the_rows_of_one_scan(guard, folder, tmp_path):
    (folder / "notes.txt").write_text("hello")
    (folder / "bad.png").write_bytes(b"x")
    whole = scan(guard, [folder], tmp_path / "whole", Options(workers=1, cache_embeddings=True))
    shards = [tmp_path / f"out-{number}" for number in (1, 2, 3)]
    for number, out in enumerate(shards, start=1):
        scan(guard, [folder], out, Options(workers=1, shard=(number, 3), cache_embeddings=True))
    assert all(0 < len(rows_of(out)) < 21 for out in shards)
    result = run("merge", tmp_path / "merged", *shards)
    assert result.exit_code == 2 and "21 images" in result.stdout  # one of them failed
    assert rows_of(tmp_path / "merged") == rows_of(tmp_path / "whole")
    summary = json.loads((tmp_path / "merged/summary.json").read_text())
    assert {**summary, "last_run": 0} == {**whole, "last_run": 0}


def test_shards_that_are_missing_unfinished_or_of_another_scan_are_refused(guard, folder, tmp_path):
    outs = [tmp_path / f"out-{number}" for number in (1, 2)]
    for number, out in enumerate(outs, start=1):
        scan(guard, [folder], out, Options(workers=1, shard=(number, 2)))
    with pytest.raises(ScanError, match="the shares 1/2 are not all of one scan"):
        merge_shards(tmp_path / "merged", outs[:1])
    with pytest.raises(ScanError, match="the shares 1/2, 1/2, 2/2 are not all"):
        merge_shards(tmp_path / "merged", [*outs, outs[0]])
    (outs[1] / "summary.json").unlink()
    with pytest.raises(ScanError, match="is not finished"):
        merge_shards(tmp_path / "merged", outs)
    other = MeanGuard(Policy.from_text("No cats."), guard.bundle.path)
    scan(other, [folder], tmp_path / "other", Options(workers=1, shard=(2, 2)))
    with pytest.raises(ScanError, match="has another policy"):
        merge_shards(tmp_path / "merged", [outs[0], tmp_path / "other"])
    assert not (tmp_path / "merged").exists()


@pytest.mark.parametrize("damage", [lambda part: part.write_bytes(part.read_bytes()[:-40] + bytes(40)), Path.unlink],
                         ids=["altered", "missing"])
def test_a_part_that_is_not_what_was_written_is_neither_merged_compared_nor_judged_again(
        guard, folder, tmp_path, damage):
    for out in ("old", "new"):
        scan(guard, [folder], tmp_path / out, Options(workers=1, cache_embeddings=True))
    damage(tmp_path / "old/parts/part-00000001.parquet")
    for command in (("merge", tmp_path / "merged", tmp_path / "old"), ("diff", tmp_path / "new", tmp_path / "old")):
        assert "part-00000001.parquet: is damaged or missing; run its scan again" in error_line(run(*command))
    with pytest.raises(ScanError, match="is damaged or missing"):
        rescan(guard, tmp_path / "old", tmp_path / "again")
    assert not (tmp_path / "merged").exists()


def test_a_scan_that_is_not_finished_is_neither_compared_nor_judged_again(guard, folder, tmp_path):
    for out in ("old", "new"):
        scan(guard, [folder], tmp_path / out, Options(workers=1, cache_embeddings=True))
    (tmp_path / "old/summary.json").unlink()
    assert "is not finished" in error_line(run("diff", tmp_path / "old", tmp_path / "new"))
    with pytest.raises(ScanError, match="is not finished"):
        rescan(guard, tmp_path / "old", tmp_path / "again")


def test_a_cluster_is_not_asked_for_a_gpu_that_its_actors_would_not_use(photos, tmp_path):
    result = CliRunner().invoke(app, ["scan", str(photos["chelsea.png"]), "--policy", "L1", "--out", str(tmp_path),
                                      "--ray", "local", "--provider", "cuda"])
    assert result.exit_code == 2
    assert "--ray judges on the CPUs of its cluster; leave out --provider and --engines" in result.stderr
