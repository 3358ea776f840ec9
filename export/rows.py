"""Products in int8 in which each row of the inputs has a scale of its own, so that no image's result depends on its
neighbours in a batch.

x ≈ (levels - 128) · scale with a scale for each row, weight = levels · scale with a scale for each output. Levels of x
are uint8, those of the weight int8, for which CPUs with VNNI or AMX have instructions (engine/session.py minds the
others). Operators are few, since each is a pass over memory: rounding spelt out in Div, Round, Add and Cast, and a
result in Cast and Mul, cost about as much time as the product itself.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx
from onnx import helper, numpy_helper


@dataclass(frozen=True)
class Rows:
    """Names of the values that stand for a matrix (rows, in)."""

    levels: str  # (rows, in), here uint8
    scales: str  # (rows, 1) float32


def row_constants() -> list[onnx.TensorProto]:
    """Initializers that the nodes of this module use."""
    return [numpy_helper.from_array(np.array(value, kind), f"rows.{key}") for key, value, kind in (
        ("axis", [1], np.int64), ("least", 1e-12, np.float32), ("share", 1 / 127, np.float32),
        ("middle", 128, np.uint8), ("one", 1, np.float32))]


def quantise_rows(x: str) -> tuple[list[onnx.NodeProto], Rows]:
    """Nodes that quantise x, (rows, in) float32; products of several weights can share what they give."""
    part = {key: f"{x}.rows.{key}" for key in ("size", "most", "share", "scale", "count", "middle", "levels", "column")}
    return [helper.make_node("Abs", [x], [part["size"]]),
            helper.make_node("ReduceMax", [part["size"], "rows.axis"], [part["most"]], keepdims=0),
            helper.make_node("Mul", [part["most"], "rows.share"], [part["share"]]),
            helper.make_node("Max", [part["share"], "rows.least"], [part["scale"]]),
            helper.make_node("Shape", [part["scale"]], [part["count"]]),
            helper.make_node("Expand", ["rows.middle", part["count"]], [part["middle"]]),
            helper.make_node("QuantizeLinear", [x, part["scale"], part["middle"]], [part["levels"]], axis=0),
            helper.make_node("Unsqueeze", [part["scale"], "rows.axis"], [part["column"]]),
            ], Rows(part["levels"], part["column"])


def multiply_rows(rows: Rows, weight: str, result: str) -> list[onnx.NodeProto]:
    """result (rows, out) float32 = rows @ weight, whose initializers are weight.levels (in, out) int8 and weight.scales
    (out,) float32. Needs the operators of ONNX Runtime."""
    return [helper.make_node("MatMulIntegerToFloat", [rows.levels, f"{weight}.levels", "rows.one", f"{weight}.scales",
                                                      "rows.middle"], [f"{result}.unscaled"], domain="com.microsoft"),
            helper.make_node("Mul", [f"{result}.unscaled", rows.scales], [result])]
