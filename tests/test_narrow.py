"""Weights in few bits: what is stored is what is multiplied, products are close, and no row sees its neighbours."""

from __future__ import annotations

import platform
import shutil
import subprocess
import sys
from collections import Counter

import numpy as np
import onnxruntime
import pytest
from onnx import helper, numpy_helper
from products import correlated, matmul

from export import narrow
from export.narrow import BITS, BLOCK, Narrow, multiply_in_int8, narrowed, read_narrow, save_narrow, save_unsigned_twin
from export.quantize import save_split
from safeguard_sdk import _fast
from safeguard_sdk.engine import session as sessions
from safeguard_sdk.engine.narrow import unsigned_twin, widened
from safeguard_sdk.engine.session import open_session
from safeguard_sdk.errors import EngineError

RANDOM = np.random.default_rng(0)


def random_narrow(bits: int, inputs: int = 96, outputs: int = 40) -> Narrow:
    return Narrow(bits, RANDOM.integers(0, 2**bits, (inputs, outputs), dtype=np.uint8),
                  RANDOM.integers(0, 256, (inputs // BLOCK, outputs), dtype=np.uint8),
                  RANDOM.uniform(0.001, 0.1, outputs).astype(np.float32))


def widen(parts: dict[str, np.ndarray], threads: int = 1) -> np.ndarray:
    """(inputs, outputs) levels."""
    out = np.empty((len(parts["nibbles"]), 2 * parts["nibbles"].shape[1]), np.int8)
    _fast.widen(**parts, out=out, threads=threads)
    return out.astype(int)


def stored_graph(weight: np.ndarray, bits: int, folder) -> tuple:
    """A product in int8, written as an export does: its graph, and the weight that it multiplies with."""
    model = matmul(weight)
    weights = multiply_in_int8(model, {"weight": bits}, {"weight": np.eye(len(weight))})
    save_narrow(weights, folder / "decoder.onnx")
    graph = save_split(model, folder / "decoder.onnx")[0]
    save_unsigned_twin(graph)
    return graph, weights["weight"].weight


def product(session, x: np.ndarray) -> np.ndarray:
    return session.run(None, {"x": x})[0]


# What is stored.

@pytest.mark.parametrize("bits", BITS)
def test_levels_are_the_code_times_the_factor_in_the_range_of_int8(bits):
    weight = random_narrow(bits, inputs=BLOCK * 256, outputs=8)  # every code with every factor
    weight.factors[:] = np.arange(256)[:, None]
    weight.codes[:] = np.arange(BLOCK * 256)[:, None] % 2**bits
    levels = widen(weight.parts(), threads=2)
    exact = (weight.codes - 2.0**(bits - 1)) * np.repeat(weight.factors, BLOCK, 0) / 2**bits
    np.testing.assert_array_equal(levels, np.floor(exact + 0.5))
    assert levels.min() == -127 and levels.max() <= 127


@pytest.mark.parametrize("threads", [1, 2, 7])
@pytest.mark.parametrize("bits", BITS)
@pytest.mark.parametrize("outputs", [8, 40, 960])
def test_the_compiled_part_widens_as_the_export_says(bits, outputs, threads):
    weight = random_narrow(bits, outputs=outputs)
    levels = widen(weight.parts(), threads).astype(np.float32)
    np.testing.assert_array_equal(levels * weight.scales, weight.weight)


@pytest.mark.parametrize("bits", BITS)
def test_parts_give_the_weight_again_in_the_bits_that_were_asked_for(bits):
    weight = random_narrow(bits)
    parts = weight.parts()
    again = Narrow.of_parts(**parts, scales=weight.scales)
    assert again.bits == bits
    np.testing.assert_array_equal(again.codes, weight.codes)
    assert 8 * sum(array.nbytes for array in parts.values()) == weight.codes.size * (bits + 8 / BLOCK)


@pytest.mark.parametrize("spoil", [
    lambda parts: parts | {"nibbles": parts["nibbles"][:31]},
    lambda parts: parts | {"planes": parts["planes"][:, :64]},
    lambda parts: parts | {"planes": np.zeros((3, 96, 5), np.uint8)},  # 7 bits
    lambda parts: parts | {"factors": parts["factors"][:2]},
    lambda parts: parts | {"factors": parts["factors"][:, :8]}])
def test_arrays_that_do_not_fit_each_other_are_refused(spoil):
    with pytest.raises(ValueError, match=r"do not fit the nibbles|a weight has a multiple of 32 inputs"):
        widen(spoil(random_narrow(5).parts()))


def test_no_thread_is_an_error():
    with pytest.raises(ValueError, match="by a thread or more"):
        widen(random_narrow(5).parts(), threads=0)


@pytest.mark.parametrize("out", [np.empty((96, 41), np.int8), np.empty((96, 40), np.uint8),
                                 np.empty((96, 80), np.int8)[:, ::2], np.frombuffer(bytes(96 * 40), np.int8)])
def test_a_place_that_levels_cannot_be_written_to_is_refused(out):
    with pytest.raises((ValueError, TypeError)):
        _fast.widen(**random_narrow(5).parts(), out=out.reshape(96, -1) if out.ndim == 1 else out, threads=1)


# How weights are rounded.

@pytest.mark.parametrize("bits, most", [(4, 0.13), (5, 0.065), (6, 0.035)])
def test_the_error_of_a_weight_falls_by_half_with_each_bit(bits, most):
    weight = RANDOM.normal(size=(4 * BLOCK, 24)).astype(np.float32) * RANDOM.uniform(0.01, 10, 24).astype(np.float32)
    error = narrowed(weight, bits, np.eye(len(weight))).weight - weight
    assert (np.sqrt((error**2).mean(0)) < most * weight.std(0)).all()


def test_with_the_moments_of_the_inputs_the_product_is_kept_better():
    inputs = correlated(RANDOM, 500, 3 * BLOCK)
    weight = RANDOM.normal(size=(3 * BLOCK, 40)).astype(np.float32)

    def error(moments: np.ndarray) -> float:
        return float(np.square(inputs @ (narrowed(weight, 4, moments).weight - weight)).mean())
    assert error(inputs.T @ inputs / len(inputs)) < 0.5 * error(np.eye(3 * BLOCK))


@pytest.mark.parametrize("weight", [np.zeros((BLOCK, 8), np.float32),
                                    np.pad(np.ones((BLOCK, 8), np.float32), ((0, BLOCK), (0, 0)))])
def test_zeros_stay_zero(weight):
    assert (narrowed(weight, 5, np.eye(len(weight))).weight[weight == 0] == 0).all()


@pytest.mark.parametrize("shape, bits", [((33, 8), 5), ((32, 12), 5), ((32, 8), 8)])
def test_a_weight_that_cannot_be_stored_so_is_refused(shape, bits):
    with pytest.raises(ValueError, match="inputs must be a multiple of 32, outputs of 8, bits one of"):
        narrowed(np.ones(shape, np.float32), bits, np.eye(shape[0]))


# The product.

@pytest.mark.parametrize("bits", BITS)
def test_the_engine_multiplies_with_the_weight_that_the_export_stored(tmp_path, bits):
    graph, weight = stored_graph(RANDOM.normal(size=(96, 40)).astype(np.float32), bits, tmp_path)
    x = RANDOM.normal(size=(50, 96)).astype(np.float32)
    step = np.abs(x).max(1, keepdims=True) / 127
    rounded = np.round(x / step) * step  # one scale for each row
    np.testing.assert_allclose(product(open_session(graph, "cpu", 1), x), rounded @ weight, rtol=1e-4, atol=1e-4)
    np.testing.assert_array_equal(read_narrow(graph)["weight"], weight)


@pytest.mark.parametrize("shape", [(96, 40), (576, 960), (1536, 576)])  # the last two are layers of nano
def test_a_row_of_a_product_is_bitwise_free_of_the_batch_around_it(tmp_path, shape):
    graph, _ = stored_graph(RANDOM.normal(size=shape).astype(np.float32), 5, tmp_path)
    session = open_session(graph, "cpu", 2)
    x = RANDOM.normal(size=(320, shape[0])).astype(np.float32)
    x[7] *= 1000  # with one scale for the whole batch, this row would drown the others
    x[8] = 0      # padding
    whole = product(session, x)
    assert (whole[8] == 0).all()
    for size in (1, 7, 8, 40):
        for start in (0, 6, 320 - size):
            np.testing.assert_array_equal(product(session, x[start:start + size]), whole[start:start + size])


@pytest.fixture
def largest(tmp_path) -> tuple:
    """A graph of the largest levels that there are, the largest x, and what comes out."""
    weight = np.full((576, 8), 1.0, np.float32)
    weight[:, ::2] *= -1
    graph, stored = stored_graph(weight, 5, tmp_path)
    x = np.full((3, 576), 2.0, np.float32)
    return graph, x, x @ stored


def test_the_largest_levels_do_not_overflow(largest):
    graph, x, expected = largest
    np.testing.assert_allclose(product(open_session(graph, "cpu", 1), x), expected, rtol=1e-5)


@pytest.mark.parametrize("twin", [True, False])
def test_an_x86_cpu_without_vnni_multiplies_by_uint8_and_gets_the_same_bits(largest, twin, monkeypatch):
    """Bundles of before have no twin; for them the runtime turns the graph."""
    graph, x, _ = largest
    x = RANDOM.normal(size=x.shape).astype(np.float32)
    expected = product(open_session(graph, "cpu", 1), x)
    monkeypatch.setattr(sessions.platform, "machine", lambda: "x86_64")
    monkeypatch.setattr(sessions, "cpu_features", lambda: ["avx2"])
    kinds = []
    monkeypatch.setattr(sessions, "widened", lambda *given: keep_kinds(kinds, widened(*given)))
    if not twin:
        unsigned_twin(graph).unlink()
    np.testing.assert_array_equal(product(open_session(graph, "cpu", 1), x), expected)
    assert kinds == [np.uint8 if twin else np.int8]


def keep_kinds(kinds: list, levels: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    kinds += [array.dtype for array in levels.values()]
    return levels


ON_AN_OLD_CPU = """
import sys
import numpy as np
from pathlib import Path
from safeguard_sdk.engine.session import open_session
folder = Path(sys.argv[1])
y, = open_session(folder / "decoder.onnx", "cpu", 1).run(None, {"x": np.load(folder / "x.npy")})
np.save(folder / "y.npy", y)
"""


@pytest.mark.skipif(platform.machine() not in ("x86_64", "AMD64") or not shutil.which("qemu-x86_64"),
                    reason="an x86 CPU without VNNI is emulated by qemu-x86_64 (qemu-user), which is not installed")
def test_nor_do_they_on_a_cpu_that_adds_pairs_of_products_in_16_bits(largest):
    graph, x, expected = largest
    np.save(graph.with_name("x.npy"), x)
    subprocess.run(["qemu-x86_64", "-cpu", "Haswell", sys.executable, "-c", ON_AN_OLD_CPU, graph.parent], check=True,
                   capture_output=True, timeout=300)
    np.testing.assert_allclose(np.load(graph.with_name("y.npy")), expected, rtol=1e-5)


def test_another_provider_than_the_cpu_is_refused_and_nothing_falls_back(tmp_path, monkeypatch):
    graph, _ = stored_graph(np.ones((BLOCK, 8), np.float32), 5, tmp_path)
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: ["CUDAExecutionProvider"])
    with pytest.raises(EngineError, match="as only the provider cpu does, not cuda; ask for cpu"):
        open_session(graph, "cuda", 1)


def test_only_the_products_that_are_named_become_whole_numbers():
    model = matmul(np.ones((BLOCK, 8), np.float32))
    multiply_in_int8(model, {}, {})
    assert [node.op_type for node in model.graph.node] == ["MatMul"]


def test_products_of_one_input_quantise_it_once():
    model = matmul(np.ones((BLOCK, 8), np.float32))
    (node,), (weight,) = model.graph.node, model.graph.initializer
    model.graph.initializer.append(numpy_helper.from_array(np.full((BLOCK, 16), 2, np.float32), "other"))
    model.graph.node.append(helper.make_node("MatMul", [node.input[0], "other"], ["z"]))
    multiply_in_int8(model, {weight.name: 5, "other": 5}, dict.fromkeys((weight.name, "other"), np.eye(BLOCK)))
    kinds = Counter(node.op_type for node in model.graph.node)
    assert (kinds["QuantizeLinear"], kinds["MatMulIntegerToFloat"]) == (1, 2)


# Files.

def test_weights_are_split_into_files_below_the_limit(tmp_path, monkeypatch):
    weights = {str(number): random_narrow(5, inputs=640, outputs=64) for number in range(5)}
    limit = 2 * (640 * 64 * 5 // 8 + 20 * 64) + 8000
    monkeypatch.setattr(narrow, "FILE_LIMIT", limit)
    files = save_narrow(weights, tmp_path / "decoder.onnx")
    assert [file.name for file in files] == ["decoder-0.npz", "decoder-1.npz", "decoder-2.npz"]
    assert all(file.stat().st_size <= limit for file in files)
    levels = widened(tmp_path / "decoder.onnx", threads=2)
    assert levels.keys() == {f"{name}.levels" for name in weights}


def test_the_same_weights_are_the_same_file(tmp_path):
    weights = {"a": random_narrow(5)}
    first, second = (save_narrow(weights, tmp_path / name)[0].read_bytes() for name in ("one.onnx", "two.onnx"))
    assert first == second


def test_a_graph_without_narrow_weights_has_none(tmp_path):
    assert widened(tmp_path / "decoder.onnx", threads=1) == {}


@pytest.mark.parametrize("arrays", [{"a.nibbles": np.zeros((32, 4), np.uint8)},  # and no more
                                    {f"a.{part}": np.zeros((1, 1), np.uint8) for part in ("nibbles", "planes",
                                                                                          "factors")},
                                    {f"a.{part}": np.zeros((32, 4)) for part in ("nibbles", "planes", "factors")}])
def test_a_file_of_anything_else_is_one_clear_error(tmp_path, arrays):
    np.savez(tmp_path / "decoder-0.npz", **arrays)
    with pytest.raises(EngineError, match=r"has no weights in few bits .* export the bundle again"):
        widened(tmp_path / "decoder.onnx", threads=1)


def test_a_file_that_is_no_archive_is_one_clear_error(tmp_path):
    (tmp_path / "decoder-0.npz").write_bytes(b"no archive")
    with pytest.raises(EngineError, match="has no weights in few bits"):
        widened(tmp_path / "decoder.onnx", threads=1)


def test_a_file_that_is_packed_is_one_clear_error(tmp_path):
    """Arrays are read where they lie."""
    np.savez_compressed(tmp_path / "decoder-0.npz", **{f"a.{part}": array for part, array in
                                                       random_narrow(5).parts().items()})
    with pytest.raises(EngineError, match=r"is not stored as np\.savez does"):
        widened(tmp_path / "decoder.onnx", threads=1)


def test_pickled_objects_are_never_loaded(tmp_path):
    np.savez(tmp_path / "decoder-0.npz", **{"a.nibbles": np.array([{}])})
    with pytest.raises(EngineError, match="has no weights in few bits"):
        widened(tmp_path / "decoder.onnx", threads=1)
