"""Where a run of training starts: at SmolLM2, or at the reader of a bundle, out of its few bits.

A bundle holds linear layers in 4 and 8 bits; training goes on from these values with fresh adapters, as it would from
any other base. What training leaves alone (embeddings, norms) is SmolLM2's own.
"""

from __future__ import annotations

from pathlib import Path

import onnx
import torch
from onnx import numpy_helper
from torch import nn
from transformers import PreTrainedTokenizerBase

from export.decoder import FEED_FORWARD, PROJECTIONS
from export.quantize import read_matmuls
from safeguard_sdk.bundle import Bundle
from training.assets import fetch_smollm2
from training.nano.reader import Reader, load_base, with_adapters
from training.runs import save_whole

START = "start.pt"  # in the folder of the run


def start_from(bundle: Path, run: Path) -> None:
    """Write `run/start.pt`: the reader of a bundle, and which bundle it was. Once: a run that has a start keeps it.

    Raises BundleError for a folder that is no sound bundle, ValueError for a bundle that is not of nano's kind or
    another one than the run has started from.
    """
    opened = Bundle.open(bundle)
    path = run / START
    if path.is_file():
        first = torch.load(path, weights_only=True)["origin"]["sha256"]
        if first != opened.sha256:
            raise ValueError(f"{run}: has started from bundle {first[:12]}…, {bundle} is {opened.sha256[:12]}…; "
                             "give the same one, or another folder to --out")
        return
    if (run / "checkpoint.pt").is_file():
        raise ValueError(f"{run}: has started from SmolLM2; give another folder to --out")
    if opened.architecture != "tags":
        raise ValueError(f"{bundle}: is of architecture {opened.architecture!r}; training nano starts from 'tags' only")
    origin = {"sha256": opened.sha256, "training": opened.manifest["training"]}
    save_whole(path, {"origin": origin, "reader": _reader_weights(bundle)})


def open_start(run: Path, assets: Path, layers: int, rank: int) -> tuple[PreTrainedTokenizerBase, Reader, dict | None]:
    """Tokenizer and reader as the run has them before its first step, with untrained adapters; and what
    `start_from` noted of the bundle, None for a run from SmolLM2."""
    tokenizer, model, verdict_rows = load_base(fetch_smollm2(assets), layers)
    if not (run / START).is_file():
        return tokenizer, Reader(with_adapters(model, rank), verdict_rows), None
    state = torch.load(run / START, weights_only=True)
    _put(state["reader"]["model"], model)
    reader = Reader(with_adapters(model, rank), verdict_rows)
    _put(state["reader"]["heads"], reader)
    return tokenizer, reader, state["origin"]


def _put(weights: dict[str, torch.Tensor], module: nn.Module) -> None:
    """Copy tensors into the parameters of these names."""
    parameters = dict(module.named_parameters())
    unknown = weights.keys() - parameters.keys()
    if unknown:
        raise ValueError(f"the start has weights that the reader has no place for: {sorted(unknown)[:3]}…; "
                         "`layers` of the recipe must be those of the bundle")
    with torch.no_grad():
        for name, weight in weights.items():
            parameters[name].copy_(weight)


def _linear_names(layers: int) -> dict[str, str]:
    """Weight of the decoder graph → the same of a LlamaModel."""
    parts = [(part, name) for part, names in (("self_attn", PROJECTIONS), ("mlp", FEED_FORWARD)) for name in names]
    return {f"layers.{number}.weights.{name}": f"layers.{number}.{part}.{name}.weight"
            for number in range(layers) for part, name in parts}


def _reader_weights(bundle: Path) -> dict[str, dict[str, torch.Tensor]]:
    """`model`: (out, in) bfloat16 by the names of a LlamaModel; `heads`: embeddings of probability, verdict head."""
    graph = onnx.load(bundle / "decoder.onnx")
    plain = {tensor.name: tensor for tensor in graph.graph.initializer}
    names = _linear_names(sum(name.endswith(".attention_norm") for name in plain))
    linear = read_matmuls(graph)
    knots = next(tensor for tensor in onnx.load(bundle / "embed.onnx").graph.initializer if tensor.name == "knot_rows")
    heads = {"probability.weight": knots, "verdict.weight": plain["verdict.weight"],
             "verdict.bias": plain["verdict.bias"]}
    return {"model": {names[name]: torch.from_numpy(weight.T.copy()).bfloat16() for name, weight in linear.items()},
            "heads": {name: torch.from_numpy(numpy_helper.to_array(tensor).copy()) for name, tensor in heads.items()}}
