"""From a graph without weights to its files: weights are read, quantised and written one by one.

scheme   linear layers                                                              everything else
fp32     float32                                                                    float32
fp16     float16, computed in float32 (Qwen2.5-VL overflows float16)                float16 where large
w8a8     int8, a scale for every output; activations int8, a scale for every row    as fp16
fp8      as w8a8 in float8 (E4M3): for GPUs of compute capability 8.9 and later     as fp16
w8a16    MatMulNBits, 8 bits, a scale for every output                              as fp16
w4a16    MatMulNBits, 4 bits in blocks of 64, rounded in turn (rounding.py); keys,  as fp16
         values and vision as w8a16

A scale is never shared between rows, so no image's result depends on its neighbours in a batch.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from export.blob import ALIGNED, Blob
from export.failures import ExportError
from export.pairs import KINDS, MOST, multiply_levels, pair_constants, round_rows, scale_rows
from export.quantize import (
    Blocks,
    allow_operators_of_onnxruntime,
    forget_source,
    matmul_in_blocks,
    packed,
    quantize_blocks,
    quantize_outputs,
    read_blocks,
    replace_nodes,
)
from export.qwen.weights import Weights
from export.rows import Rows, multiply_rows, quantise_rows, row_constants

SCHEMES = ("fp32", "fp16", "w8a8", "fp8", "w8a16", "w4a16")
BY_ROWS = {"w8a8": "int8", "fp8": "float8"}    # schemes that quantise activations, too → kinds of pairs.py
EXACT = ("patch_embed.", "verdict.")           # few weights, all of what is seen and said: never quantised
BLOCKS = {8: 128, 4: 64}                       # bits → inputs of a block; TensorRT has blocks of 64 and of 128
IN_8_BITS = ("k_proj.weight", "v_proj.weight")  # of w4a16; export/nano.py has measured what 4 bits there cost
CHUNK = 1 << 25                                # values that are held as float32 at a time: 128 MiB
LARGEST_HALF = 65504.0


@dataclass(frozen=True)
class Source:
    """Where the values of a graph's initializers come from."""

    weights: Weights
    prefix: str                                                       # of the checkpoint's names: "visual." or ""
    computed: dict[str, np.ndarray] = field(default_factory=dict)     # those that are in no checkpoint
    named: dict[str, str] = field(default_factory=dict)               # names that differ in the checkpoint
    rounded: dict[str, Path] = field(default_factory=dict)            # weights in 4 bits already, see rounding.py

    def linear(self, name: str, start: int, stop: int) -> np.ndarray:
        """Outputs `start` to `stop` of a linear layer: (outputs, inputs) float32."""
        if name in self.computed:
            return self.computed[name].T[start:stop]
        rows = self.weights.rows(self.stored(name), start, stop)
        return rows.reshape(len(rows), -1).numpy()  # the embedding of patches is stored as a convolution

    def other(self, name: str) -> np.ndarray:
        if name in self.computed:
            return self.computed[name]
        return self.weights.rows(self.stored(name)).numpy()

    def stored(self, name: str) -> str:
        """Its name in the checkpoint."""
        return self.prefix + self.named.get(name, name)


def store(model: onnx.ModelProto, source: Source, path: Path, scheme: str, *, vision: bool = False,
          sensitive: frozenset[str] = frozenset(), advance: Callable[[int], None] = lambda _: None) -> list[Path]:
    """Write a graph and its weights; returns both files.

    scheme     a name in SCHEMES
    vision     whether it is the vision tower, which w4a16 leaves in 8 bits
    sensitive  weights that w8a8 stores as w8a16, by their names in the checkpoint
    advance    is told how many values have been written, for a progress bar
    raises     ExportError if a weight is missing, has another shape than the graph, or does not fit its type
    """
    sketch, model = model, onnx.ModelProto()
    model.CopyFrom(sketch)
    forget_source(model)
    with Blob(path.with_suffix(".bin")) as blob:
        nodes, initializers = _stored(model.graph, source, blob, scheme, vision, sensitive, advance)
    replace_nodes(model, nodes, initializers, {tensor.name for tensor in model.graph.initializer})
    if any(node.domain == "com.microsoft" for node in nodes):
        allow_operators_of_onnxruntime(model)
    path.write_bytes(model.SerializeToString())
    return [path, blob.path]


