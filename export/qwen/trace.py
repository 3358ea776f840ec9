"""From the modules of this folder to ONNX graphs without weights.

A part is traced once, on shapes alone, and repeated for every layer, so that a graph of any depth takes seconds and no
memory. The shapes of sample inputs come from optimum's generators; every axis that an image, a batch or a policy
changes is free in the graph.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass, field
from functools import cache, lru_cache

import onnx
import onnx_ir
import torch
from onnx import helper
from onnxscript.optimizer import optimize_ir
from optimum.utils import DummyInputGenerator, NormalizedConfig
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode

from export.qwen import decoder, vision
from export.qwen.shapes import QwenShape

OPSET = 20
FLOAT, INT = onnx.TensorProto.FLOAT, onnx.TensorProto.INT64
SIZES = {"batch": 2, "patches": 16, "windows": 3, "length": 5, "cached": 7, "seen": 12}  # samples of the free axes
# What is seen is as much as is cached and new: a sum, which the exporter finds itself.
FREE = {name: torch.export.Dim(name, min=0 if name == "cached" else 1) for name in SIZES} | {
    "patches": torch.export.Dim("patches", min=4), "seen": torch.export.Dim.AUTO}
# Inputs of the parts: element type and axes, free ones by name, and those that the model has by attribute.
INPUTS = {
    "pixel_values": (FLOAT, "batch", "patches", "patch_values"), "positions": (INT, "patches", 2),
    "entries": (INT, "patches", 4), "weights": (FLOAT, "patches", 4),
    "slots": (INT, "windows", "slots"), "bias": (FLOAT, "windows", "slots"), "places": (INT, "patches"),
    "hidden_patches": (FLOAT, "batch", "patches", "width"), "turns_of_patches": (FLOAT, "patches", 1, "head"),
    "position_ids": (INT, 3, "batch", "length"), "padding": (INT, "batch"),
    "hidden": (FLOAT, "batch", "length", "width"), "turns": (FLOAT, "batch", "length", 1, "head"),
    "past": (FLOAT, 1, "groups", "cached", "head"), "seen": (FLOAT, "batch", 1, "length", "seen"),
}


class Sample(DummyInputGenerator):
    """Inputs of the parts, as INPUTS describes them."""

    SUPPORTED_INPUT_NAMES = tuple(INPUTS)

    def __init__(self, task: str, normalized_config: NormalizedConfig, **_) -> None:
        self.model = normalized_config

    def generate(self, input_name: str, framework: str = "pt", int_dtype: str = "int64", float_dtype: str = "fp32"):
        kind, *axes = INPUTS[input_name]
        shape = [SIZES[axis] if axis in SIZES else getattr(self.model, axis) if isinstance(axis, str) else axis
                 for axis in axes]
        if kind == INT:
            return self.constant_tensor(shape, 0, torch.int64)
        return self.random_float_tensor(shape, dtype=float_dtype)


@dataclass
class Sketch:
    """A graph that grows part by part; initializers have names and shapes, and no values yet."""

    nodes: list[onnx.NodeProto] = field(default_factory=list)
    initializers: dict[str, onnx.TensorProto] = field(default_factory=dict)

    def add(self, part: onnx.GraphProto, prefix: str, given: list[str], results: list[str]) -> list[str]:
        """Repeat a part: its weights are named after `prefix`, `given` are its inputs, `results` what to call its
        outputs. Returns these."""
        label = prefix or f"{results[0]}."
        names = {entry.name: name for entry, name in zip(part.input, given, strict=True)}
        names |= {entry.name: name for entry, name in zip(part.output, results, strict=True)} | {"": ""}
        for tensor in part.initializer:
            copy = onnx.TensorProto()
            copy.CopyFrom(tensor)
            copy.name = names[tensor.name] = (prefix if tensor.external_data else label) + tensor.name
            self.initializers[copy.name] = copy
        for node in part.node:
            copy = onnx.NodeProto()
            copy.CopyFrom(node)
            copy.name = label + node.name
            copy.input[:] = [names.setdefault(name, label + name) for name in node.input]
            copy.output[:] = [names.setdefault(name, label + name) for name in node.output]
            self.nodes.append(copy)
        return results

    def model(self, name: str, inputs: dict[str, tuple], outputs: dict[str, tuple]) -> onnx.ModelProto:
        """inputs, outputs  name → (element type, *axes)"""
        described = ([helper.make_tensor_value_info(entry, kind, axes) for entry, (kind, *axes) in some.items()]
                     for some in (inputs, outputs))
        graph = helper.make_graph(self.nodes, name, *described, initializer=list(self.initializers.values()))
        return helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=10)


@lru_cache(maxsize=8)
def vision_graph(shape: QwenShape) -> onnx.ModelProto:
    """The tower: patches of B images of one grid → image_embeds (B, N / merge², out), and as many of each feature of
    deepstack. Do not alter it: it is shared.

    pixel_values  (B, N, 3 · temporal · patch²) float32
    positions     (N, 2) int64, row and column of each patch
    window_…      Qwen2.5-VL: slots (W, L) int64, bias (W, L) float32, places (N,) int64; see grids.windows
    position_…    Qwen3-VL: entries (N, 4) int64 of the table of positions and their weights (N, 4) float32
    """
    model, sketch = shape.vision, Sketch()
    kept = {"pixel_values": (FLOAT, "batch", "patches", model.patch_values), "positions": (INT, "patches", 2)}
    corners = {"position_entries": (INT, "patches", 4), "position_weights": (FLOAT, "patches", 4)}
    windows = {"window_slots": (INT, "windows", model.slots),
               "window_bias": (FLOAT, "windows", model.slots), "window_places": (INT, "patches")}
    front = ["pixel_values", "positions", *(["entries", "weights"] if model.position_side else [])]
    inputs = kept | (corners if model.position_side else {}) | (windows if model.window else {})
    x, cos, sin = sketch.add(_trace(vision.Front(shape), model, front, 3), "",
                             list(kept | corners)[:len(front)], ["patches_in", "cos", "sin"])
    block = ["hidden_patches", "turns_of_patches", "turns_of_patches"]
    whole = _trace(vision.Block(shape.family, model), model, block, 1)
    windowed = model.window and _trace(vision.Block(shape.family, model), model, [*block, "slots", "bias", "places"], 1)
    merged = {"image_embeds": (FLOAT, "batch", "tokens", model.out)}
    merge = model.deepstack and _trace(vision.NewMerger(model, True), model, ["hidden_patches"], 1)
    for number in range(model.depth):
        one, more = (whole, []) if vision.sees_all(model, number) else (windowed, list(windows))
        (x,) = sketch.add(one, f"blocks.{number}.", [x, cos, sin, *more], [f"patches_{number}"])
        if number in model.deepstack:
            place = model.deepstack.index(number)
            sketch.add(merge, f"deepstack_merger_list.{place}.", [x], [f"deepstack.{place}"])
            merged[f"deepstack.{place}"] = merged["image_embeds"]
    sketch.add(_trace(vision.merger(shape), model, ["hidden_patches"], 1), "merger.", [x], ["image_embeds"])
    return sketch.model("vision", inputs, merged)


@lru_cache(maxsize=8)
def decoder_graph(shape: QwenShape) -> onnx.ModelProto:
    """The language model: verdict_logits (B, 2) and last_state (B, width), normed, of the last position; keys and
    values, layer by layer. Do not alter it either.

    inputs_embeds   (B, S, width) float32
    position_ids    (3, B, S) int64: time, row, column
    padding         (B,) int64: as many of the new positions stand in front to fill up, and are not seen
    past_…          2 · layers arrays (1, groups, P, head) that all rows share, keys and values in turn
    deepstack.…     arrays (B, S, width), added before the second and the following layers, zero but at image tokens
    """
    model, sketch = shape.decoder, Sketch()
    inputs = {"inputs_embeds": (FLOAT, "batch", "length", model.width), "position_ids": (INT, 3, "batch", "length"),
              "padding": (INT, "batch")}
    inputs |= {f"deepstack.{number}": inputs["inputs_embeds"] for number in range(model.deepstack)}
    pairs = [[f"{kind}.{layer}" for kind in ("key", "value")] for layer in range(model.layers)]
    inputs |= {f"past_{name}": (FLOAT, 1, model.groups, "cached", model.head) for pair in pairs for name in pair}
    outputs = {"verdict_logits": (FLOAT, "batch", 2), "last_state": (FLOAT, "batch", model.width)}
    outputs |= {f"present_{name}": (FLOAT, "batch", model.groups, "cached_and_new", model.head)
                for pair in pairs for name in pair}
    cos, sin, bias = sketch.add(_trace(decoder.Front(model), model, ["position_ids", "padding", "past"], 3), "",
                                ["position_ids", "padding", "past_key.0"], ["cos", "sin", "bias"])

    @cache
    def layer(last: bool) -> onnx.GraphProto:
        return _trace(decoder.Layer(model, last), model, ["hidden", "turns", "turns", "seen", "past", "past"], 3)

    x = "inputs_embeds"
    for number, (key, value) in enumerate(pairs):
        if 0 < number <= model.deepstack:
            x, before = f"deepened_{number}", x
            sketch.nodes.append(helper.make_node("Add", [before, f"deepstack.{number - 1}"], [x], name=x))
        x, _, _ = sketch.add(layer(number == model.layers - 1), f"layers.{number}.",
                             [x, cos, sin, bias, f"past_{key}", f"past_{value}"],
                             [f"hidden_{number}", f"present_{key}", f"present_{value}"])
    sketch.add(_trace(decoder.Head(model), model, ["hidden"], 2), "", [x], ["verdict_logits", "last_state"])
    return sketch.model("decoder", inputs, outputs)


def _trace(module: nn.Module, model: object, given: list[str], results: int) -> onnx.GraphProto:
    """The graph of a part. given: names of its inputs as Sample has them."""
    sample = Sample("image-to-text", NormalizedConfig(model))
    inputs = [sample.generate(name) for name in given]
    free = [{place: FREE[axis] for place, axis in enumerate(INPUTS[name][1:]) if axis in FREE} for name in given]
    with warnings.catch_warnings(), FakeTensorMode(allow_non_fake_inputs=True) as fake:
        warnings.simplefilter("ignore")  # the exporter's notes on itself: names of axes that it merges, its own parts
        module = module.to("cpu").eval()
        names = [name for name, _ in (*module.named_parameters(), *module.named_buffers())]
        for owner in module.modules():
            for name, parameter in owner.named_parameters(recurse=False):
                setattr(owner, name, nn.Parameter(fake.from_tensor(parameter.detach())))
        program = torch.onnx.export(
            module, tuple(fake.from_tensor(one) for one in inputs), dynamo=True, verbose=False, opset_version=OPSET,
            optimize=False, input_names=[f"in.{place}" for place in range(len(given))],
            output_names=[f"out.{place}" for place in range(results)], dynamic_shapes=tuple(free))
    graph = program.model.graph
    weights = {name: graph.initializers[name] for name in names if name in graph.initializers}
    held = {name: value.const_value for name, value in weights.items()}
    for name, value in weights.items():  # inputs while the graph is simplified: nothing may be computed from no values
        del graph.initializers[name]
        value.const_value = None
        graph.inputs.append(value)
    optimize_ir(program.model)
    for name, value in weights.items():
        graph.inputs.remove(value)
        value.const_value = onnx_ir.ExternalTensor("", 0, 0, held[name].dtype, shape=held[name].shape, name=name)
        graph.register_initializer(value)
    return onnx_ir.serde.serialize_model(program.model).graph
