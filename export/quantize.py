"""Weights in few bits, each kind so that no image's result depends on its neighbours in a batch.

Linear layers become MatMulNBits (4 or 8 bits in blocks of 32 along the input, one scale and zero point a block); its
activations are quantised row by row. Everything else is stored in 16 or 8 bits and computed in fp32.
Format of MatMulNBits: https://github.com/microsoft/onnxruntime/blob/main/docs/ContribOperators.md#commicrosoftmatmulnbits
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
from onnx import helper, numpy_helper
from onnx.external_data_helper import set_external_data

BLOCK = 32
CLIPS = (1.0, 0.95, 0.9, 0.85, 0.8, 0.75, 0.7)  # shares of a block's range that are tried; the least squared error wins
DAMPING = 0.01                           # share of the mean second moment added to each, so that none vanishes
INT8_ACTIVATIONS = 4                     # accuracy_level of MatMulNBits: activations in int8, per row and block
FILE_LIMIT = 45_000_000                  # bytes of one file of external data


def quantize_blocks(weight: np.ndarray, bits: int, moments: np.ndarray | None = None, size: int = BLOCK
                    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(in, out) float32 → levels (out, blocks, size) uint8, scales (out, blocks) float32, zero points likewise uint8.

    Where the inputs do not fill the last block, zeros do.
    moments  (in, in) second moments of the layer's inputs; with them the error of each input is made good by those that
             follow (GPTQ, Frantar et al. 2022, arXiv:2210.17323, algorithm 1), without them levels are just rounded
    weight ≈ (levels - zero point) · scale
    """
    weight = np.pad(weight, ((0, -len(weight) % size), (0, 0)))
    inputs, outputs = weight.shape
    left = weight.T.astype(np.float32, copy=True)  # (out, in); what is still to be expressed
    spread = None if moments is None else _inverse_factor(moments)
    levels = np.empty((outputs, inputs // size, size), np.uint8)
    scales, zeros = (np.empty((outputs, inputs // size), kind) for kind in (np.float32, np.uint8))
    for number, start in enumerate(range(0, inputs, size)):
        block = left[:, start:start + size]
        scale, zero = _fit_grid(block, bits)
        if spread is None:
            level = _round(block, scale, zero, bits)
        else:
            level, errors = _round_in_turn(block, scale, zero, bits, spread[start:start + size, start:start + size])
            left[:, start + size:] -= errors @ spread[start:start + size, start + size:]
        levels[:, number], scales[:, number], zeros[:, number] = level, scale[:, 0], zero[:, 0]
    return levels, scales, zeros


def _inverse_factor(moments: np.ndarray) -> np.ndarray:
    """Upper Cholesky factor of the inverse of the damped second moments."""
    damped = moments.astype(np.float64) + DAMPING * np.mean(np.diag(moments)) * np.eye(len(moments))
    return np.linalg.cholesky(np.linalg.inv(damped)).T.astype(np.float32)


def _fit_grid(block: np.ndarray, bits: int) -> tuple[np.ndarray, np.ndarray]:
    """(out, size) → scale and zero point (out, 1) with the least squared error over the shares of the range tried."""
    best = None
    for clip in CLIPS:
        low = np.minimum(block.min(1, keepdims=True), 0) * clip
        high = np.maximum(block.max(1, keepdims=True), 0) * clip
        scale = np.maximum((high - low) / (2**bits - 1), 6e-8).astype(np.float16).astype(np.float32)  # as it is stored
        zero = np.clip(np.round(-low / scale), 0, 2**bits - 1)
        error = (((_round(block, scale, zero, bits) - zero) * scale - block) ** 2).sum(1, keepdims=True)
        if best is None:
            best = scale, zero, error
        better = error < best[2]
        best = tuple(np.where(better, new, old) for new, old in zip((scale, zero, error), best, strict=True))
    return best[0], best[1]


def _round(weights: np.ndarray, scale: np.ndarray, zero: np.ndarray, bits: int) -> np.ndarray:
    return np.clip(np.round(weights / scale) + zero, 0, 2**bits - 1)


def _round_in_turn(block: np.ndarray, scale: np.ndarray, zero: np.ndarray, bits: int, spread: np.ndarray
                   ) -> tuple[np.ndarray, np.ndarray]:
    """Levels of a block, each input's error handed on to the next ones; and the errors, for those after the block."""
    left, levels, errors = block.copy(), np.empty_like(block), np.empty_like(block)
    for column in range(block.shape[1]):
        level = _round(left[:, column:column + 1], scale, zero, bits)
        error = (left[:, column:column + 1] - (level - zero) * scale) / spread[column, column]
        left[:, column:] -= error * spread[column, column:]
        levels[:, column:column + 1], errors[:, column:column + 1] = level, error
    return levels, errors


def quantize_matmuls(model: onnx.ModelProto, bits_of: dict[str, int],
                     moments: dict[str, np.ndarray] | None = None) -> None:
    """Replace each MatMul by an initializer named in `bits_of` (name → 4 or 8) with MatMulNBits, in place.

    moments  initializer → second moments of its inputs, see quantize_blocks
    """
    weights = {tensor.name: tensor for tensor in model.graph.initializer}
    added: list[onnx.TensorProto] = []
    nodes: list[onnx.NodeProto] = []
    for node in model.graph.node:
        if node.op_type != "MatMul" or node.input[1] not in bits_of:
            nodes.append(node)
            continue
        name = node.input[1]
        bits = bits_of[name]
        weight = numpy_helper.to_array(weights[name])
        levels, scales, zeros = quantize_blocks(weight, bits, (moments or {}).get(name))
        added += [numpy_helper.from_array(packed(levels, bits), f"{name}.levels"),
                  numpy_helper.from_array(scales.astype(np.float16), f"{name}.scales16"),
                  numpy_helper.from_array(packed(zeros, bits), f"{name}.zeros")]
        nodes += matmul_in_blocks(node, name, weight.shape, bits, BLOCK)
    replace_nodes(model, nodes, added, set(bits_of))
    allow_matmul_in_blocks(model)


def matmul_in_blocks(node: onnx.NodeProto, name: str, shape: tuple[int, int], bits: int, size: int
                     ) -> list[onnx.NodeProto]:
    """What stands for a MatMul by the initializer `name`, (in, out), which is stored in blocks of `size` as levels,
    scales16 and zeros. Scales are stored in 16 bits; the Cast is folded when the graph is loaded."""
    return [helper.make_node("Cast", [f"{name}.scales16"], [f"{name}.scales"], to=onnx.TensorProto.FLOAT),
            helper.make_node("MatMulNBits", [node.input[0], f"{name}.levels", f"{name}.scales", f"{name}.zeros"],
                             list(node.output), domain="com.microsoft", K=shape[0], N=shape[1], bits=bits,
                             block_size=size, accuracy_level=INT8_ACTIVATIONS)]


def allow_matmul_in_blocks(model: onnx.ModelProto) -> None:
    """Name the operators of ONNX Runtime among those that the graph uses."""
    if not any(opset.domain == "com.microsoft" for opset in model.opset_import):
        model.opset_import.append(helper.make_opsetid("com.microsoft", 1))


def read_matmuls(model: onnx.ModelProto) -> dict[str, np.ndarray]:
    """Weights of all MatMulNBits nodes of a graph, by the names that they had as initializers: (in, out) float32."""
    stored = {tensor.name: tensor for tensor in model.graph.initializer}
    weights = {}
    for node in model.graph.node:
        if node.op_type != "MatMulNBits":
            continue
        name = node.input[1].removesuffix(".levels")
        bits, inputs, outputs = (next(a.i for a in node.attribute if a.name == key) for key in ("bits", "K", "N"))
        levels, zeros = (_unpacked(numpy_helper.to_array(stored[f"{name}.{part}"]), bits)
                         for part in ("levels", "zeros"))
        scales = numpy_helper.to_array(stored[f"{name}.scales16"]).astype(np.float32)
        shifted = levels.astype(np.float32) - zeros[:, :levels.shape[1], None]
        weights[name] = (shifted * scales[..., None]).reshape(outputs, inputs).T
    return weights


def store_in_few_bits(model: onnx.ModelProto, least: int = 1024) -> None:
    """Keep float initializers of `least` values or more in few bits and widen them when the graph is loaded, in place:
    matrices in int8 with one fp32 scale a row, all else in fp16. Kernels of convolutions in int8 would change the names
    that nano's eye gives a picture, and with them twice as many verdicts."""
    nodes, added, gone = [], [], set()
    for tensor in model.graph.initializer:
        if tensor.data_type != onnx.TensorProto.FLOAT or int(np.prod(tensor.dims)) < least:
            continue
        name, values = tensor.name, numpy_helper.to_array(tensor)
        gone.add(name)
        if values.ndim != 2:
            added.append(numpy_helper.from_array(values.astype(np.float16), f"{name}.half"))
            nodes.append(helper.make_node("Cast", [f"{name}.half"], [name], to=onnx.TensorProto.FLOAT))
            continue
        largest = np.abs(values).max(1, keepdims=True)
        scales = (np.maximum(largest, 1e-30) / 127).astype(np.float32)
        added += [numpy_helper.from_array(np.round(values / scales).astype(np.int8), f"{name}.levels"),
                  numpy_helper.from_array(scales, f"{name}.scales")]
        # Not DequantizeLinear: that stays in the graph, these two are folded.
        nodes += [helper.make_node("Cast", [f"{name}.levels"], [f"{name}.whole"], to=onnx.TensorProto.FLOAT),
                  helper.make_node("Mul", [f"{name}.whole", f"{name}.scales"], [name])]
    replace_nodes(model, nodes + list(model.graph.node), added, gone)


def embedding_graph(table: np.ndarray, knots: np.ndarray) -> onnx.ModelProto:
    """ids (B, S), knots (B, S, K) → embeddings (B, S, width): a row of the int8 table, plus the mixture of knots.

    table  (tokens, width) float32, stored in int8 with one fp16 scale a row
    knots  (K, width) float32
    """
    scales = np.maximum(np.abs(table).max(1, keepdims=True) / 127, 6e-8).astype(np.float16)  # 6e-8: fp16's smallest
    levels = np.clip(np.round(table / scales.astype(np.float32)), -127, 127).astype(np.int8)
    width, float_type = table.shape[1], onnx.TensorProto.FLOAT
    nodes = [helper.make_node("Gather", ["levels", "ids"], ["rows8"]),
             helper.make_node("Gather", ["scales", "ids"], ["scales16"]),
             helper.make_node("Cast", ["rows8"], ["rows"], to=float_type),
             helper.make_node("Cast", ["scales16"], ["row_scales"], to=float_type),
             helper.make_node("Mul", ["rows", "row_scales"], ["token_rows"]),
             helper.make_node("MatMul", ["knots", "knot_rows"], ["mixture"]),
             helper.make_node("Add", ["token_rows", "mixture"], ["embeddings"])]
    shape = ["batch", "length"]
    graph = helper.make_graph(
        nodes, "embed",
        [helper.make_tensor_value_info("ids", onnx.TensorProto.INT64, shape),
         helper.make_tensor_value_info("knots", float_type, [*shape, len(knots)])],
        [helper.make_tensor_value_info("embeddings", float_type, [*shape, width])],
        [numpy_helper.from_array(levels, "levels"), numpy_helper.from_array(scales, "scales"),
         numpy_helper.from_array(knots.astype(np.float32), "knot_rows")])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)


def save_split(model: onnx.ModelProto, path: Path) -> list[Path]:
    """Write a graph with its large initializers in files of at most FILE_LIMIT bytes beside it; returns all files."""
    forget_source(model)
    parts: list[bytearray] = []
    for tensor in model.graph.initializer:
        values = numpy_helper.to_array(tensor)
        if values.nbytes < 1024:
            continue
        if values.nbytes > FILE_LIMIT:
            raise ValueError(f"{path.name}: {tensor.name} has {values.nbytes} bytes, a file may have {FILE_LIMIT}; "
                             "store it in fewer bits")
        padding = -len(parts[-1]) % 64 if parts else 0  # aligned, so that a runtime may map it
        if not parts or len(parts[-1]) + padding + values.nbytes > FILE_LIMIT:
            parts.append(bytearray())
            padding = 0
        parts[-1] += bytes(padding)
        offset = len(parts[-1])
        parts[-1] += values.tobytes()
        tensor.ClearField("raw_data")
        tensor.raw_data = b""
        set_external_data(tensor, f"{path.stem}-{len(parts) - 1}.bin", offset, values.nbytes)
        tensor.ClearField("raw_data")
    files = [path]
    for number, part in enumerate(parts):
        files.append(path.with_name(f"{path.stem}-{number}.bin"))
        files[-1].write_bytes(part)
    path.write_bytes(model.SerializeToString())
    return files


def forget_source(model: onnx.ModelProto) -> None:
    """Drop the exporter's notes on the code of each node: they hold paths of this machine, and nearly a megabyte."""
    graph = model.graph
    nodes = [node for some in (graph, *model.functions) for node in some.node]
    for part in (model, graph, *model.functions, *nodes, *graph.initializer, *graph.input, *graph.output,
                 *graph.value_info):
        part.ClearField("metadata_props")
        part.ClearField("doc_string")


def packed(levels: np.ndarray, bits: int) -> np.ndarray:
    """Pack levels along the last axis: two a byte for 4 bits, the lower half first; an odd one out is padded."""
    if bits == 8:
        return levels
    if levels.shape[-1] % 2:
        levels = np.concatenate([levels, np.zeros((*levels.shape[:-1], 1), np.uint8)], -1)
    return levels[..., ::2] | levels[..., 1::2] << 4


def _unpacked(packed: np.ndarray, bits: int) -> np.ndarray:
    """The inverse of `packed`; what padded an odd row stays."""
    if bits == 8:
        return packed
    return np.stack([packed & 15, packed >> 4], -1).reshape(*packed.shape[:-1], -1)


def replace_nodes(model: onnx.ModelProto, nodes: list[onnx.NodeProto], added: list[onnx.TensorProto],
             gone: set[str]) -> None:
    kept = [tensor for tensor in model.graph.initializer if tensor.name not in gone]
    del model.graph.node[:], model.graph.initializer[:], model.graph.value_info[:]
    model.graph.node.extend(nodes)
    model.graph.initializer.extend(kept + added)