def _stored(graph: onnx.GraphProto, source: Source, blob: Blob, scheme: str, vision: bool, sensitive: frozenset[str],
            advance: Callable[[int], None]) -> tuple[list[onnx.NodeProto], list[TensorProto]]:
    """The graph's nodes over weights that are written, and its initializers."""
    shapes = {tensor.name: tuple(tensor.dims) for tensor in graph.initializer if tensor.external_data}
    initializers = [tensor for tensor in graph.initializer if not tensor.external_data]
    nodes, quantised_inputs, casts = [], {}, []
    for node in graph.node:
        name = node.input[1] if node.op_type == "MatMul" else ""
        if name not in shapes:
            nodes.append(node)
            continue
        inputs, outputs = shapes.pop(name)
        chunks = _chunks(name, source, inputs, outputs)
        kind = kind_of(name, "w8a16" if scheme == "w8a8" and source.stored(name) in sensitive else scheme, vision)
        if kind in ("fp32", "fp16"):
            _store_float(blob, name, chunks, (inputs, outputs), kind, initializers, casts)
            nodes.append(node)
        elif kind in BY_ROWS:
            initializers += _store_outputs(blob, name, chunks, (inputs, outputs), BY_ROWS[kind])
            by_rows = _by_rows if kind == "w8a8" else _by_float8_rows
            nodes += by_rows(node, name, quantised_inputs, initializers)
        else:
            bits = int(kind)
            initializers += _store_blocks(blob, name, _in_blocks(source, name, chunks, bits), bits)
            nodes += matmul_in_blocks(node, name, (inputs, outputs), bits, BLOCKS[bits])
        advance(inputs * outputs)
    for name, shape in shapes.items():
        values = source.other(name)
        if values.shape != shape:
            raise ExportError(f"{name} has the shape {values.shape}, config.json asks for {shape}; config and weights "
                              "belong to different checkpoints")
        large = scheme != "fp32" and values.dtype == np.float32 and values.nbytes >= 4 * ALIGNED and values.ndim > 1
        _store_other(blob, name, values, large, initializers, casts)
        advance(values.size)
    return casts + nodes, initializers


def kind_of(name: str, scheme: str, vision: bool) -> str:
    """How a linear layer is stored: fp32, fp16, a key of BY_ROWS, or the bits of its blocks."""
    if scheme in ("fp32", "fp16"):
        return scheme
    if name.startswith(EXACT):
        return "fp16" if name.startswith("patch_embed") else "fp32"
    if scheme in BY_ROWS:
        return scheme
    return "4" if scheme == "w4a16" and not vision and not name.endswith(IN_8_BITS) else "8"


