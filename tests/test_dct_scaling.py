"""benchmarks/dct_scaling.py compares what it says and ends with one line of JSON. Its numbers are not judged here."""

import json
import random
import subprocess
import sys
from pathlib import Path

import numpy as np
from image_files import file_of
from PIL import Image

from benchmarks.dct_scaling import AGAIN, EXACT, ROOMS, interval, moved, pictures, readings
from safeguard_sdk import Policy, Verdict
from safeguard_sdk.image import SquareGeometry

ROOT = Path(__file__).parents[1]


def verdict(policy: Policy, label: str, score: float) -> Verdict:
    return Verdict(label, score, None, {rule.id: score for rule in policy.rules}, "", "", "")


def test_a_flip_is_another_label_and_drift_is_in_scores():
    policy = Policy.packaged("L1")  # one rule
    (rule,) = policy.rules
    below, above = rule.review_at - 0.01, rule.unsafe_at
    pairs = [(verdict(policy, "safe", below), verdict(policy, "unsafe", above)),
             (verdict(policy, "safe", 0.0), verdict(policy, "safe", 0.0))]
    result = moved(policy, pairs)
    assert (result["verdict_flips"], result["verdicts"], result["rule_flips"], result["scores"]) == (1, 2, 1, 2)
    assert result["drift_max"] == round(above - below, 4) and result["drift_mean"] == round((above - below) / 2, 4)


def test_small_photos_are_made_large_in_two_ways_and_large_ones_stay_as_they_are(photos, tmp_path):
    with Image.open(photos["china.jpg"]) as photo:
        (tmp_path / "small.jpg").write_bytes(file_of(photo.resize((120, 90)), "JPEG"))
    made = list(pictures(tmp_path, 2, 100, random.Random(0)))
    assert [kind for kind, _ in made] == ["enlarged", "mosaic"]
    (tmp_path / "small.jpg").write_bytes(photos["china.jpg"].read_bytes())  # 640 × 427
    assert list(pictures(tmp_path, 1, 100, random.Random(0))) == [("as it is", photos["china.jpg"].read_bytes())]


def test_each_reading_is_named_by_the_room_that_its_scale_leaves(photos):
    geometry = SquareGeometry(side=100, mean=(0.5,) * 3, std=(0.5,) * 3)
    decoded = readings(photos["china.jpg"].read_bytes(), geometry)  # 640 × 427
    assert {name: rgb.shape[:2] for name, rgb in decoded.items()} == {
        EXACT: (427, 640), AGAIN: (427, 640), "2 to 2.5": (214, 320), "1 to 1.25": (107, 160)}
    assert [interval(room) for room in (1, 1.24, 1.25, 3.4)] == ["1 to 1.25", "1 to 1.25", "1.25 to 1.5", "2.5 to 3.5"]


def test_the_last_line_is_json_with_every_reading(photos, tmp_path):
    with Image.open(photos["china.jpg"]) as photo:
        photo.resize((384, 256)).save(tmp_path / "photo.jpg")
    run = subprocess.run([sys.executable, "-m", "benchmarks.dct_scaling", tmp_path, "--count", "2", "--policy", "L1"],
                         cwd=ROOT, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    result = json.loads(run.stdout.splitlines()[-1])
    assert set(result["moved"]) == {"enlarged", "mosaic"}
    for rows in result["moved"].values():
        assert AGAIN in rows and len(rows) >= 2 and set(rows) <= {AGAIN, *map(interval, ROOMS[:-1])}
        assert all(row["verdicts"] == 1 and np.isfinite(row["drift_max"]) for row in rows.values())


def test_a_folder_without_photos_is_one_line(tmp_path):
    run = subprocess.run([sys.executable, "-m", "benchmarks.dct_scaling", tmp_path], cwd=ROOT, capture_output=True,
                         text=True)
    assert (run.returncode, run.stdout) == (2, "")
    assert run.stderr.startswith(f"error: {tmp_path}: holds no JPEG files") and run.stderr.count("\n") == 1
