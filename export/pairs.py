"""Products of int8 or float8 written as pairs of QuantizeLinear and DequantizeLinear, which TensorRT runs in 8 bits.

x ≈ levels · scale with a scale for each row, weight = levels · scale with one for each output. The scales of a pair are
constants in TensorRT, so a row is divided by its own first, the pair's scale is one, and the product is multiplied by
the row's.
Source: https://docs.nvidia.com/deeplearning/tensorrt/latest/inference-library/work-with-quantized-types.html
"""

from __future__ import annotations

import ml_dtypes
import numpy as np
import onnx
from onnx import helper, numpy_helper

KINDS = {"int8": np.dtype(np.int8), "float8": np.dtype(ml_dtypes.float8_e4m3fn)}
MOST = {"int8": 127.0, "float8": 448.0}


def pair_constants(kind: str) -> list[onnx.TensorProto]:
    """Initializers that the nodes of this module use. kind: a name in KINDS."""
    return [numpy_helper.from_array(np.array(value, dtype), f"pairs.{key}") for key, value, dtype in (
        ("last", [-1], np.int64), ("least", 1e-12, np.float32), ("share", 1 / MOST[kind], np.float32),
        ("one", 1, np.float32), ("zero", 0, KINDS[kind]))]


def scale_rows(x: str) -> tuple[list[onnx.NodeProto], str]:
    """Nodes that find the scale of each row of x, (…, in) float32, and the name of the scales, (…, 1)."""
    size, most, share, scale = (f"{x}.pairs.{key}" for key in ("size", "most", "share", "scale"))
    return [helper.make_node("Abs", [x], [size]),
            helper.make_node("ReduceMax", [size, "pairs.last"], [most], keepdims=1),
            helper.make_node("Mul", [most, "pairs.share"], [share]),
            helper.make_node("Max", [share, "pairs.least"], [scale])], scale


def round_rows(x: str, scale: str) -> tuple[list[onnx.NodeProto], str]:
    """Nodes that round x, (…, in) float32, over scales (…, 1) to the levels of a kind, and the name of these, which are
    float32 again."""
    shares, levels, rounded = (f"{x}.pairs.{key}" for key in ("shares", "levels", "rounded"))
    return [helper.make_node("Div", [x, scale], [shares]),
            helper.make_node("QuantizeLinear", [shares, "pairs.one", "pairs.zero"], [levels]),
            helper.make_node("DequantizeLinear", [levels, "pairs.one", "pairs.zero"], [rounded])], rounded


def multiply_levels(levels: str, weight: str, result: str) -> list[onnx.NodeProto]:
    """result (…, out) float32 = what round_rows gives @ weight, still to be multiplied by the scales of the rows. The
    weight's initializers are weight.levels (in, out) of a kind and weight.scales (out,) float32."""
    return [helper.make_node("DequantizeLinear", [f"{weight}.levels", f"{weight}.scales"], [f"{weight}.wide"], axis=1),
            helper.make_node("MatMul", [levels, f"{weight}.wide"], [result])]