def _chunks(name: str, source: Source, inputs: int, outputs: int) -> Iterator[tuple[int, np.ndarray]]:
    """The layer's outputs (outputs, inputs) in chunks, each with the number of its first one."""
    step = max(1, CHUNK // inputs)
    for start in range(0, outputs, step):
        rows = source.linear(name, start, min(outputs, start + step))
        if rows.shape != (min(outputs, start + step) - start, inputs):
            raise ExportError(f"{name} has rows of {rows.shape[1:]}, config.json asks for {inputs} inputs and "
                              f"{outputs} outputs; config and weights belong to different checkpoints")
        yield start, rows


def _store_float(blob: Blob, name: str, chunks, shape, kind: str, initializers: list, casts: list) -> None:
    values = np.empty(shape, np.float32 if kind == "fp32" else np.float16)
    for start, rows in chunks:
        values[:, start:start + len(rows)] = (rows if kind == "fp32" else _half(name, rows)).T
    _store_other(blob, name, values, False, initializers, casts)


def _store_other(blob: Blob, name: str, values: np.ndarray, halve: bool, initializers: list, casts: list) -> None:
    values = _half(name, values) if halve else values
    if values.dtype != np.float16:
        initializers.append(blob.add(name, values))
        return
    initializers.append(blob.add(f"{name}.half", values))
    casts.append(helper.make_node("Cast", [f"{name}.half"], [name], to=TensorProto.FLOAT))


def _half(name: str, values: np.ndarray) -> np.ndarray:
    if np.abs(values).max(initial=0) > LARGEST_HALF:
        raise ExportError(f"{name} holds {np.abs(values).max():g}, more than float16 can; export with --quant fp32")
    return values.astype(np.float16)


def _store_outputs(blob: Blob, name: str, chunks, shape: tuple[int, int], kind: str) -> list[TensorProto]:
    """Levels (inputs, outputs) of a kind in pairs.KINDS, and a scale for every output: weight ≈ levels · scale."""
    levels, scales = np.empty(shape, KINDS[kind]), np.empty(shape[1], np.float32)
    for start, rows in chunks:
        scale = np.maximum(np.abs(rows).max(1) / MOST[kind], 1e-12)
        shares = rows / scale[:, None]
        levels[:, start:start + len(rows)] = (np.round(shares) if kind == "int8" else shares).astype(KINDS[kind]).T
        scales[start:start + len(rows)] = scale
    return [blob.add(f"{name}.levels", levels), blob.add(f"{name}.scales", scales)]


def _by_rows(node: onnx.NodeProto, name: str, quantised: dict[str, Rows], initializers: list[TensorProto]
             ) -> list[onnx.NodeProto]:
    """(…, in) @ weight in 8 bits as rows.py has it; layers with one input share its rows."""
    x, result = node.input[0], node.output[0]
    flat, outer, shape = f"{x}.flat", f"{x}.outer", f"{x}.shape"
    nodes: list[onnx.NodeProto] = []
    if not quantised:
        initializers += [*row_constants(), numpy_helper.from_array(np.array([-1]), "rows.rest")]
    if x not in quantised:
        before, quantised[x] = quantise_rows(flat)
        nodes += [helper.make_node("Flatten", [x], [flat], axis=-1), *before,
                  helper.make_node("Shape", [x], [outer], end=-1),
                  helper.make_node("Concat", [outer, "rows.rest"], [shape], axis=0)]
    return [*nodes, *multiply_rows(quantised[x], name, f"{result}.rows"),
            helper.make_node("Reshape", [f"{result}.rows", shape], [result])]


def _by_float8_rows(node: onnx.NodeProto, name: str, quantised: dict[str, Rows], initializers: list[TensorProto]
                    ) -> list[onnx.NodeProto]:
    """(…, in) @ weight in float8 as pairs.py has it; layers with one input share its rows."""
    x, result, nodes = node.input[0], node.output[0], []
    if not quantised:
        initializers += pair_constants("float8")
    if x not in quantised:
        before, scale = scale_rows(x)
        rounded, levels = round_rows(x, scale)
        nodes, quantised[x] = [*before, *rounded], Rows(levels, scale)
    return [*nodes, *multiply_levels(quantised[x].levels, name, f"{result}.unscaled"),
            helper.make_node("Mul", [f"{result}.unscaled", quantised[x].scales], [result])]


def _in_blocks(source: Source, name: str, chunks, bits: int) -> Blocks:
    if name in source.rounded:
        return read_blocks(source.rounded[name])
    quantize = quantize_outputs if bits == 8 else quantize_blocks
    parts = [quantize(rows.T, bits, BLOCKS[bits]) for _, rows in chunks]
    return Blocks(*(np.concatenate([getattr(part, key) for part in parts]) for key in ("levels", "scales")), bits)


def _store_blocks(blob: Blob, name: str, blocks: Blocks, bits: int) -> list[TensorProto]:
    """Scales in float16."""
    return [blob.add(f"{name}.levels", packed(blocks.levels, bits)),
            blob.add(f"{name}.scales16", blocks.scales.astype(np.float16))]
