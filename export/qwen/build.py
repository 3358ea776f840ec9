"""A Qwen-VL checkpoint → graphs → few bits → parity gate → bundle.

    python -m export checkpoints/SafeGuard-VL-RL --out bundles/safeguard-vl --quant w8a8 --prompt safeguard-vl

The bundle is built in a folder beside `out` and takes its place only after it has passed the gate.
"""

from __future__ import annotations

import json
import re
import shutil
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np
import onnx
from numpy.lib.format import open_memmap
from onnx import helper
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from transformers import PreTrainedTokenizerBase

from export.folder import listed, write_manifest
from export.gate import MAX_FLIP_RATE, MAX_MEAN_DRIFT, require
from export.parity import QUESTIONS, Question, Report, ask, draw_questions, pixels_of
from export.qwen import chat, rounding, sensitivity
from export.qwen.card import model_card
from export.qwen.decoder import axes
from export.qwen.reference import Reference
from export.qwen.shapes import QwenShape
from export.qwen.store import CHUNK, Source, store
from export.qwen.trace import FLOAT, OPSET, decoder_graph, vision_graph
from export.qwen.vision import inverse_frequencies
from export.qwen.weights import Weights
from safeguard_sdk import __version__
from safeguard_sdk.bundle import FORMAT, Bundle, file_sha256
from safeguard_sdk.calibration import Calibration
from safeguard_sdk.engine import Engine, open_engine
from safeguard_sdk.engine.qwen_vl import ChatTurns
from safeguard_sdk.image import PatchGeometry
from safeguard_sdk.prompt import PROMPTS, PromptStyle

MAX_POLICY_TOKENS = 4096
MAX_IMAGE_TOKENS = 1280  # the default of the processor's class; checkpoint files allow 16384, minutes on a CPU
LINEAR = {"fp32": "fp32", "fp16": "fp16 weights, fp32 arithmetic", "w8a8": "int8 per output; activations int8 per row",
          "fp8": "float8 per output; activations float8 per row", "w8a16": "8 bits per output",
          "w4a16": "4 bits in blocks of 64 (GPTQ); keys, values and vision 8 bits per output"}


@dataclass(frozen=True)
class Order:
    """What is wanted of an export."""

    checkpoint: Path
    out: Path
    scheme: str = "w8a8"                 # a name in store.SCHEMES
    style: str = "direct"                # a name in PROMPTS
    base: Path | None = None             # of an adapter that does not name its own
    text: bool = True                    # whether it can write text (lm_head.onnx)
    max_image_tokens: int = MAX_IMAGE_TOKENS
    gate_data: Path | None = None        # photos; None: those that come with packages
    questions: int = QUESTIONS
    max_flips: float = MAX_FLIP_RATE     # share of verdicts that may differ from the checkpoint's
    max_drift: float = MAX_MEAN_DRIFT    # of scores, mean


@dataclass(frozen=True)
class Checkpoint:
    """All that is read of a checkpoint folder, but its weights, which are read when they are wanted."""

    shape: QwenShape
    weights: Weights
    tokenizer: PreTrainedTokenizerBase
    style: PromptStyle
    turns: ChatTurns
    verdict: tuple[int, int]     # tokens
    geometry: PatchGeometry

    @classmethod
    def open(cls, order: Order) -> Checkpoint:
        """Raises ExportError."""
        weights = Weights(order.checkpoint, order.base)
        folder, style = weights.folder, PROMPTS[order.style]
        shape, tokenizer = QwenShape.read(folder), chat.read_tokenizer(folder)
        image_token = json.loads((folder / "config.json").read_bytes())["image_token_id"]
        return cls(shape, weights, tokenizer, style, chat.chat_turns(tokenizer, folder, image_token, style),
                   chat.verdict_ids(tokenizer, style), chat.read_geometry(folder, shape.vision, order.max_image_tokens))

    @property
    def head(self) -> str:
        """The tensor that turns states into logits."""
        return "embed_tokens.weight" if self.shape.decoder.tied else "lm_head.weight"

    def reference(self) -> Reference:
        return Reference(self.weights, self.tokenizer, self.turns, self.style, self.verdict, self.head)


