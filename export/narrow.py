"""Linear layers that are stored in 4 to 6 bits and multiplied in int8, each row of their inputs with its own scale.

A weight is level · scale, with a scale for each output. Levels, of int8, follow from codes of few bits and one factor
for each output and 32 inputs: level = ((code - half) · factor + half) >> bits, half = 2^(bits - 1). Codes and factors
are what a bundle stores (safeguard_sdk/engine/narrow.py widens them), so a file is small and a product is fast.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, numpy_helper
from onnx.external_data_helper import set_external_data

from export.gptq import nearest_of, round_in_turn
from export.quantize import CLIPS, FILE_LIMIT, allow_operators_of_onnxruntime, replace_nodes
from export.rows import Rows, multiply_rows, quantise_rows, row_constants
from safeguard_sdk.engine.narrow import PARTS, narrow_files, unsigned_twin

BLOCK = 32
BITS = (4, 5, 6)
NIBBLES = 4       # bits of a code that are stored together; see cpp_ext/widening.hpp
PLANE_CODES = 8   # of a byte of the planes that hold the other bits
ABSENT = "given-by-the-engine"  # where the graph says its levels lie; no such file is ever opened


@dataclass(frozen=True)
class Narrow:
    bits: int
    codes: np.ndarray    # (in, out) uint8
    factors: np.ndarray  # (in / 32, out) uint8
    scales: np.ndarray   # (out,) float32

    @property
    def weight(self) -> np.ndarray:
        """(in, out) float32: what the graph multiplies with."""
        return _levels(self.codes, np.repeat(self.factors, BLOCK, 0), self.bits) * self.scales

    def parts(self) -> dict[str, np.ndarray]:
        """The arrays of a bundle, see cpp_ext/widening.hpp."""
        low, high = np.split(self.codes & 15, 2, 1)
        planes = [np.packbits(np.stack(np.split(self.codes >> bit & 1, PLANE_CODES, 1)), 0, bitorder="little")[0]
                  for bit in range(NIBBLES, self.bits)]
        empty = np.empty((0, len(self.codes), self.codes.shape[1] // PLANE_CODES), np.uint8)
        return {"nibbles": np.ascontiguousarray(low | high << 4), "planes": np.stack(planes) if planes else empty,
                "factors": self.factors}

    @classmethod
    def of_parts(cls, nibbles: np.ndarray, planes: np.ndarray, factors: np.ndarray, scales: np.ndarray) -> Narrow:
        """The inverse of `parts`."""
        codes = np.concatenate([nibbles & 15, nibbles >> 4], 1)
        for bit, plane in enumerate(planes, NIBBLES):
            codes |= np.concatenate([plane >> part & 1 for part in range(PLANE_CODES)], 1) << bit
        return cls(NIBBLES + len(planes), codes, factors, scales)


def narrowed(weight: np.ndarray, bits: int, moments: np.ndarray) -> Narrow:
    """(in, out) float32 in few bits.

    moments  (in, in) second moments of the layer's inputs, see gptq.round_in_turn
    raises   ValueError where inputs or outputs do not fill blocks and bytes, or for bits that cannot be stored
    """
    inputs, outputs = weight.shape
    if bits not in BITS or inputs % BLOCK or outputs % PLANE_CODES:
        raise ValueError(f"({inputs}, {outputs}) in {bits} bits: inputs must be a multiple of {BLOCK}, outputs of "
                         f"{PLANE_CODES}, bits one of {BITS}")
    scales = np.maximum(np.abs(weight).max(0) / _largest_level(bits), 1e-12).astype(np.float32)
    codes, grids = round_in_turn(weight, BLOCK, lambda block: _fitted(block, scales, bits), moments)
    return Narrow(bits, codes, np.stack([grid.factors[:, 0] for grid in grids]).astype(np.uint8), scales)


def multiply_in_int8(model: onnx.ModelProto, bits_of: dict[str, int], moments: dict[str, np.ndarray]
                     ) -> dict[str, Narrow]:
    """Replace each MatMul of (rows, in) by an initializer named in `bits_of` with a product in int8, in place; returns
    the weights in few bits, which `save_narrow` writes beside the graph.

    moments  initializer → second moments of its inputs, see narrowed
    """
    weights = {tensor.name: tensor for tensor in model.graph.initializer}
    narrow: dict[str, Narrow] = {}
    quantised: dict[str, Rows] = {}
    added = row_constants()
    nodes: list[onnx.NodeProto] = []
    for node in model.graph.node:
        if node.op_type != "MatMul" or node.input[1] not in bits_of:
            nodes.append(node)
            continue
        name = node.input[1]
        narrow[name] = narrowed(numpy_helper.to_array(weights[name]), bits_of[name], moments[name])
        added += [_given_levels(name, narrow[name].codes.shape), numpy_helper.from_array(narrow[name].scales,
                                                                                         f"{name}.scales")]
        x, result = node.input[0], node.output[0]
        if x not in quantised:
            before, quantised[x] = quantise_rows(x)
            nodes += before
        nodes += multiply_rows(quantised[x], name, result)
    replace_nodes(model, nodes, added, set(bits_of))
    allow_operators_of_onnxruntime(model)
    return narrow


def save_unsigned_twin(graph: Path) -> Path:
    """Write the twin of a graph, over the same files, for CPUs that multiply by uint8; see engine/session.py."""
    model = onnx.load(graph, load_external_data=False)
    products = [node for node in model.graph.node if node.op_type == "MatMulIntegerToFloat"]
    levels = {node.input[1] for node in products}
    for tensor in model.graph.initializer:
        if tensor.name in levels:
            tensor.data_type = TensorProto.UINT8
    for node in products:
        node.input.append(node.input[4])  # the zero point of the activations, 128, is that of the weight as well
    twin = unsigned_twin(graph)
    twin.write_bytes(model.SerializeToString())
    return twin


def save_narrow(weights: dict[str, Narrow], graph: Path) -> list[Path]:
    """Write weights beside their graph, in files of at most FILE_LIMIT bytes; returns these."""
    files: list[dict[str, np.ndarray]] = [{}]
    for name, weight in weights.items():
        parts = {f"{name}.{part}": array for part, array in weight.parts().items()}
        if _size(files[-1]) + _size(parts) > FILE_LIMIT:
            files.append({})
        files[-1] |= parts
    paths = [graph.with_name(f"{graph.stem}-{number}.npz") for number in range(len(files))]
    for path, arrays in zip(paths, files, strict=True):
        np.savez(path, **arrays)
    return paths


def read_narrow(graph: Path) -> dict[str, np.ndarray]:
    """Weights of a graph by the names that they had as initializers: (in, out) float32, as it multiplies with them."""
    stored: dict[str, np.ndarray] = {}
    for path in narrow_files(graph):
        with np.load(path, allow_pickle=False) as arrays:
            stored |= dict(arrays)
    scales = {tensor.name: numpy_helper.to_array(tensor, str(graph.parent))
              for tensor in onnx.load(graph, load_external_data=False).graph.initializer
              if tensor.name.endswith(".scales")}
    names = [name.removesuffix(f".{PARTS[0]}") for name in stored if name.endswith(f".{PARTS[0]}")]
    return {name: Narrow.of_parts(*(stored[f"{name}.{part}"] for part in PARTS), scales[f"{name}.scales"]).weight
            for name in names}


@dataclass(frozen=True)
class _Grid:
    """Of a block: factors (out, 1), scales (out, 1). See gptq.Grid."""

    factors: np.ndarray
    scales: np.ndarray
    bits: int

    def codes(self, weights: np.ndarray) -> np.ndarray:
        half = 1 << self.bits - 1
        step = self.scales * np.maximum(self.factors, 1) / (1 << self.bits)
        return np.clip(np.round(weights / step) + half, 0, 2 * half - 1).astype(np.uint8)

    def values(self, codes: np.ndarray) -> np.ndarray:
        return _levels(codes, self.factors, self.bits) * self.scales


def _levels(codes: np.ndarray, factors: np.ndarray, bits: int) -> np.ndarray:
    half = 1 << bits - 1
    return (((codes.astype(np.int32) - half) * factors + half) >> bits).astype(np.float32)


def _largest_level(bits: int) -> int:
    return int(_levels(np.array(2**bits - 1), np.array(255), bits))


def _fitted(block: np.ndarray, scales: np.ndarray, bits: int) -> _Grid:
    """The grid of (out, 32) weights with the least squared error over the shares of the range tried."""
    scales = scales[:, None]
    whole = np.abs(block).max(1, keepdims=True) / scales * (1 << bits) / ((1 << bits - 1) - 0.5)
    grids = [_Grid(np.clip(np.round(whole * clip), 0, 255).astype(np.int32), scales, bits) for clip in CLIPS]
    return _Grid(np.choose(nearest_of(grids, block), [grid.factors for grid in grids]), scales, bits)


def _given_levels(name: str, shape: tuple[int, int]) -> TensorProto:
    """An initializer that is in no file: the engine gives it, see safeguard_sdk/engine/narrow.py."""
    tensor = TensorProto(name=f"{name}.levels", data_type=TensorProto.INT8, dims=shape)
    tensor.raw_data = b""
    set_external_data(tensor, ABSENT, 0, shape[0] * shape[1])
    tensor.ClearField("raw_data")
    return tensor


def _size(arrays: dict[str, np.ndarray]) -> int:
    return sum(array.nbytes + 1024 for array in arrays.values())
