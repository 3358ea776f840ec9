"""TensorRT engines are really built, for a GPU that need not be here, where TensorRT for RTX is installed."""

from __future__ import annotations

import json
import sys
from functools import cache
from pathlib import Path

import pytest
from fake_cuda import FakeCuda, FakeTensorRT
from tiny_qwen import write_checkpoint

from export import engines
from export.engines import Limits, build_engines
from export.failures import ExportError
from export.qwen.build import Order, export_qwen
from safeguard_sdk import Bundle

LIMITS = Limits(batch=2, patches=64, common_patches=16, policy=64, common_policy=16)


@pytest.fixture(scope="module")
def bundle_in(photos, tmp_path_factory):
    """bundle_in(scheme) → a bundle of a tiny checkpoint."""
    folder = tmp_path_factory.mktemp("engines")
    checkpoint, photo = write_checkpoint(folder / "checkpoint", "qwen2_5_vl"), _one_photo(photos, folder / "photos")

    @cache
    def export(scheme: str) -> Bundle:
        export_qwen(Order(checkpoint, folder / scheme, scheme, "safeguard-vl", gate_data=photo, questions=2,
                          max_drift=1, max_flips=1))
        return Bundle.open(folder / scheme)

    return export


def _one_photo(photos, folder: Path) -> Path:
    folder.mkdir()
    (folder / "cat.png").write_bytes(photos["chelsea.png"].read_bytes())
    return folder


# Products of bfloat16, int8, float8, and of bfloat16 with int8 and int4; for Ampere, Ada and Blackwell. Each takes
# seconds, so not every one for each.
@pytest.mark.parametrize(("scheme", "capability"), [
    ("fp16", "86"), ("w8a8", "86"), ("w8a8", "120"), ("fp8", "89"), ("w4a16", "86"), ("w4a16", "120")])
def test_engines_are_built_without_a_gpu_and_say_what_they_are_for(bundle_in, tmp_path, scheme, capability):
    pytest.importorskip("tensorrt_rtx", reason="TensorRT for RTX is not installed: pip install tensorrt-rtx-cu12")
    facts = build_engines(bundle_in(scheme), tmp_path, LIMITS, "tensorrt_rtx", capability)
    assert set(facts["engines"]) == {"vision.engine", "decoder.engine", "lm_head.engine"}
    assert {path.name for path in tmp_path.iterdir()} == {*facts["engines"], "engines.json"}
    assert all((tmp_path / name).stat().st_size > 10_000 for name in facts["engines"])
    assert json.loads((tmp_path / "engines.json").read_bytes()) == facts
    assert (facts["bundle_sha256"], facts["capability"]) == (bundle_in(scheme).sha256, capability)


@pytest.mark.parametrize("capability", ["87", "12345"])  # TensorRT for RTX has no Jetson Orin
def test_a_gpu_that_tensorrt_does_not_know_is_an_error_that_names_those_it_knows(bundle_in, tmp_path, capability):
    pytest.importorskip("tensorrt_rtx", reason="TensorRT for RTX is not installed: pip install tensorrt-rtx-cu12")
    with pytest.raises(ExportError, match=rf"knows no GPU of compute capability '{capability}'; it knows .*86"):
        build_engines(bundle_in("fp16"), tmp_path, LIMITS, "tensorrt_rtx", capability)


@pytest.mark.parametrize(("scheme", "capability", "says"), [
    ("fp8", "87", "engines of fp8 need .* 8.9 or later, this one has 8.7; export with another --quant"),
    ("fp16", "75", "engines of fp16 need .* 8.0 or later, this one has 7.5; run the bundle in ONNX Runtime")])
@pytest.mark.parametrize("named", [True, False])
def test_a_gpu_that_cannot_multiply_so_is_refused(bundle_in, tmp_path, monkeypatch, scheme, capability, says, named):
    monkeypatch.setitem(sys.modules, "tensorrt", FakeTensorRT(FakeCuda(), most_length=512))
    monkeypatch.setattr(engines, "open_runtime", lambda: FakeCuda(capability))
    with pytest.raises(ExportError, match=says):
        build_engines(bundle_in(scheme), tmp_path / "out", LIMITS, "tensorrt", capability if named else None)
    assert not (tmp_path / "out").exists()


def test_without_tensorrt_the_error_says_what_to_install(bundle_in, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "tensorrt", None)
    with pytest.raises(ExportError, match=r"tensorrt cannot be imported .* comes with JetPack or pip install"):
        build_engines(bundle_in("fp16"), tmp_path, LIMITS, "tensorrt", None)


def test_a_bundle_of_another_kind_is_refused(tmp_path):
    with pytest.raises(ExportError, match="engines are built from Qwen-VL bundles; nano runs in ONNX Runtime only"):
        build_engines(Bundle.embedded(), tmp_path, LIMITS, "tensorrt_rtx", "86")
