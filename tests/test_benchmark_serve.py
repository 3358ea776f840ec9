"""benchmarks/serve.py sees the answer to every request, and ends with one line of JSON. Its numbers are not judged."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]

pytest.importorskip("psutil", reason="benchmarks need the extra bench")
pytest.importorskip("fastapi", reason="the service needs the extra serve")

from benchmarks.serve import times_in_queue  # noqa: E402, where they are installed


def test_every_request_of_every_load_is_answered_and_rightly():
    run = subprocess.run([sys.executable, "-m", "benchmarks.serve", "--cheap", "--policy", "L1", "--seconds", "0.3",
                          "--clients", "1", "--clients", "4", "--requests", "200", "--hostile", "0.2"], cwd=ROOT,
                         env=os.environ | {"PYTHONPATH": str(ROOT)}, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    result = json.loads(run.stdout.splitlines()[-1])
    assert list(result["loads"]) == ["1 clients", "4 clients", "even, 80%", "at random, 80%", "at random, 200%",
                                     "afterwards"]
    assert min(result["check_many_img_per_s"]) > 0
    for load in result["loads"].values():
        assert (load["wrong"], load["lost"]) == (0, {})
        assert load["verdicts"] > 0 and load["rss_mib"]["most"] > 0
    full = result["loads"]["4 clients"]["statuses"]
    assert sum(full.values()) == 200 and set(full) == {"200", "413", "415", "422"}


@pytest.mark.parametrize("load", [0.2, 0.5, 0.8])
def test_the_queue_that_a_load_is_compared_with_is_that_of_the_theory(load):
    """Pollaczek and Khinchine: the mean wait before one server with a constant service is load / (2 (1 - load))."""
    assert times_in_queue(load).mean() == pytest.approx(1 + load / (2 * (1 - load)), rel=0.03)
