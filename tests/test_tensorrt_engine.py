"""TensorRT engines from the host's side: no GPU is here, so memory, streams and recordings are those of fake_cuda.py,
and an engine computes what the graph that it would be built from computes."""

from __future__ import annotations

import gc
import json
import sys
from pathlib import Path

import numpy as np
import pytest
from fake_cuda import FakeCuda, FakeTensorRT
from PIL import Image
from tiny_qwen import write_checkpoint
from typer.testing import CliRunner

from export.__main__ import app
from export.qwen.build import Order, export_qwen
from safeguard_sdk import Bundle, EngineError, Guard, Policy
from safeguard_sdk.bundle import file_sha256
from safeguard_sdk.engine import tensorrt
from safeguard_sdk.engine.tensorrt import EngineFolder, EngineGraph

POLICY = Policy.from_text("No weapons, no smoking. Kitchen knives are fine.")
SIZES = ((84, 56), (56, 84), (84, 56), (168, 56), (84, 56))  # (width, height)
PHOTOS = ("astronaut.png", "chelsea.png", "coffee.png", "rocket.jpg", "china.jpg")


@pytest.fixture(scope="module")
def bundle(photos, tmp_path_factory) -> Bundle:
    folder = tmp_path_factory.mktemp("tensorrt")
    (folder / "photos").mkdir()
    (folder / "photos" / "cat.png").write_bytes(photos["chelsea.png"].read_bytes())
    checkpoint = write_checkpoint(folder / "checkpoint", "qwen3_vl", tied=True)
    export_qwen(Order(checkpoint, folder / "bundle", "fp32", "safeguard-vl", gate_data=folder / "photos", questions=2))
    return Bundle.open(folder / "bundle")


@pytest.fixture(scope="module")
def images(photos) -> list[np.ndarray]:
    found = []
    for name, size in zip(PHOTOS, SIZES, strict=True):
        with Image.open(photos[name]) as photo:
            found.append(np.asarray(photo.convert("RGB").resize(size)))
    return found


@pytest.fixture
def cuda(monkeypatch) -> FakeCuda:
    """The GPU, and TensorRT on it."""
    fake = FakeCuda()
    monkeypatch.setattr(tensorrt, "open_runtime", lambda: fake)
    monkeypatch.setitem(sys.modules, "tensorrt", FakeTensorRT(fake, most_length=512))
    return fake


@pytest.fixture
def engines(bundle, tmp_path) -> Path:
    """What `python -m export tensorrt` writes, but for the engines themselves."""
    names = [path.stem for path in bundle.path.glob("*.onnx")]
    for name in names:
        (tmp_path / f"{name}.engine").write_text(str(bundle.path / f"{name}.onnx"))
    describe(tmp_path, bundle_sha256=bundle.sha256, engines={
        f"{name}.engine": file_sha256(tmp_path / f"{name}.engine") for name in names})
    return tmp_path


def describe(folder: Path, **changed: object) -> None:
    path = folder / "engines.json"
    facts = json.loads(path.read_text()) if path.is_file() else {
        "module": "tensorrt", "version": "10.9", "capability": "86", "limits": {"batch": 2}}
    path.write_text(json.dumps(facts | changed))


# Verdicts.

def test_verdicts_are_those_of_the_graphs(bundle, engines, cuda, images):
    plain, guard = Guard(POLICY, bundle), Guard(POLICY, bundle, engines=engines)
    for image in (*images, *images):  # the second time from a recording
        assert guard.check(image).rules == plain.check(image).rules
    assert guard.engine.providers == {name: ["tensorrt 10.9"] for name in guard.engine.providers}


def test_images_together_are_as_many_as_the_engine_was_built_for(bundle, engines, cuda, images):
    plain, guard = Guard(POLICY, bundle), Guard(POLICY, bundle, engines=engines)
    alike = [images[0]] * 5  # three batches: two, two and one
    assert [verdict.rules for verdict in guard.check_many(alike)] == [
        verdict.rules for verdict in plain.check_many(alike)]


def test_a_policy_of_several_rules_keeps_the_cache_of_each_on_the_device(bundle, engines, cuda, images):
    policy = Policy.packaged("L3")
    plain, guard = Guard(policy, bundle), Guard(policy, bundle, engines=engines)
    for image in images[:2] * 2:
        assert guard.check(image).rules == plain.check(image).rules
    copied = []
    copy, cuda.cudaMemcpyAsync = cuda.cudaMemcpyAsync, lambda *call: copied.append(call[2]) or copy(*call)
    guard.check(images[0])
    assert sum(copied) < 4 * max(array.memory.size for prefix in guard._prefixes.values()
                                 for array in prefix.keys_values) * len(policy.rules)


def test_text_is_written_on_the_same_cache(bundle, engines, cuda, images):
    assert Guard(POLICY, bundle, engines=engines).explain(images[0]).rationale == Guard(
        POLICY, bundle).explain(images[0]).rationale


