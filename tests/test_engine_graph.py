"""What TensorRT is given computes what the bundle's graph computes: here ONNX Runtime runs both on the CPU, bfloat16,
which it cannot multiply, replaced by float32."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper
from safetensors.torch import save_file

from export.engine_graph import write_engine_graph
from export.failures import ExportError
from export.qwen.store import SCHEMES, Source, store
from export.qwen.weights import Weights
from safeguard_sdk.engine.session import Graph

INPUTS, OUTPUTS = 192, 48  # three blocks of 4 bits
RANDOM = np.random.default_rng(0)


def product() -> onnx.ModelProto:
    """Two weights that multiply one input, and one that multiplies what the first gives; no values yet."""
    weights = {"first.weight": (INPUTS, OUTPUTS), "second.weight": (INPUTS, OUTPUTS), "third.weight": (OUTPUTS, 8)}
    tensors = [TensorProto(name=name, data_type=TensorProto.FLOAT, dims=shape, data_location=TensorProto.EXTERNAL)
               for name, shape in weights.items()]
    for tensor in tensors:
        tensor.external_data.add(key="location", value="")
    nodes = [helper.make_node("MatMul", ["x", "first.weight"], ["hidden"]),
             helper.make_node("MatMul", ["x", "second.weight"], ["beside"]),
             helper.make_node("MatMul", ["hidden", "third.weight"], ["result"])]
    graph = helper.make_graph(
        nodes, "products", [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", "rows", INPUTS])],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["batch", "rows", size])
         for name, size in (("result", 8), ("beside", OUTPUTS))], tensors)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)


@pytest.fixture(scope="module")
def stored(tmp_path_factory):
    """stored(scheme) → the graph of a bundle."""
    folder = tmp_path_factory.mktemp("products")
    torch.manual_seed(0)
    save_file({"first.weight": torch.randn(OUTPUTS, INPUTS) / 14, "second.weight": torch.randn(OUTPUTS, INPUTS) / 14,
               "third.weight": torch.randn(8, OUTPUTS) / 7}, folder / "model.safetensors")

    def write(scheme: str) -> Path:
        store(product(), Source(Weights(folder), ""), folder / f"{scheme}.onnx", scheme)
        return folder / f"{scheme}.onnx"

    return write


@pytest.fixture
def engine_graph(stored, tmp_path):
    """engine_graph(scheme) → what TensorRT is given, and what lies beside it, as files: ONNX reads no links."""
    def write(scheme: str) -> Path:
        path = write_engine_graph(stored(scheme), tmp_path)
        beside = path.with_suffix(".bin")
        content = beside.read_bytes()
        beside.unlink()
        beside.write_bytes(content)
        return path

    return write


def in_float32(path: Path) -> Path:
    """The graph with float32 in place of bfloat16."""
    model = onnx.load(path)
    for node in model.graph.node:
        for attribute in node.attribute:
            if attribute.name == "to" and attribute.i == TensorProto.BFLOAT16:
                attribute.i = TensorProto.FLOAT
    for tensor in model.graph.initializer:
        if tensor.data_type == TensorProto.BFLOAT16:
            tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor).astype(np.float32), tensor.name))
    out = path.with_name(f"float32-{path.name}")
    onnx.save(model, out)
    return out


def with_exact_activations(path: Path) -> Path:
    """MatMulNBits as a GPU computes it: on a CPU a bundle has it round activations to int8."""
    model = onnx.load(path)
    for node in model.graph.node:
        for attribute in node.attribute:
            if attribute.name == "accuracy_level":
                attribute.i = 1
    out = path.with_name(f"exact-{path.name}")
    onnx.save(model, out)
    return out


def run_as_it_is(path: Path, x: np.ndarray) -> list[np.ndarray]:
    """Operator by operator: where ONNX Runtime fuses products with int4 it would round activations, too."""
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    return onnxruntime.InferenceSession(path, options).run(["result", "beside"], {"x": x})


# The scales of MatMulNBits are rounded from float16 to bfloat16, by a 512th at most, and once more in the next product.
@pytest.mark.parametrize(("scheme", "most"), [
    ("fp32", 1e-6), ("fp16", 1e-6), ("w8a8", 1e-6), ("fp8", 1e-6), ("w8a16", 1 / 128), ("w4a16", 1 / 128)])
def test_the_products_are_those_of_the_bundle(stored, engine_graph, scheme, most):
    graph, x = stored(scheme), RANDOM.normal(size=(2, 9, INPUTS)).astype(np.float32)
    x[0, 2], x[1] = 0, x[1] * 1000
    expected = Graph(with_exact_activations(graph), "cpu", 1).run({"x": x}, ["result", "beside"])
    for mine, theirs in zip(run_as_it_is(in_float32(engine_graph(scheme)), x), expected, strict=True):
        scale = np.abs(theirs).max(-1, keepdims=True)
        assert (np.abs(mine - theirs) <= most * scale).all()
        assert np.abs(theirs).max() > 1


@pytest.mark.parametrize("scheme", SCHEMES)
def test_operators_of_onnx_runtime_are_gone_and_nothing_is_left_over(engine_graph, scheme):
    model = onnx.load(engine_graph(scheme))
    onnx.checker.check_model(model, full_check=True)
    assert [(opset.domain, opset.version) for opset in model.opset_import] == [("", 21 if scheme == "w4a16" else 20)]
    used = {name for node in model.graph.node for name in node.input}
    given = {name for node in model.graph.node for name in node.output}
    assert {tensor.name for tensor in model.graph.initializer} <= used
    assert given <= used | {entry.name for entry in model.graph.output}


KINDS = {"fp32": set(), "fp16": set(), "w8a8": {TensorProto.INT8}, "fp8": {TensorProto.FLOAT8E4M3FN},
         "w8a16": {TensorProto.INT8}, "w4a16": {TensorProto.INT4}}


@pytest.mark.parametrize("scheme", SCHEMES)
def test_weights_stay_in_the_bits_that_the_bundle_has(engine_graph, scheme):
    model = onnx.load(engine_graph(scheme), load_external_data=False)
    matrices = [tensor for tensor in model.graph.initializer if list(tensor.dims) == [INPUTS, OUTPUTS]]
    assert len(matrices) == 2
    floats = {TensorProto.FLOAT if scheme == "fp32" else TensorProto.FLOAT16}
    assert {tensor.data_type for tensor in matrices} == (KINDS[scheme] or floats)


def test_a_bundle_of_an_older_version_with_zero_points_is_refused(stored, tmp_path):
    graph = stored("w4a16")
    model = onnx.load(graph)
    node = next(node for node in model.graph.node if node.op_type == "MatMulNBits")
    node.input.append("first.weight.zeros")
    onnx.save(model, tmp_path / "old.onnx")
    with pytest.raises(ExportError, match=r"old.onnx: first.weight has zero points, .* export the checkpoint again"):
        write_engine_graph(tmp_path / "old.onnx", tmp_path)
