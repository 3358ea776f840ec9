"""TensorRT engines are really built, for a GPU that need not be here, where TensorRT for RTX is installed."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from tiny_qwen import write_checkpoint

from export.engines import Limits, build_engines
from export.failures import ExportError
from export.qwen.build import Order, export_qwen
from safeguard_sdk import Bundle

LIMITS = Limits(batch=2, patches=64, common_patches=16, policy=64, common_policy=16)


@pytest.fixture(scope="module")
def bundle(photos, tmp_path_factory) -> Bundle:
    folder = tmp_path_factory.mktemp("engines")
    export_qwen(Order(write_checkpoint(folder / "checkpoint", "qwen2_5_vl"), folder / "bundle", "fp16", "safeguard-vl",
                      gate_data=_one_photo(photos, folder / "photos"), questions=2, max_drift=1, max_flips=1))
    return Bundle.open(folder / "bundle")


def _one_photo(photos, folder: Path) -> Path:
    folder.mkdir()
    (folder / "cat.png").write_bytes(photos["chelsea.png"].read_bytes())
    return folder


@pytest.mark.parametrize("capability", ["86", "89", "120"])  # Ampere, Ada, Blackwell
def test_engines_are_built_without_a_gpu_and_say_what_they_are_for(bundle, tmp_path, capability):
    pytest.importorskip("tensorrt_rtx", reason="TensorRT for RTX is not installed: pip install tensorrt-rtx-cu12")
    facts = build_engines(bundle, tmp_path, LIMITS, "tensorrt_rtx", capability)
    assert set(facts["engines"]) == {"vision.engine", "decoder.engine", "lm_head.engine"}
    assert {path.name for path in tmp_path.iterdir()} == {*facts["engines"], "engines.json"}
    assert all((tmp_path / name).stat().st_size > 10_000 for name in facts["engines"])
    assert json.loads((tmp_path / "engines.json").read_bytes()) == facts
    assert (facts["bundle_sha256"], facts["capability"]) == (bundle.sha256, capability)


@pytest.mark.parametrize("capability", ["87", "12345"])  # TensorRT for RTX has no Jetson Orin
def test_a_gpu_that_tensorrt_does_not_know_is_an_error_that_names_those_it_knows(bundle, tmp_path, capability):
    pytest.importorskip("tensorrt_rtx", reason="TensorRT for RTX is not installed: pip install tensorrt-rtx-cu12")
    with pytest.raises(ExportError, match=rf"knows no GPU of compute capability '{capability}'; it knows .*86"):
        build_engines(bundle, tmp_path, LIMITS, "tensorrt_rtx", capability)


def test_without_tensorrt_the_error_says_what_to_install(bundle, tmp_path, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "tensorrt", None)
    with pytest.raises(ExportError, match=r"tensorrt cannot be imported .* comes with JetPack or pip install"):
        build_engines(bundle, tmp_path, LIMITS, "tensorrt", None)


def test_a_bundle_of_another_kind_is_refused(tmp_path):
    pytest.importorskip("tensorrt_rtx", reason="TensorRT for RTX is not installed: pip install tensorrt-rtx-cu12")
    with pytest.raises(ExportError, match="engines are built from Qwen-VL bundles in fp32 or fp16"):
        build_engines(Bundle.embedded(), tmp_path, LIMITS, "tensorrt_rtx", "86")