def test_the_gate_compares_engines_with_the_checkpoint(bundle, engines, cuda, tmp_path):
    asked = [app, ["gate", str(bundle.path), str(bundle.path.parent / "checkpoint"), "--questions", "4",
                   "--gate-data", str(bundle.path.parent / "photos"), "--engines", str(engines), "--max-drift", "1e-5"]]
    assert CliRunner().invoke(*asked).exit_code == 0
    other = tmp_path / "decoder.onnx"
    other.write_bytes((bundle.path / "decoder.onnx").read_bytes())
    (1.1 * np.fromfile(bundle.path / "decoder.bin", np.float32)).tofile(tmp_path / "decoder.bin")
    (engines / "decoder.engine").write_text(str(other))
    describe(engines, engines={path.name: file_sha256(path) for path in engines.glob("*.engine")})
    refused = CliRunner().invoke(*asked)
    assert refused.exit_code == 1 and "is as it was, but do not use it" in refused.stderr


# CUDA graphs.

def test_what_comes_again_is_one_launch_for_each_graph(bundle, engines, cuda, images):
    guard = Guard(POLICY, bundle, engines=engines)
    guard.check(images[0]), guard.check(images[0])
    assert cuda.launches == 0  # the second time it was recorded
    guard.check(images[2])  # another photo of this size
    assert cuda.launches == 2  # vision and decoder


def test_recordings_of_other_shapes_do_not_disturb_each_other(bundle, engines, cuda, images):
    plain, guard = Guard(POLICY, bundle), Guard(POLICY, bundle, engines=engines)
    expected = [plain.check(image).rules for image in images]
    for _ in range(3):
        assert [guard.check(image).rules for image in images] == expected
        assert [guard.check(image).rules for image in images[::-1]] == expected[::-1]
    assert cuda.launches > 0


def test_only_so_many_recordings_are_kept_and_the_rest_is_given_back(bundle, engines, cuda, images, monkeypatch):
    monkeypatch.setattr(tensorrt, "RECORDINGS", 1)
    guard = Guard(POLICY, bundle, engines=engines)
    for image in images:
        guard.check(image), guard.check(image)
    gc.collect()
    few = len(cuda.device)
    for image in images * 2:
        guard.check(image), guard.check(image)
    gc.collect()
    assert len(cuda.device) == few


def test_all_memory_is_given_back_with_the_guard(bundle, engines, cuda, images):
    guard = Guard(POLICY, bundle, engines=engines)
    guard.check(images[0]), guard.check(images[0])
    assert cuda.device and cuda.host
    del guard
    gc.collect()
    assert not cuda.device and not cuda.host


# What does not fit.

def test_sizes_that_the_engine_was_not_built_for_are_an_error(bundle, engines, cuda, images):
    sys.modules["tensorrt"].most_length = 16
    with pytest.raises(EngineError, match=r"decoder.engine: was not built for inputs_embeds of the shape \(1, .*"
                                          r"build the engines again: .* larger --batch, --patches or --policy-tokens"):
        Guard(POLICY, bundle, engines=engines)


@pytest.mark.parametrize(("changed", "message"), [
    ({"bundle_sha256": "0" * 64}, "was built from another bundle than"),
    ({"version": "10.3"}, r"was built by tensorrt 10.3, 10.9 is installed; build the engines again"),
    ({"capability": "120"}, r"is for a GPU of compute capability 120, this one has 86"),
    ({"module": "tensorrt_none"}, "tensorrt_none cannot be imported"),
    ({"limits": {}}, r"is no folder of engines \(KeyError: 'batch'\)"),
])
def test_engines_for_something_else_are_refused(bundle, engines, cuda, changed, message):
    describe(engines, **changed)
    with pytest.raises(EngineError, match=message):
        EngineFolder.open(engines, bundle)


def test_an_engine_that_was_changed_is_refused(bundle, engines, cuda):
    (engines / "decoder.engine").write_bytes(b"another")
    with pytest.raises(EngineError, match=r"decoder.engine: is missing or not what engines.json says"):
        EngineFolder.open(engines, bundle)


def test_an_engine_that_tensorrt_cannot_load_is_an_error(bundle, engines, cuda, monkeypatch):
    folder = EngineFolder.open(str(engines), bundle)
    monkeypatch.setattr(folder.runtime, "deserialize_cuda_engine", lambda data: None)
    with pytest.raises(EngineError, match=r"vision.engine: tensorrt 10.9 cannot load it on this GPU"):
        EngineGraph(folder, "vision")


def test_a_device_that_is_full_is_an_error_that_says_so(bundle, engines, cuda):
    cuda.most = 10_000
    with pytest.raises(EngineError, match="CUDA could not do Malloc: cudaErrorMemoryAllocation; see to the driver"):
        Guard(POLICY, bundle, engines=engines)


def test_without_the_bindings_of_cuda_the_error_says_what_to_install(bundle, engines, monkeypatch):
    monkeypatch.setitem(sys.modules, "tensorrt", FakeTensorRT(FakeCuda(), most_length=512))
    monkeypatch.setitem(sys.modules, "cuda.bindings", None)
    with pytest.raises(EngineError, match=r"bindings of CUDA cannot be imported .*pip install 'safeguard\[tensorrt\]'"):
        EngineFolder.open(engines, bundle)


def test_nano_has_no_engines(tmp_path):
    with pytest.raises(EngineError, match="runs in ONNX Runtime only; leave out the folder of engines"):
        Guard(POLICY, engines=tmp_path)
