"""A bundle's graph as TensorRT reads it: standard operators alone, over the levels that the bundle has.

in the bundle                                    in the engine
float32, float16                                 bfloat16, whose range is float32's: Qwen2.5-VL overflows float16
MatMulIntegerToFloat, rows in uint8 (rows.py)    int8 by int8 (pairs.py)
float8 (pairs.py)                                as it is
MatMulNBits, 8 bits, a scale for every output    bfloat16 by int8, which is widened where it is multiplied
MatMulNBits, 4 bits in blocks                    bfloat16 by int4, likewise

Norms, softmax and rotary embeddings stay in float32. What needs no other layout is read from the bundle's own file.
"""

from __future__ import annotations

from pathlib import Path

import ml_dtypes
import numpy as np
import onnx
from onnx import NodeProto, TensorProto, helper, numpy_helper

from export.blob import Blob
from export.failures import ExportError
from export.pairs import multiply_levels, pair_constants, round_rows

OPSET_OF_INT4 = 21  # and of scales of blocks; a graph without them keeps its own, which more versions read


def write_engine_graph(graph: Path, folder: Path) -> Path:
    """Write a bundle's graph for TensorRT into `folder`, and return its path.

    raises  ExportError if a weight is in a form that TensorRT does not have
    """
    model = onnx.load(graph, load_external_data=False)
    path = folder / graph.name
    with Blob(folder / f"{graph.stem}-engine.bin") as blob:
        nodes, added = _Rewriting(graph, model.graph, blob).rewritten()
    nodes = _needed(nodes, {entry.name for entry in model.graph.output})
    used = {name for node in nodes for name in node.input}
    stored = [tensor for tensor in (*model.graph.initializer, *added) if tensor.name in used]
    (opset,) = (opset.version for opset in model.opset_import if not opset.domain)
    if any(tensor.data_type == TensorProto.INT4 for tensor in stored):
        opset = max(opset, OPSET_OF_INT4)
    del model.graph.node[:], model.graph.initializer[:], model.opset_import[:]
    model.graph.node.extend(nodes)
    model.graph.initializer.extend(stored)
    model.opset_import.append(helper.make_opsetid("", opset))
    path.write_bytes(model.SerializeToString())
    path.with_suffix(".bin").symlink_to(graph.with_suffix(".bin").resolve())
    return path


class _Rewriting:
    """Of the nodes of one graph."""

    def __init__(self, path: Path, graph: onnx.GraphProto, blob: Blob) -> None:
        self._path, self._graph, self._blob = path, graph, blob
        self._stored = {tensor.name: tensor for tensor in graph.initializer}
        # Where a weight of 16 bits is widened by a node of its own: the name it has then → where it is stored.
        self._widened = {node.output[0]: node.input[0] for node in graph.node
                         if node.op_type == "Cast" and node.input[0] in self._stored}
        self._nodes: list[NodeProto] = []
        self._added: list[TensorProto] = []
        self._levels: dict[str, str] = {}    # of rows, in the bundle's graph → here
        self._narrow: set[str] = set()       # what has been rounded to bfloat16 already

    def rewritten(self) -> tuple[list[NodeProto], list[TensorProto]]:
        """The nodes, some of them needless now, and the initializers that the graph did not have."""
        by_rows = {node.input[0] for node in self._graph.node if node.op_type == "MatMulIntegerToFloat"}
        if by_rows:
            self._added += pair_constants("int8")
        for node in self._graph.node:
            if node.op_type == "MatMulNBits":
                self._multiply(node, self._widen_blocks(node))
            elif node.op_type == "MatMul" and (node.input[1] in self._stored or node.input[1] in self._widened):
                self._multiply(node, self._narrowed(self._widened.get(node.input[1], node.input[1])))
            elif node.op_type == "QuantizeLinear" and node.output[0] in by_rows:
                self._round_rows(node)
            elif node.op_type == "MatMulIntegerToFloat":
                self._nodes += multiply_levels(self._levels[node.input[0]], node.input[1].removesuffix(".levels"),
                                               node.output[0])
            else:
                self._nodes.append(node)
        return self._nodes, self._added

    def _multiply(self, node: NodeProto, weight: str) -> None:
        """A product of bfloat16; weight: its name in bfloat16."""
        x, result = self._narrowed(node.input[0]), f"{node.output[0]}.bfloat16"
        self._nodes += [helper.make_node("MatMul", [x, weight], [result]),
                        helper.make_node("Cast", [result], [node.output[0]], to=TensorProto.FLOAT)]
        self._narrow.add(node.output[0])

    def _narrowed(self, name: str) -> str:
        """A value in bfloat16."""
        if name not in self._narrow:
            self._nodes.append(helper.make_node("Cast", [name], [f"{name}.bfloat16"], to=TensorProto.BFLOAT16))
            self._narrow.add(name)
        return f"{name}.bfloat16"

    def _round_rows(self, node: NodeProto) -> None:
        """Rows over their scales, (rows,) in the bundle's graph."""
        x, scale = node.input[:2]
        nodes, self._levels[node.output[0]] = round_rows(x, f"{scale}.pairs")
        self._nodes += [helper.make_node("Unsqueeze", [scale, "pairs.last"], [f"{scale}.pairs"]), *nodes]

    def _widen_blocks(self, node: NodeProto) -> str:
        """What the weight of a MatMulNBits is called after it is widened to bfloat16, (in, out)."""
        name = node.input[1].removesuffix(".levels")
        if len(node.input) > 3:
            raise ExportError(f"{self._path}: {name} has zero points, which TensorRT does not; export the checkpoint "
                              "again with this version of safeguard")
        sizes = {attribute.name: helper.get_attribute_value(attribute) for attribute in node.attribute}
        levels, scales = (self._read(tensor) for tensor in (node.input[1], self._widened[node.input[2]]))
        if sizes["bits"] == 4:
            levels = np.stack([levels & 15, levels >> 4], -1)
        levels = levels.reshape(sizes["N"], -1)[:, :sizes["K"]].T.astype(np.int16) - 2**(sizes["bits"] - 1)
        scales = scales.reshape(sizes["N"], -1).T.astype(ml_dtypes.bfloat16)  # (blocks, out)
        if sizes["bits"] == 4:
            levels, along = levels.astype(ml_dtypes.int4), {"axis": 0, "block_size": sizes["block_size"]}
        else:  # all blocks of an output have one scale, see quantize.quantize_outputs
            levels, scales, along = levels.astype(np.int8), scales[0], {"axis": 1}
        given = [f"{name}.levels.engine", f"{name}.scales.engine"]
        self._added += [self._blob.add(one, values) for one, values in zip(given, (levels, scales), strict=True)]
        self._nodes.append(helper.make_node("DequantizeLinear", given, [f"{name}.engine"], **along))
        return f"{name}.engine"

    def _read(self, name: str) -> np.ndarray:
        return numpy_helper.to_array(self._stored[name], str(self._path.parent))


def _needed(nodes: list[NodeProto], results: set[str]) -> list[NodeProto]:
    """Those of nodes in order whose results are used."""
    used, kept = set(results), []
    for node in reversed(nodes):
        if used.intersection(node.output):
            used.update(node.input)
            kept.append(node)
    return kept[::-1]
