"""One product as a graph, and inputs for it, for tests of few bits."""

from __future__ import annotations

import numpy as np
import onnx
from onnx import helper, numpy_helper


def matmul(weight: np.ndarray) -> onnx.ModelProto:
    """y = x @ weight."""
    shapes = [helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, ["rows", size])
              for name, size in (("x", weight.shape[0]), ("y", weight.shape[1]))]
    graph = helper.make_graph([helper.make_node("MatMul", ["x", "weight"], ["y"])], "matmul", shapes[:1], shapes[1:],
                              [numpy_helper.from_array(weight, "weight")])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)


def correlated(random: np.random.Generator, rows: int, inputs: int) -> np.ndarray:
    """(rows, inputs) of a layer that depend on each other, as those of a real one do."""
    mixed = random.normal(size=(rows, 12)) @ random.normal(size=(12, inputs))
    return (mixed + 0.1 * random.normal(size=mixed.shape)).astype(np.float32)
