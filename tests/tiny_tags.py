"""A tag bundle with graphs that run, as small as they can be: colours of a picture become tags, tags and policy become
tokens, and one layer of attention over the cached policy gives the verdict. Random weights, the tokenizer of nano."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import onnx
import tiny_bundle
from onnx import TensorProto, helper, numpy_helper

from safeguard_sdk.bundle import EMBEDDED
from safeguard_sdk.engine.tags import KNOTS, TagTable

SIDE, WIDTH, VOCABULARY = 32, 8, 49152
TAGS = TagTable(names=("cat", "dog", "rocket", "cup", "animal", "vehicle"), kinds=("class",) * 4 + ("group",) * 2,
                breadth=(1,) * 4 + (9,) * 2)
FLOAT, INT = TensorProto.FLOAT, TensorProto.INT64


def write(folder: Path, name: str = "tiny", seed: int = 1) -> Path:
    """A whole bundle; another seed judges otherwise. Of the first, scores lie on both sides of 0.5."""
    folder.mkdir(parents=True, exist_ok=True)
    random = np.random.default_rng(seed)
    for graph, made in (("vision", _vision), ("embed", _embed), ("decoder", _decoder)):
        onnx.save(made(random), folder / f"{graph}.onnx")
    TAGS.write(folder / "tags.json")
    shutil.copy(EMBEDDED / "tokenizer.json", folder)
    contents = {path.name: path.read_bytes() for path in sorted(folder.iterdir())}
    tiny_bundle.write_manifest(folder, tiny_bundle.manifest_of(contents, name=name, max_policy_tokens=120))
    return folder


def _vision(random: np.random.Generator) -> onnx.ModelProto:
    """(batch, 3, 32, 32) pixels → (batch, tags) probabilities."""
    return _model([
        helper.make_node("GlobalAveragePool", ["pixel_values"], ["means"]),
        helper.make_node("Flatten", ["means"], ["colours"]),
        helper.make_node("MatMul", ["colours", "weights"], ["logits"]),
        helper.make_node("Sigmoid", ["logits"], ["probabilities"]),
    ], [("pixel_values", FLOAT, ["batch", 3, SIDE, SIDE])], [("probabilities", FLOAT, ["batch", len(TAGS.names)])],
        {"weights": random.normal(0, 8, (3, len(TAGS.names)))})


def _embed(random: np.random.Generator) -> onnx.ModelProto:
    """Token ids, and how probable each is, → (batch, length, width)."""
    return _model([
        helper.make_node("Gather", ["table", "ids"], ["words"]),
        helper.make_node("MatMul", ["knots", "knot_rows"], ["probable"]),
        helper.make_node("Add", ["words", "probable"], ["embeddings"]),
    ], [("ids", INT, ["batch", "length"]), ("knots", FLOAT, ["batch", "length", len(KNOTS)])],
        [("embeddings", FLOAT, ["batch", "length", WIDTH])],
        {"table": random.normal(0, 1, (VOCABULARY, WIDTH)), "knot_rows": random.normal(0, 1, (len(KNOTS), WIDTH))})


def _decoder(random: np.random.Generator) -> onnx.ModelProto:
    """One head whose keys, values and queries are the tokens themselves; the verdict is read off the last one."""
    shape = ["batch", 1, "total", WIDTH]
    return _model([
        helper.make_node("Unsqueeze", ["inputs_embeds", "one"], ["new"]),            # (batch, 1, length, width)
        helper.make_node("Shape", ["new"], ["rows"], end=1),
        helper.make_node("Concat", ["rows", "ones"], ["batches"], axis=0),            # (batch, 1, 1, 1)
        helper.make_node("Expand", ["past_key.0", "batches"], ["old_keys"]),
        helper.make_node("Expand", ["past_value.0", "batches"], ["old_values"]),
        helper.make_node("Concat", ["old_keys", "new"], ["present_key.0"], axis=2),
        helper.make_node("Concat", ["old_values", "new"], ["present_value.0"], axis=2),
        helper.make_node("Transpose", ["present_key.0"], ["turned"], perm=[0, 1, 3, 2]),
        helper.make_node("MatMul", ["new", "turned"], ["alike"]),
        helper.make_node("Add", ["alike", "attention_bias"], ["seen"]),
        helper.make_node("Softmax", ["seen"], ["shares"], axis=-1),
        helper.make_node("MatMul", ["shares", "present_value.0"], ["read"]),
        helper.make_node("Gather", ["read", "last"], ["state"], axis=2),              # (batch, 1, width)
        helper.make_node("Squeeze", ["state", "one"], ["answer"]),
        helper.make_node("MatMul", ["answer", "head"], ["verdict_logits"]),
    ], [("inputs_embeds", FLOAT, ["batch", "length", WIDTH]), ("position_ids", INT, ["batch", "length"]),
        ("attention_bias", FLOAT, ["batch", 1, "length", "total"]), ("past_key.0", FLOAT, [1, 1, "cached", WIDTH]),
        ("past_value.0", FLOAT, [1, 1, "cached", WIDTH])],
        [("verdict_logits", FLOAT, ["batch", 2]), ("present_key.0", FLOAT, shape), ("present_value.0", FLOAT, shape)],
        {"head": random.normal(0, 0.5, (WIDTH, 2)), "one": np.array([1]), "ones": np.ones(3, np.int64),
         "last": np.array(-1)})


def _model(nodes: list, inputs: list[tuple], outputs: list[tuple], constants: dict[str, np.ndarray]) -> onnx.ModelProto:
    stored = [numpy_helper.from_array(array if array.dtype == np.int64 else array.astype(np.float32), name)
              for name, array in constants.items()]
    graph = helper.make_graph(nodes, "tiny", [helper.make_tensor_value_info(*one) for one in inputs],
                              [helper.make_tensor_value_info(*one) for one in outputs], stored)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    onnx.checker.check_model(model)
    return model