def export_qwen(order: Order) -> dict:
    """Write the bundle and return its manifest. Raises ExportError or ParityError, and leaves `out` as it was then."""
    drawn = draw_questions(order.gate_data, order.questions + rounding.QUESTIONS)  # fails before the hours, not after
    questions, others = drawn[:-rounding.QUESTIONS], drawn[-rounding.QUESTIONS:]  # one photo alone gives more
    checkpoint = Checkpoint.open(order)
    building = order.out.with_name(order.out.name + ".building")
    shutil.rmtree(building, ignore_errors=True)
    building.mkdir(parents=True)
    try:
        kept = _sensitive(checkpoint, questions) if order.scheme == "w8a8" else frozenset()
        rounded = _rounded(checkpoint, others, building / "rounded") if order.scheme == "w4a16" else {}
        files = write_files(checkpoint, building, order.scheme, order.text, kept, rounded)
        shutil.rmtree(building / "rounded", ignore_errors=True)
        manifest = _manifest(checkpoint, order, files, kept)
        write_manifest(building, manifest)
        report = gate(open_engine(Bundle.open(building)), checkpoint, questions)
        manifest["parity"] = report.as_json()
        print("\n".join(report.lines()), file=sys.stderr, flush=True)
        require(report.whole, order.max_flips, order.max_drift)
        write_manifest(building, manifest)
        (building / "README.md").write_text(model_card(manifest), encoding="utf-8")
        Bundle.open(building)
    except BaseException:
        shutil.rmtree(building)  # neither a bundle that failed nor half of one is left
        raise
    if order.out.exists():
        shutil.rmtree(order.out)
    building.rename(order.out)
    return manifest


def gate(engine: Engine, checkpoint: Checkpoint, questions: list[Question]) -> Report:
    """Ask both the same. engine: of the bundle."""
    pixels = pixels_of(questions, engine.bundle.geometry)
    found = ask(engine, questions, pixels)
    pairs = checkpoint.reference().logits([checkpoint.style.prefix(question.text) for question in questions],
                                          [pixels[question.photo] for question in questions])
    return Report.of(questions, pairs[:, 1] - pairs[:, 0], found, engine.bundle.calibration)


def write_files(checkpoint: Checkpoint, folder: Path, scheme: str, text: bool, kept: frozenset[str] = frozenset(),
                rounded: dict[str, Path] | None = None) -> list[Path]:
    """Graphs, embeddings and tokenizer.

    kept     weights that w8a8 stores as w8a16, by their names in the checkpoint
    rounded  what rounding.py has made of weights that w4a16 stores in 4 bits
    """
    shape, weights = checkpoint.shape, checkpoint.weights
    graphs = [("vision", vision_graph(shape), _vision_source(checkpoint)),
              ("decoder", decoder_graph(shape), replace(_decoder_source(checkpoint), rounded=rounded or {}))]
    if text:
        graphs.append(("lm_head", _head_graph(checkpoint), Source(weights, "", named={"head.weight": checkpoint.head})))
    table = weights.shape("embed_tokens.weight")
    total = sum(int(np.prod(tensor.dims)) for _, graph, _ in graphs for tensor in graph.graph.initializer)
    files = [folder / "tokenizer.json"]
    files[0].write_text(checkpoint.tokenizer.backend_tokenizer.to_str(), encoding="utf-8")
    with _progress("embeddings", total + table[0] * table[1]) as (bar, task, advance):
        files.append(_write_embeddings(weights, folder / "embeddings.npy", scheme, advance))
        for name, graph, source in graphs:
            bar.update(task, description=name)
            # Text is written token by token, so its head is bound by memory: 8 bits, whatever the scheme of the rest.
            own = "w8a16" if name == "lm_head" and scheme not in ("fp32", "fp16") else scheme
            files += store(graph, source, folder / f"{name}.onnx", own, vision=name == "vision", sensitive=kept,
                           advance=advance)
    return files


@contextmanager
def _progress(description: str, total: int) -> Iterator[tuple[Progress, TaskID, Callable[[int], None]]]:
    """A bar over so many values, its task, and what moves it."""
    columns = TextColumn("{task.description:10}"), BarColumn(), TextColumn("{task.percentage:3.0f} %"), \
        TimeElapsedColumn(), TimeRemainingColumn()
    with Progress(*columns, console=Console(stderr=True)) as bar:
        task = bar.add_task(description, total=total)
        yield bar, task, partial(bar.advance, task)


def _rounded(checkpoint: Checkpoint, questions: list[Question], folder: Path) -> dict[str, Path]:
    folder.mkdir()
    pixels = pixels_of(questions, checkpoint.geometry)
    reference = checkpoint.reference()
    with _progress("rounding", rounding.weights_of(reference)) as (_, _, advance):
        return rounding.round_layers(reference, [checkpoint.style.prefix(question.text) for question in questions],
                                     [pixels[question.photo] for question in questions], folder, advance)


