"""Nothing leaves the machine: ONNX Runtime is told so before it is loaded, whatever part of the project loads it."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
# What ONNX Runtime takes as a reason to stay silent; the first run of a user has none of it.
REASONS = ("ORT_DISABLE_TELEMETRY", "ORT_RUNNING_UNIT_TESTS", "CI", "GITHUB_ACTIONS", "GITLAB_CI", "TF_BUILD")
SEEN_AT_IMPORT = """
import os, sys
sys.addaudithook(lambda event, arguments: event == "import" and arguments[0] == "onnxruntime"
                 and print("loaded with", os.environ.get("ORT_DISABLE_TELEMETRY")))
"""


def run(code: str, home: Path, **environment: str) -> subprocess.CompletedProcess:
    kept = {name: value for name, value in os.environ.items() if name not in REASONS}
    return subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True,
                          env=kept | {"HOME": str(home), "XDG_CACHE_HOME": str(home / "cache")} | environment)


def test_a_verdict_leaves_no_trace_in_the_home_of_the_user(photos, tmp_path):
    """With telemetry on, an identifier of the machine and a database of events would lie there."""
    judged = run(f"from safeguard_sdk import Guard, Policy\n"
                 f"print(Guard(Policy.from_text('No cats.')).check({str(photos['chelsea.png'])!r}).label)", tmp_path)
    assert judged.stdout.strip() in ("safe", "review", "unsafe")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("module", ["safeguard_sdk.engine.session", "benchmarks.operators", "training.nano.vision",
                                    "benchmarks.decoder"])
def test_whoever_loads_the_runtime_has_turned_it_off_before(module, tmp_path):
    if module.startswith(("benchmarks.decoder", "training")):
        pytest.importorskip("torch")
    seen = run(f"{SEEN_AT_IMPORT}\nimport {module}", tmp_path).stdout.splitlines()
    assert set(seen) == {"loaded with 1"}


def test_an_application_that_loaded_the_runtime_first_is_warned(tmp_path):
    """CI=1 keeps the runtime silent in this test; that it may not be is told all the same."""
    answer = run("import onnxruntime, safeguard_sdk", tmp_path, CI="1")
    assert "Import safeguard_sdk first, or set ORT_DISABLE_TELEMETRY=1" in answer.stderr
    assert run("import onnxruntime, safeguard_sdk", tmp_path, ORT_DISABLE_TELEMETRY="1").stderr == ""
