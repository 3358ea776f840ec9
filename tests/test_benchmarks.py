"""benchmarks/run.py measures what it says and ends with one line of JSON. Its numbers are not judged here."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from safeguard_sdk import Bundle, Policy

ROOT = Path(__file__).parents[1]

pytest.importorskip("psutil", reason="benchmarks need the extra bench")


def benchmark(*args: object) -> subprocess.CompletedProcess:
    return subprocess.run([sys.executable, "benchmarks/run.py", *map(str, args)], cwd=ROOT, text=True,
                          env=os.environ | {"PYTHONPATH": str(ROOT)}, capture_output=True)


def test_the_last_line_is_json_with_every_number_and_what_it_depends_on(photos, tmp_path):
    shutil.copy(photos["coffee.png"], tmp_path)
    run = benchmark("--seconds", 0.1, "--policy", "L1", "--images", tmp_path, "--threads", 1,
                    "--bundle", Bundle.embedded().path)
    assert run.returncode == 0, run.stderr
    result = json.loads(run.stdout.splitlines()[-1])
    assert list(result["latency_ms"]) == ["decode", "patches", "vision", "prefill", "total"]
    for percentiles in result["latency_ms"].values():
        assert 0 < percentiles["p50"] <= percentiles["p90"] <= percentiles["p99"]
    assert min(result[number] for number in ("checks", "img_per_s", "cold_start_s", "rss_mb", "cores")) > 0
    assert (result["policy_sha256"], result["bundle_sha256"]) == (Policy.packaged("L1").sha256,
                                                                  Bundle.embedded().sha256)
    assert (result["threads"], result["images"], result["rules"]) == (1, 1, 1)


def test_what_cannot_be_measured_is_one_line(tmp_path):
    run = benchmark("--images", tmp_path)
    assert (run.returncode, run.stdout) == (2, "")
    assert run.stderr.startswith(f"error: {tmp_path}: holds no files") and run.stderr.count("\n") == 1