def _sensitive(checkpoint: Checkpoint, questions: list[Question]) -> frozenset[str]:
    some = questions[:sensitivity.QUESTIONS]
    pixels = pixels_of(some, checkpoint.geometry)
    return sensitivity.sensitive(sensitivity.losses(
        checkpoint.reference(), [checkpoint.style.prefix(question.text) for question in some],
        [pixels[question.photo] for question in some]))


def _vision_source(checkpoint: Checkpoint) -> Source:
    vision = checkpoint.shape.vision
    turns = inverse_frequencies(vision.head // 2, vision.theta)
    return Source(checkpoint.weights, "visual.", computed={"inverse_frequencies": turns.numpy()})


def _decoder_source(checkpoint: Checkpoint) -> Source:
    decoder = checkpoint.shape.decoder
    rows = [checkpoint.weights.rows(checkpoint.head, row, row + 1).numpy() for row in checkpoint.verdict]
    return Source(checkpoint.weights, "", computed={
        "inverse_frequencies": inverse_frequencies(decoder.head, decoder.theta).numpy(), "axes": axes(decoder).numpy(),
        "verdict.weight": np.concatenate(rows).T})


def _head_graph(checkpoint: Checkpoint) -> onnx.ModelProto:
    """state (B, width) → logits (B, vocabulary) of the next token."""
    vocabulary, width = checkpoint.weights.shape(checkpoint.head)
    weight = onnx.TensorProto(name="head.weight", data_type=FLOAT, dims=(width, vocabulary),
                              data_location=onnx.TensorProto.EXTERNAL)
    weight.external_data.add(key="location", value="")
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["state", "head.weight"], ["logits"])], "lm_head",
        [helper.make_tensor_value_info("state", FLOAT, ["batch", width])],
        [helper.make_tensor_value_info("logits", FLOAT, ["batch", vocabulary])], [weight])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=10)


def _write_embeddings(weights: Weights, path: Path, scheme: str, advance) -> Path:
    """(tokens, width), read through a memory map where it runs."""
    tokens, width = weights.shape("embed_tokens.weight")
    table = open_memmap(path, "w+", np.float32 if scheme == "fp32" else np.float16, (tokens, width))
    step = max(1, CHUNK // width)
    for start in range(0, tokens, step):
        rows = weights.rows("embed_tokens.weight", start, min(tokens, start + step))
        table[start:start + len(rows)] = rows.numpy()
        advance(rows.numel())
    table.flush()
    return path


def _manifest(checkpoint: Checkpoint, order: Order, files: list[Path], kept: frozenset[str]) -> dict:
    shape, style, weights = checkpoint.shape, checkpoint.style, checkpoint.weights
    models = [{"name": weights.folder.name, "family": shape.family, "licence": _licence(weights.folder)}]
    if weights.adapter is not None:
        models.append({"name": order.checkpoint.name, "adapter": "LoRA, merged", "licence": _licence(order.checkpoint)})
    return {
        "format": FORMAT, "name": order.out.name, "version": __version__, "architecture": "qwen-vl",
        "base_model": models,
        "prompt": {"style": style.name, "version": style.version, "sha256": style.sha256},
        "verdict_tokens": asdict(style.verdict_tokens) | {"ids": list(checkpoint.verdict)},
        "chat": chat.as_json(checkpoint.turns),
        "processor": asdict(checkpoint.geometry),
        "vision": {"window": shape.vision.window, "position_side": shape.vision.position_side},
        "max_policy_tokens": MAX_POLICY_TOKENS,
        "quantization": {"scheme": order.scheme, "linear": LINEAR[order.scheme],
                         "embeddings": "fp32" if order.scheme == "fp32" else "fp16",
                         "vision": LINEAR["w8a16" if order.scheme == "w4a16" else order.scheme],
                         "kept_in_blocks": sorted(kept),
                         "rounded_on": rounding.QUESTIONS if order.scheme == "w4a16" else 0},
        "calibration": asdict(Calibration(1.0, 0.0)) | {"data": "none: scores are the model's own probabilities"},
        "checkpoint": {path.name: file_sha256(path) for path in sorted(weights.folder.glob("*.safetensors"))},
        "files": listed(files),
    }


def _licence(folder: Path) -> str:
    """As the model card says it."""
    card = folder / "README.md"
    text = card.read_text(encoding="utf-8", errors="replace") if card.is_file() else ""
    found = re.search(r"^license(?:_name)?:\s*(?!other\s*$)(\S+)\s*$", text, re.MULTILINE)
    return found[1] if found else "not stated in the checkpoint"
