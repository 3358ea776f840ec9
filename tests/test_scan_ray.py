"""A scan through Ray Data, on a real Ray on this machine: the same rows, the same way to go on."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest
from PIL import Image
from scan_world import pictures, rows_of, write_folder
from test_scan_sources import zip_of

from safeguard_sdk import Guard, Policy, ScanError
from safeguard_sdk.scan import Options, scan

pytest.importorskip("ray", reason="the extra ray is not installed")
POLICY = Policy.from_text("No cups.")
HAS_PDQ = importlib.util.find_spec("pdqhash") is not None
OPTIONS = Options(workers=1, part_rows=8, actors=1, near_duplicates=HAS_PDQ)


@pytest.mark.filterwarnings("ignore")  # of Ray's own code
def test_a_scan_through_ray_has_the_rows_of_any_other_and_goes_on_where_it_was(photos, tmp_path, monkeypatch):
    monkeypatch.setenv("RAY_worker_niceness", "0")  # its default, 15, starves on a busy machine
    guard = Guard(POLICY)
    made = pictures(photos["coffee.png"], 8, side=64)
    folder = write_folder(tmp_path / "photos", {f"{number}.png": data for number, data in enumerate(made[:4])} | {
        "bad.png": b"x", "copy.png": made[0], "late.zip": b"cut off"})
    with Image.open(folder / "1.png") as picture:
        picture.save(folder / "nearly.jpg")
    scan(guard, [folder], tmp_path / "out", OPTIONS)
    write_folder(folder, {f"{number}.png": data for number, data in enumerate(made)} | {
        "notes.txt": b"hello", "late.zip": zip_of({"late.png": made[0]})})
    summary = scan(guard, [folder], tmp_path / "out", OPTIONS, cluster="local", retry_failed=True)
    assert (summary["rows"], summary["last_run"]["rows"], summary["failed"]) == (12, 6, 1)  # bad.png is tried again
    assert summary["skipped"] == {".txt": 1}
    plain = scan(guard, [folder], tmp_path / "plain", OPTIONS)
    assert rows_of(tmp_path / "out") == rows_of(tmp_path / "plain")
    assert summary["near_duplicates"] == plain["near_duplicates"]
    assert not HAS_PDQ or summary["near_duplicates"]["groups"] == 1


@pytest.mark.parametrize("options", [Options(cache_embeddings=True), Options(max_rate=9)])
def test_what_does_not_go_with_ray_is_refused(photos, tmp_path, options):
    with pytest.raises(ScanError, match="--ray does not go with --cache-embeddings, --max-rate or a list on stdin"):
        scan(Guard(POLICY), [Path(photos["coffee.png"])], tmp_path / "out", options, cluster="local")
    assert not (tmp_path / "out").exists()
