"""The containers and the script for a Jetson, as far as they can be checked without one."""

from __future__ import annotations

import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
JETSON = ROOT / "export" / "jetson"
EXTRAS = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["optional-dependencies"]


def instructions(jetpack: str) -> list[str]:
    joined = (JETSON / f"Dockerfile.jetpack{jetpack}").read_text(encoding="utf-8").replace("\\\n", " ")
    return [line for line in joined.splitlines() if line and not line.startswith("#")]


def installed(jetpack: str) -> tuple[set[str], list[str]]:
    """The extras of safeguard, and the words of the instruction that installs it."""
    (install,) = (line for line in instructions(jetpack) if "pip install" in line)
    return set(re.search(r"'\.\[([\w,]+)\]'", install).group(1).split(",")), install.split()


@pytest.mark.parametrize("jetpack", ["6", "7"])
def test_a_container_starts_from_a_version_and_has_what_engines_need(jetpack):
    assert re.fullmatch(r"FROM [\w./-]+:[\w.-]*\d[\w.-]*", instructions(jetpack)[0])
    extras, words = installed(jetpack)
    assert "tensorrt" in extras <= EXTRAS.keys() and "onnx" in words


def test_the_container_of_jetpack_6_keeps_the_runtime_that_its_base_brings():
    """onnxruntime from PyPI would lie over the one that was built with CUDA."""
    extras, _ = installed("6")
    assert not {"cpu", "gpu"} & extras
    assert not any("onnxruntime" in package for package in EXTRAS["tensorrt"])


def test_engines_are_built_without_what_a_container_does_not_have():
    """PyTorch and its like, gigabytes that only the export needs."""
    loaded = subprocess.run([sys.executable, "-c", "import sys, export.__main__, export.engines; print(*sys.modules)"],
                            cwd=ROOT, capture_output=True, text=True, check=True).stdout.split()
    assert "onnx" in loaded
    assert not {"torch", "transformers", "onnxscript", "optimum", "peft"} & set(loaded)


@pytest.mark.skipif(Path("/etc/nv_tegra_release").exists(), reason="this is a Jetson")
def test_engines_are_built_on_a_jetson_only():
    refused = subprocess.run(["bash", JETSON / "build.sh", "bundle", "engines"], capture_output=True, text=True)
    assert refused.returncode == 2
    assert refused.stderr == "error: this is no Jetson; engines are built where they run\n"
