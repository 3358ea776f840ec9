"""How fast a Qwen-VL bundle judges, against transformers on the same weights.

    python -m benchmarks.decoder CHECKPOINT --bundle DIR [--policy-tokens 512] [--image-tokens 256] [--runs 5]
    python -m benchmarks.decoder --shape Qwen2.5-VL-3B --write checkpoints/random-3b     # random weights of true shapes

Systems alternate within one run, so that what else the machine does meets all of them. Each answers the same question:
a verdict on one image under one policy. The last line of stdout is JSON.

    ours            the bundle: one prefill over the cached policy
    transformers    `generate` of one token in bf16, policy and image read anew for every image: the usual way
    cached          the same model in bf16, a forward pass over a cached policy
    gemm            the matrix products of ours alone, int8 by MatMulInteger over weights that stay in the cache: the
                    floor of the prefill on this machine

and rivals, where a model in their own format is given (decoder_rivals.py says how one is made):

    openvino        openvino-genai: one token over a cached policy
    genai           onnxruntime-genai: its decoder alone, over a cached policy, without the image's encoder
"""

from __future__ import annotations

import copy
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import numpy as np
import onnx
import onnxruntime
import torch
import typer
from onnx import helper, numpy_helper
from transformers import AutoModelForImageTextToText

from benchmarks.decoder_rivals import genai, openvino
from benchmarks.operators import operators
from export.plan import MODELS
from safeguard_sdk import Bundle
from safeguard_sdk.engine import Engine, Prefix, open_engine
from safeguard_sdk.image import to_model_input

SHAPES = tuple(name for name in MODELS if name.startswith("Qwen2.5"))
app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


@app.command()
def main(
    checkpoint: Annotated[Path | None, typer.Argument(exists=True, file_okay=False)] = None,
    bundle: Annotated[Path | None, typer.Option(exists=True, file_okay=False, help="Made from the checkpoint.")] = None,
    policy_tokens: Annotated[int, typer.Option(min=1)] = 512,
    image_tokens: Annotated[int, typer.Option(min=4, help="Of a square image.")] = 256,
    runs: Annotated[int, typer.Option(min=1, help="The median of them counts.")] = 5,
    threads: Annotated[int, typer.Option(help="0: all cores.")] = 0,
    openvino_model: Annotated[Path | None, typer.Option("--openvino", exists=True, file_okay=False,
                                                        help="The checkpoint as optimum-cli exports it.")] = None,
    genai_model: Annotated[Path | None, typer.Option("--genai", exists=True, file_okay=False,
                                                     help="Its decoder as onnxruntime-genai builds it.")] = None,
    shape: Annotated[str | None, typer.Option(help=f"With --write: {', '.join(SHAPES)}.")] = None,
    write: Annotated[Path | None, typer.Option(file_okay=False, help="Write random weights, and stop.")] = None,
) -> None:
    """Compare a bundle with its checkpoint in transformers, or write a checkpoint of random weights."""
    if write is not None:
        if shape not in SHAPES:
            raise typer.BadParameter(f"{shape!r}: choose one of {', '.join(SHAPES)}", param_hint="--shape")
        from benchmarks.random_weights import write_random
        write_random(MODELS[shape], write)
        return
    if checkpoint is None or bundle is None:
        raise typer.BadParameter("a checkpoint and --bundle are compared; see --help")
    if threads:
        torch.set_num_threads(threads)
    print(json.dumps(compare(checkpoint, Bundle.open(bundle), policy_tokens, image_tokens, runs, threads,
                             openvino_model, genai_model)))


def compare(checkpoint: Path, bundle: Bundle, policy_tokens: int, image_tokens: int, runs: int, threads: int,
            openvino_model: Path | None = None, genai_model: Path | None = None) -> dict:
    """Median milliseconds of each system, and what they are of another; milliseconds of each operator of ours."""
    style, geometry = bundle.style, bundle.geometry
    side = round(image_tokens**0.5) * geometry.patch * geometry.merge
    image = to_model_input(np.random.default_rng(0).integers(0, 256, (side, side, 3), np.uint8), geometry)

    def ours() -> tuple[Engine, str, Prefix]:
        engine = open_engine(bundle, threads=threads)
        text = _text_of_length(engine, style, policy_tokens)
        prefix = engine.read(style.prefix(text))
        engine.score(prefix, engine.encode([image]))
        return engine, text, prefix

    profile = operators(ours)
    engine, text, prefix = ours()
    model = AutoModelForImageTextToText.from_pretrained(checkpoint, dtype=torch.bfloat16).eval()
    asked = _inputs(engine, model, style.prefix(text), image)
    cached = _prefilled(model, asked, prefix.length)
    after = asked["input_ids"].shape[1] - prefix.length
    systems = {
        "ours": lambda: engine.score(prefix, engine.encode([image])),
        "vision": lambda: engine.encode([image]),
        "transformers": lambda: model.generate(**asked, max_new_tokens=1, do_sample=False),
        "cached": lambda: _over_cache(model, asked, cached, prefix.length),
        "gemm": _products(bundle, after, threads),
    }
    rivals = {}
    if openvino_model:
        rivals["openvino"] = openvino(openvino_model, style.prefix(text), style.suffix, side, threads)
    if genai_model:
        rivals["genai"] = genai(genai_model, asked["input_ids"][0].tolist(), prefix.length, threads)
    systems |= rivals
    times: dict[str, list[float]] = {name: [] for name in systems}
    for run in range(runs + 1):
        for name, system in systems.items():
            started = time.perf_counter()
            with torch.inference_mode():
                system()
            if run:  # the first warms up
                times[name].append((time.perf_counter() - started) * 1000)
    ms = {name: round(float(np.median(some)), 2) for name, some in times.items()}
    prefill = ms["ours"] - ms["vision"]
    return {"bundle": bundle.name, "quantization": bundle.manifest["quantization"]["scheme"],
            "policy_tokens": prefix.length, "tokens_after": after, "threads": threads, "runs": runs, "ms": ms,
            "times_transformers": round(ms["transformers"] / ms["ours"], 2),
            "times_cached": round(ms["cached"] / ms["ours"], 2), "of_gemm_floor": round(prefill / ms["gemm"], 2),
            "ms_of_operators": profile, "times_rivals": {name: round(ms[name] / ms["ours"], 2) for name in rivals}}


