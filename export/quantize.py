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
CLIPS = (1.0, 0.95, 0.9, 0.85, 0.8)      # shares of a block's range that are tried; the least squared error wins
INT8_ACTIVATIONS = 4                     # accuracy_level of MatMulNBits: activations in int8, per row and block
FILE_LIMIT = 45_000_000                  # bytes of one file of external data


def quantize_blocks(weight: np.ndarray, bits: int, importance: np.ndarray | None = None
                    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(in, out) float32 → levels (out, blocks, BLOCK) uint8, scales (out, blocks) float32, zero points likewise uint8.

    importance  (in,) weight of each input in the squared error, such as its mean square; all alike by default
    weight ≈ (levels - zero point) · scale
    """
    inputs, outputs = weight.shape
    blocks = weight.T.reshape(outputs, inputs // BLOCK, BLOCK)
    counts = np.float32(1) if importance is None else (importance / importance.mean()).astype(np.float32).reshape(
        1, inputs // BLOCK, BLOCK)
    most = 2**bits - 1
    best = None
    for clip in CLIPS:
        low, high = np.minimum(blocks.min(2), 0) * clip, np.maximum(blocks.max(2), 0) * clip
        scales = np.maximum((high - low) / most, 1e-8).astype(np.float16).astype(np.float32)  # stored in 16 bits
        scales = np.maximum(scales, np.float32(6e-8))
        zeros = np.clip(np.round(-low / scales), 0, most)
        levels = np.clip(np.round(blocks / scales[..., None]) + zeros[..., None], 0, most)
        error = (((levels - zeros[..., None]) * scales[..., None] - blocks) ** 2 * counts).sum(2)
        if best is None:
            best = [levels, scales, zeros, error]
            continue
        better = error < best[3]
        for place, new in enumerate((levels, scales, zeros, error)):
            best[place] = np.where(better[..., None] if new.ndim == 3 else better, new, best[place])
    levels, scales, zeros, _ = best
    return levels.astype(np.uint8), scales, zeros.astype(np.uint8)


def quantize_matmuls(model: onnx.ModelProto, bits_of: dict[str, int],
                     importance: dict[str, np.ndarray] | None = None) -> None:
    """Replace each MatMul by an initializer named in `bits_of` (name → 4 or 8) with MatMulNBits, in place."""
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
        levels, scales, zeros = quantize_blocks(weight, bits, (importance or {}).get(name))
        added += [numpy_helper.from_array(_packed(levels, bits), f"{name}.levels"),
                  numpy_helper.from_array(scales.astype(np.float16), f"{name}.scales16"),
                  numpy_helper.from_array(_packed(zeros, bits), f"{name}.zeros")]
        # Scales are stored in 16 bits; the Cast is folded when the graph is loaded.
        nodes.append(helper.make_node("Cast", [f"{name}.scales16"], [f"{name}.scales"], to=onnx.TensorProto.FLOAT))
        nodes.append(helper.make_node(
            "MatMulNBits", [node.input[0], f"{name}.levels", f"{name}.scales", f"{name}.zeros"], list(node.output),
            domain="com.microsoft", K=weight.shape[0], N=weight.shape[1], bits=bits, block_size=BLOCK,
            accuracy_level=INT8_ACTIVATIONS))
    _replace(model, nodes, added, set(bits_of))
    if not any(opset.domain == "com.microsoft" for opset in model.opset_import):
        model.opset_import.append(helper.make_opsetid("com.microsoft", 1))


def store_in_16_bits(model: onnx.ModelProto, least: int = 1024) -> None:
    """Keep float initializers of `least` values or more in fp16 and cast them when the graph is loaded, in place."""
    nodes, added, gone = [], [], set()
    for tensor in model.graph.initializer:
        if tensor.data_type == onnx.TensorProto.FLOAT and int(np.prod(tensor.dims)) >= least:
            values = numpy_helper.to_array(tensor).astype(np.float16)
            added.append(numpy_helper.from_array(values, f"{tensor.name}.half"))
            nodes.append(helper.make_node("Cast", [f"{tensor.name}.half"], [tensor.name], to=onnx.TensorProto.FLOAT))
            gone.add(tensor.name)
    _replace(model, nodes + list(model.graph.node), added, gone)


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
    _forget_source(model)
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


def _forget_source(model: onnx.ModelProto) -> None:
    """Drop the exporter's notes on the code of each node: they hold paths of this machine, and nearly a megabyte."""
    graph = model.graph
    nodes = [node for some in (graph, *model.functions) for node in some.node]
    for part in (model, graph, *model.functions, *nodes, *graph.initializer, *graph.input, *graph.output,
                 *graph.value_info):
        part.ClearField("metadata_props")
        part.ClearField("doc_string")


def _packed(levels: np.ndarray, bits: int) -> np.ndarray:
    """Pack levels along the last axis: two a byte for 4 bits, the lower half first; an odd one out is padded."""
    if bits == 8:
        return levels
    if levels.shape[-1] % 2:
        levels = np.concatenate([levels, np.zeros((*levels.shape[:-1], 1), np.uint8)], -1)
    return levels[..., ::2] | levels[..., 1::2] << 4


def _replace(model: onnx.ModelProto, nodes: list[onnx.NodeProto], added: list[onnx.TensorProto],
             gone: set[str]) -> None:
    kept = [tensor for tensor in model.graph.initializer if tensor.name not in gone]
    del model.graph.node[:], model.graph.initializer[:], model.graph.value_info[:]
    model.graph.node.extend(nodes)
    model.graph.initializer.extend(kept + added)
