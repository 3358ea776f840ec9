"""Weights in few bits, each kind so that no image's result depends on its neighbours in a batch.

Linear layers become MatMulNBits (4 or 8 bits around zero, one scale for a block of inputs, or for an output), its
activations quantised row by row; or what narrow.py makes of them. Everything else is stored in 6 to 16 bits and
computed in fp32. There are no zero points, since TensorRT has none: what is stored here can become an engine as it is.
Format of MatMulNBits: https://github.com/microsoft/onnxruntime/blob/main/docs/ContribOperators.md#commicrosoftmatmulnbits
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
from onnx import helper, numpy_helper
from onnx.external_data_helper import set_external_data

from export.gptq import nearest_of, round_in_turn

# Shares of a block's largest value that are tried; the least squared error wins. 0.875 of it is -8 of 4 bits.
CLIPS = (1.0, 0.95, 0.9, 0.875, 0.85, 0.8, 0.75, 0.7)
REACH = 4096                             # inputs: a square of them has to be inverted
INT8_ACTIVATIONS = 4                     # accuracy_level of MatMulNBits: activations in int8, per row and block
FILE_LIMIT = 45_000_000                  # bytes of one file of external data


@dataclass(frozen=True)
class BlockGrid:
    """Of a block of (out, size) weights: scales (out, 1). See gptq.Grid."""

    scale: np.ndarray
    bits: int

    def codes(self, weights: np.ndarray) -> np.ndarray:
        return np.clip(np.round(weights / self.scale) + 2**(self.bits - 1), 0, 2**self.bits - 1).astype(np.uint8)

    def values(self, codes: np.ndarray) -> np.ndarray:
        return (codes - np.float32(2**(self.bits - 1))) * self.scale

    @classmethod
    def fitted(cls, block: np.ndarray, bits: int) -> BlockGrid:
        """That with the least squared error over CLIPS."""
        most = np.abs(block).max(1, keepdims=True)
        scales = [np.maximum(most * clip / (2**(bits - 1) - 1), 6e-8).astype(np.float16).astype(np.float32)  # as stored
                  for clip in CLIPS]
        return cls(np.choose(nearest_of([cls(scale, bits) for scale in scales], block), scales), bits)


@dataclass(frozen=True)
class Blocks:
    """A weight in blocks along its inputs: weight ≈ (levels - 2^(bits - 1)) · scale. Where the inputs do not fill the
    last block, zeros do."""

    levels: np.ndarray  # (out, blocks, size) uint8
    scales: np.ndarray  # (out, blocks) float32, exact in float16
    bits: int

    @property
    def weight(self) -> np.ndarray:
        """(in, out) float32, the inputs that were filled up included."""
        return BlockGrid(self.scales[..., None], self.bits).values(self.levels).reshape(len(self.levels), -1).T

    @classmethod
    def of(cls, levels: np.ndarray, grids: Sequence[BlockGrid]) -> Blocks:
        """levels  (in, out), whole blocks"""
        return cls(levels.T.reshape(levels.shape[1], len(grids), -1),
                   np.concatenate([grid.scale for grid in grids], 1), grids[0].bits)


def quantize_blocks(weight: np.ndarray, bits: int, size: int) -> Blocks:
    """(in, out) float32, each value rounded by itself."""
    rows = _in_whole_blocks(weight, size)
    blocks = [rows[start:start + size] for start in range(0, len(rows), size)]
    grids = [BlockGrid.fitted(block.T, bits) for block in blocks]
    levels = [grid.codes(block.T).T for grid, block in zip(grids, blocks, strict=True)]
    return Blocks.of(np.concatenate(levels), grids)


def quantize_outputs(weight: np.ndarray, bits: int, size: int) -> Blocks:
    """(in, out) float32, each value rounded by itself; all blocks of an output have one scale."""
    rows = _in_whole_blocks(weight, size)
    grid = BlockGrid.fitted(rows.T, bits)
    return Blocks.of(grid.codes(rows.T).T, [grid] * (len(rows) // size))


def quantize_blocks_in_turn(weight: np.ndarray, bits: int, size: int, rows: np.ndarray) -> Blocks:
    """(in, out) float32, the error of each input made good by those that follow, up to REACH of them; see gptq.py.

    rows  (n, in) inputs of the layer
    """
    whole, reach = _in_whole_blocks(weight, size), REACH // size * size
    rows = np.pad(rows, ((0, 0), (0, len(whole) - len(weight))))
    levels, grids = [], []
    for start in range(0, len(whole), reach):
        some = rows[:, start:start + reach]
        found, fitted = round_in_turn(whole[start:start + reach], size, lambda block: BlockGrid.fitted(block, bits),
                                      some.T @ some)
        levels.append(found)
        grids += fitted
    return Blocks.of(np.concatenate(levels), grids)


def write_blocks(blocks: Blocks, path: Path) -> None:
    np.savez(path, levels=blocks.levels, scales=blocks.scales, bits=blocks.bits)


def read_blocks(path: Path) -> Blocks:
    """What write_blocks has written."""
    with np.load(path, allow_pickle=False) as stored:
        return Blocks(stored["levels"], stored["scales"], int(stored["bits"]))


def _in_whole_blocks(weight: np.ndarray, size: int) -> np.ndarray:
    return np.pad(weight.astype(np.float32), ((0, -len(weight) % size), (0, 0)))


def matmul_in_blocks(node: onnx.NodeProto, name: str, shape: tuple[int, int], bits: int, size: int
                     ) -> list[onnx.NodeProto]:
    """What stands for a MatMul by the initializer `name`, (in, out), which is stored in blocks of `size` as levels and
    scales16. Scales are stored in 16 bits; the Cast is folded when the graph is loaded."""
    return [helper.make_node("Cast", [f"{name}.scales16"], [f"{name}.scales"], to=onnx.TensorProto.FLOAT),
            helper.make_node("MatMulNBits", [node.input[0], f"{name}.levels", f"{name}.scales"], list(node.output),
                             domain="com.microsoft", K=shape[0], N=shape[1], bits=bits, block_size=size,
                             accuracy_level=INT8_ACTIVATIONS)]


def allow_operators_of_onnxruntime(model: onnx.ModelProto) -> None:
    """Name the operators of ONNX Runtime among those that the graph uses."""
    if not any(opset.domain == "com.microsoft" for opset in model.opset_import):
        model.opset_import.append(helper.make_opsetid("com.microsoft", 1))


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
    """ids (B, S), knots (B, S, K) → embeddings (B, S, width): a row of the table, plus the mixture of knots.

    table  (tokens, width) float32, stored in 6 bits with one fp16 scale a row; the rows that are looked up are widened
    knots  (K, width) float32
    """
    scales = np.maximum(np.abs(table).max(1, keepdims=True) / 31, 6e-8).astype(np.float16)  # 6e-8: fp16's smallest
    codes = (np.clip(np.round(table / scales.astype(np.float32)), -31, 31) + 32).astype(np.uint8)
    width, float_type = table.shape[1], onnx.TensorProto.FLOAT
    nodes = [*_gathered_codes("low", 4), *_gathered_codes("high", 2),  # bits of a code
             helper.make_node("Mul", ["high", "sixteen"], ["above"]),
             helper.make_node("Add", ["low", "above"], ["codes"]),
             helper.make_node("Sub", ["codes", "middle"], ["levels"]),
             helper.make_node("Gather", ["scales", "ids"], ["scales16"]),
             helper.make_node("Cast", ["scales16"], ["row_scales"], to=float_type),
             helper.make_node("Mul", ["levels", "row_scales"], ["token_rows"]),
             helper.make_node("MatMul", ["knots", "knot_rows"], ["mixture"]),
             helper.make_node("Add", ["token_rows", "mixture"], ["embeddings"])]
    shape = ["batch", "length"]
    constants = {"low.stored": _in_bytes(codes & 15, 4), "high.stored": _in_bytes(codes >> 4, 2), "scales": scales,
                 "knot_rows": knots.astype(np.float32), "sixteen": np.float32(16), "middle": np.float32(32),
                 **{f"{bits}.{name}": np.uint8(value) for bits in (4, 2)
                    for name, value in (("mask", 2**bits - 1), *((f"shift{by}", by) for by in range(0, 8, bits)))}}
    graph = helper.make_graph(
        nodes, "embed",
        [helper.make_tensor_value_info("ids", onnx.TensorProto.INT64, shape),
         helper.make_tensor_value_info("knots", float_type, [*shape, len(knots)])],
        [helper.make_tensor_value_info("embeddings", float_type, [*shape, width])],
        [numpy_helper.from_array(np.asarray(values), name) for name, values in constants.items()])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)


def _in_bytes(values: np.ndarray, bits: int) -> np.ndarray:
    """(rows, n) values of 4 or 2 bits → (rows, n · bits / 8): the first run of a row in the lowest bits of its bytes,
    the next run above them."""
    runs = np.split(values, 8 // bits, axis=1)
    return np.bitwise_or.reduce([run << (place * bits) for place, run in enumerate(runs)]).astype(np.uint8)


def _gathered_codes(name: str, bits: int) -> list[onnx.NodeProto]:
    """The rows `ids` of what _in_bytes has stored as `name`.stored, as float32."""
    shifts = range(0, 8, bits)
    nodes = [helper.make_node("Gather", [f"{name}.stored", "ids"], [f"{name}.bytes"])]
    for shift in shifts:
        nodes += [helper.make_node("BitShift", [f"{name}.bytes", f"{bits}.shift{shift}"], [f"{name}.shifted{shift}"],
                                   direction="RIGHT"),
                  helper.make_node("BitwiseAnd", [f"{name}.shifted{shift}", f"{bits}.mask"], [f"{name}.run{shift}"])]
    return [*nodes, helper.make_node("Concat", [f"{name}.run{shift}" for shift in shifts], [f"{name}.whole"], axis=-1),
            helper.make_node("Cast", [f"{name}.whole"], [name], to=onnx.TensorProto.FLOAT)]


def save_split(model: onnx.ModelProto, path: Path) -> list[Path]:
    """Write a graph with its large initializers in files of at most FILE_LIMIT bytes beside it; returns all files."""
    forget_source(model)
    parts: list[bytearray] = []
    for tensor in model.graph.initializer:
        if tensor.external_data:  # its file is another's
            continue
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


def replace_nodes(model: onnx.ModelProto, nodes: list[onnx.NodeProto], added: list[onnx.TensorProto],
             gone: set[str]) -> None:
    kept = [tensor for tensor in model.graph.initializer if tensor.name not in gone]
    del model.graph.node[:], model.graph.initializer[:], model.graph.value_info[:]
    model.graph.node.extend(nodes)
    model.graph.initializer.extend(kept + added)