def _text_of_length(engine, style, tokens: int) -> str:
    text = "no weapons"
    while engine.count_tokens(style.prefix(text)) < tokens:
        text += ", no weapons"
    return text


def _inputs(engine, model, text: str, image) -> dict[str, torch.Tensor]:
    """The whole prompt, as transformers takes it."""
    pixels, grid = image
    turns, merge = engine._turns, model.config.vision_config.spatial_merge_size
    ids = [*turns.before, *engine._encode_text(text), *turns.before_image,
           *[model.config.image_token_id] * (grid[1] * grid[2] // merge**2),
           *engine.after_image(engine.bundle.style.suffix, engine.bundle.style.answer_start)]
    ids = torch.tensor([ids])
    return {"input_ids": ids, "attention_mask": torch.ones_like(ids), "pixel_values": torch.from_numpy(pixels),
            "image_grid_thw": torch.tensor([grid]), "mm_token_type_ids": (ids == model.config.image_token_id).int()}


def _prefilled(model, asked: dict[str, torch.Tensor], length: int):
    with torch.inference_mode():
        return model.model.language_model(input_ids=asked["input_ids"][:, :length], use_cache=True).cache


def _over_cache(model, asked: dict[str, torch.Tensor], cache, length: int) -> torch.Tensor:
    """One forward pass over what comes after the policy: image, question, turn."""
    positions, _ = model.model.get_rope_index(asked["input_ids"], asked["mm_token_type_ids"], asked["image_grid_thw"])
    ids = asked["input_ids"][:, length:]
    embeddings = model.model.language_model.embed_tokens(ids)
    tokens = model.model.visual(asked["pixel_values"].bfloat16(), grid_thw=asked["image_grid_thw"]).pooler_output
    embeddings = embeddings.masked_scatter((ids == model.config.image_token_id).unsqueeze(-1), tokens)
    state = model.model.language_model(inputs_embeds=embeddings, position_ids=positions[..., length:],
                                       cache=copy.deepcopy(cache), use_cache=True).last_hidden_state
    return model.lm_head(state[:, -1])


def _products(bundle: Bundle, rows: int, threads: int):
    """The decoder's matrix products on `rows` tokens and nothing else, one after the other."""
    model = onnx.load(bundle.path / "decoder.onnx", load_external_data=False)
    known = {tensor.name: tuple(tensor.dims) for tensor in model.graph.initializer}
    shapes = [known[f"{name}.levels"] for name in (node.input[1].removesuffix(".levels") for node in model.graph.node
                                                   if node.op_type == "MatMulIntegerToFloat")]
    if not shapes:  # of another scheme: the same products in int8
        shapes = [known.get(node.input[1], (0, 0)) for node in model.graph.node if node.op_type == "MatMul"]
        shapes = [shape for shape in shapes if len(shape) == 2 and min(shape) > 2]
    products = {shape: _product(rows, shape, threads) for shape in set(shapes)}
    return lambda: [products[shape]() for shape in shapes]


def _product(rows: int, shape: tuple[int, int], threads: int) -> Callable[[], None]:
    """(rows, in) uint8 by (in, out) int8, into memory that stays."""
    weight = numpy_helper.from_array(np.ones(shape, np.int8), "weight")
    graph = helper.make_graph(
        [helper.make_node("MatMulInteger", ["x", "weight"], ["y"])], "product",
        [helper.make_tensor_value_info("x", onnx.TensorProto.UINT8, ["rows", shape[0]])],
        [helper.make_tensor_value_info("y", onnx.TensorProto.INT32, ["rows", shape[1]])], [weight])
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.add_session_config_entry("session.force_spinning_stop", "1")
    session = onnxruntime.InferenceSession(made.SerializeToString(), options, providers=["CPUExecutionProvider"])
    binding = session.io_binding()
    binding.bind_cpu_input("x", np.zeros((rows, shape[0]), np.uint8))
    binding.bind_ortvalue_output("y", onnxruntime.OrtValue.ortvalue_from_shape_and_type((rows, shape[1]), np.int32))
    return lambda: session.run_with_iobinding(binding)


if __name__ == "__main__":
    app()
