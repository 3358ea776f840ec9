"""Where a run of training starts: at SmolLM2, at what stage 1 has made of it (captions.py), or at the reader of a
bundle, out of its few bits.

A bundle holds linear layers in few bits; training goes on from these values with fresh adapters, as it would from any
other base. The embeddings, which training leaves alone, are SmolLM2's own.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import torch
from onnx import numpy_helper
from safetensors.torch import load_file
from torch import nn
from transformers import PreTrainedTokenizerBase

from export.decoder import WEIGHTS
from export.narrow import read_narrow
from safeguard_sdk.bundle import Bundle, file_sha256
from training.assets import fetch_smollm2
from training.errors import TrainingError
from training.nano.reader import Reader, load_base, with_adapters
from training.runs import save_whole

START = "start.pt"              # in the folder of the run
STAGE1 = "model.safetensors"    # in the folder of stage 1
CAPTIONS = "captions"           # what the origin of a start says of stage 1
TRAINED = ("layers.", "norm.")  # what stage 1 trains, by the names of a LlamaModel
# Names of a bundle's graphs → of a LlamaModel; of the reader → of a bundle's graphs.
NORMS = {"attention_norm.weight": "input_layernorm.weight",
         "feed_forward_norm.weight": "post_attention_layernorm.weight"}
HEADS = {"probability.weight": "knot_rows", "verdict.weight": "verdict.weight", "verdict.bias": "verdict.bias"}


def start_from(folder: Path, run: Path) -> None:
    """Write `run/start.pt`: the reader of a bundle, or the language model of stage 1, and which it was. Once: a run
    that has a start keeps it.

    Raises BundleError for a folder that is neither, TrainingError for a bundle or a model that is not of nano's
    kind, or another start than the run has.
    """
    bundle = None if (folder / STAGE1).is_file() else Bundle.open(folder)
    sha256 = bundle.sha256 if bundle else file_sha256(folder / STAGE1)
    path = run / START
    if path.is_file():
        first = torch.load(path, weights_only=True)["origin"]["sha256"]
        if first != sha256:
            raise TrainingError(f"{run}: has started from {first[:12]}…, {folder} is {sha256[:12]}…; give the same "
                                "one, or another folder to --out")
        return
    if (run / "checkpoint.pt").is_file():
        raise TrainingError(f"{run}: has started from SmolLM2; give another folder to --out")
    if bundle and bundle.architecture != "tags":
        raise TrainingError(f"{folder}: is of architecture {bundle.architecture!r}; training nano starts from "
                            "'tags' only")
    origin = {"sha256": sha256, "training": bundle.manifest["training"] if bundle else CAPTIONS}
    save_whole(path, {"origin": origin,
                      "reader": _reader_weights(folder) if bundle else _stage1_weights(folder / STAGE1)})


def open_start(run: Path, assets: Path, layers: int, rank: int) -> tuple[PreTrainedTokenizerBase, Reader, dict | None]:
    """Tokenizer and reader as the run has them before its first step, with untrained adapters; and what
    `start_from` noted of where it starts, None for a run from SmolLM2."""
    tokenizer, model, verdict_rows = load_base(fetch_smollm2(assets), layers)
    if not (run / START).is_file():
        return tokenizer, Reader(with_adapters(model, rank), verdict_rows), None
    state = torch.load(run / START, weights_only=True)
    first = state["reader"]["model"]
    if state["origin"]["training"] == CAPTIONS:
        first = _first_layers(first, model)
    _put(first, model)
    reader = Reader(with_adapters(model, rank), verdict_rows)
    _put(state["reader"]["heads"], reader)
    return tokenizer, reader, state["origin"]


def _put(weights: dict[str, torch.Tensor], module: nn.Module) -> None:
    """Copy tensors into the parameters of these names."""
    parameters = dict(module.named_parameters())
    unknown = [name for name, weight in weights.items()
               if name not in parameters or weight.shape != parameters[name].shape]
    if unknown:
        raise TrainingError(f"the start has weights that the reader has no place for: {sorted(unknown)[:3]}…; "
                            "`layers` of the recipe must be those of the start")
    with torch.no_grad():
        for name, weight in weights.items():
            parameters[name].copy_(weight)


def _first_layers(weights: dict[str, torch.Tensor], model: nn.Module) -> dict[str, torch.Tensor]:
    """Of the model that stage 1 trained whole, what a reader of fewer layers has."""
    wanted = [name for name, _ in model.named_parameters() if name.startswith(TRAINED)]
    missing = [name for name in wanted if name not in weights]
    if missing:
        raise TrainingError(f"the model of stage 1 has no {missing[0]}; `layers` of the recipe must be no more than "
                            "it has")
    return {name: weights[name] for name in wanted}


def _stage1_weights(path: Path) -> dict[str, dict[str, torch.Tensor]]:
    """As _reader_weights, of all layers; the heads are new. Raises TrainingError for a model of another kind."""
    stored = {name.removeprefix("model."): tensor.bfloat16() for name, tensor in load_file(path).items()}
    if "norm.weight" not in stored:
        raise TrainingError(f"{path}: is no Llama, as nano's language model is; give OUT/sft/model of its stage 1")
    return {"model": {name: tensor for name, tensor in stored.items() if name.startswith(TRAINED)}, "heads": {}}


def _reader_weights(bundle: Path) -> dict[str, dict[str, torch.Tensor]]:
    """`model`: linear layers (out, in) and norms in bfloat16 by the names of a LlamaModel; `heads`: embeddings of
    probability, verdict head."""
    graph = bundle / "decoder.onnx"
    plain = {tensor.name: numpy_helper.to_array(tensor, str(bundle)) for tensor in
             (*onnx.load(graph, load_external_data=False).graph.initializer,
              *onnx.load(bundle / "embed.onnx", load_external_data=False).graph.initializer)
             if not tensor.name.endswith(".levels")}
    model = {}
    for name, weight in read_narrow(graph).items():
        layer, part = name.split(".weights.")
        model |= {f"{layer}.{linear}.weight": rows for linear, rows in _linear_layers(part, weight.T).items()}
    for name, norm in NORMS.items():
        model |= {stored.replace(name, norm): values for stored, values in plain.items() if stored.endswith(name)}
    heads = {name: plain[stored] for name, stored in HEADS.items()}
    return {"model": {name: torch.from_numpy(values.copy()).bfloat16() for name, values in model.items()},
            "heads": {name: torch.from_numpy(values.copy()) for name, values in heads.items()}}


def _linear_layers(name: str, rows: np.ndarray) -> dict[str, np.ndarray]:
    """A weight of the graph, (out, in) → the linear layers that stand in it."""
    part, linears = WEIGHTS[name]
    outputs, inputs = rows.shape
    first = inputs if name == "qkv_proj" else outputs // len(linears)  # as many queries as inputs
    stops = np.linspace(first, outputs, len(linears)).astype(int)[:-1]
    return {f"{part}.{linear}": some for linear, some in zip(linears, np.split(rows, stops), strict=True)}
