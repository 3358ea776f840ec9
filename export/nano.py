"""nano: checkpoint → ONNX graphs → few bits → calibration → parity gate → bundle.

    python -m export runs/nano --photos ../shared/data/photos --out safeguard_sdk/nano

The bundle is built in a folder beside `out` and takes its place only after it has passed the gate.
"""

from __future__ import annotations

import shutil
import subprocess
from collections import Counter
from dataclasses import asdict
from pathlib import Path

import numpy as np
import onnx
import torch
from sklearn.linear_model import LogisticRegression

from export.card import model_card
from export.checkpoint import Checkpoint
from export.decoder import Decoder, export_decoder
from export.folder import listed, write_manifest
from export.gate import compare, require
from export.narrow import multiply_in_int8, save_narrow, save_unsigned_twin
from export.quantize import embedding_graph, save_split, store_in_few_bits
from export.smoothing import Inputs, smooth
from safeguard_sdk import __version__
from safeguard_sdk.bundle import FORMAT, Bundle
from safeguard_sdk.engine import open_engine
from training.nano.exam import KNOWN, Question, metrics, wording_auroc
from training.nano.examiner import QUESTIONS, Examiner, answer
from training.nano.reader import STYLE
from training.nano.vision import GEOMETRY

MAX_POLICY_TOKENS = 1024
BITS, COARSE_BITS = 6, 5
COARSE, COARSE_FROM = "gate_up_proj", 7  # these weights, from this layer on, or else the bundle would have over 100 MB
CALIBRATION_QUESTIONS, MOMENT_QUESTIONS, PARITY_QUESTIONS = 300, 900, 600


def export_nano(run: Path, photos: Path, out: Path) -> dict:
    """Write the bundle and return its manifest. Raises ParityError and leaves `out` as it was if the gate fails."""
    building = out.with_name(out.name + ".building")
    shutil.rmtree(building, ignore_errors=True)
    building.mkdir(parents=True)
    checkpoint = Checkpoint(run)
    examiner = Examiner(photos, run.parent / "assets")
    fitting = [question for question in examiner.exam("validation", CALIBRATION_QUESTIONS, seed=2)
               if question.wording == KNOWN]
    few = [fitting[row] for row in np.random.default_rng(0).permutation(len(fitting))[:MOMENT_QUESTIONS]]
    files = write_graphs(checkpoint, building, checkpoint.inputs(*examiner.feeds("validation", few)))
    manifest = _manifest(checkpoint, files)
    sources = Counter(photo.source for photo in examiner.split("train"))
    manifest["training"]["photos"] = dict(sources.most_common())
    write_manifest(building, manifest)

    engine = open_engine(Bundle.open(building))
    logits, _ = answer(engine, *examiner.feeds("validation", fitting))
    scale, shift = fit_calibration(logits, np.array([question.broken for question in fitting]))
    manifest["calibration"] = {"scale": scale, "shift": shift, "questions": len(fitting),
                               "data": "photos of the validation split, wordings of training"}

    exam = examiner.exam("test", QUESTIONS, seed=3)
    logits, _ = answer(engine, *examiner.feeds("test", exam))
    some = np.random.default_rng(0).permutation(len(exam))[:PARITY_QUESTIONS]
    parity = compare(checkpoint.logits(*examiner.feeds("test", [exam[row] for row in some])), logits[some],
                     scale, shift)
    print(f"parity with the fp32 checkpoint: {parity.as_json()}", flush=True)
    require(parity)
    manifest["parity"] = parity.as_json()
    manifest["quality"] = quality(exam, scale * logits + shift)
    write_manifest(building, manifest)
    card = model_card(manifest, list(checkpoint.table.kinds))
    (building / "README.md").write_text(card, encoding="utf-8")
    Bundle.open(building)
    if out.exists():
        shutil.rmtree(out)
    building.rename(out)
    return manifest


def write_graphs(checkpoint: Checkpoint, folder: Path, inputs: dict[str, Inputs]) -> list[Path]:
    """vision, embed and decoder graphs, tokenizer and tags. inputs: of each weight of the decoder"""
    files = [folder / "tokenizer.json", folder / "tags.json"]
    files[0].write_text(checkpoint.tokenizer.backend_tokenizer.to_str(), encoding="utf-8")
    checkpoint.table.write(files[1])
    files += save_split(_vision(checkpoint, folder), folder / "vision.onnx")
    knots = checkpoint.reader.probability.weight.detach().numpy()
    files += save_split(embedding_graph(checkpoint.embeddings, knots), folder / "embed.onnx")
    decoder = Decoder.from_llama(checkpoint.reader.model, checkpoint.reader.verdict)
    smoothed = smooth(decoder, inputs)
    model = export_decoder(decoder, folder / "full.onnx")
    for leftover in folder.glob("full.onnx*"):
        leftover.unlink()
    narrow = multiply_in_int8(model, {name: _bits(name) for name in smoothed},
                              {name: one.moments for name, one in smoothed.items()})
    graph = folder / "decoder.onnx"
    return [*files, *save_split(model, graph), *save_narrow(narrow, graph), save_unsigned_twin(graph)]


def _bits(name: str) -> int:
    """Of a weight, by its name in the graph: layers.NUMBER.weights.NAME."""
    _, number, _, weight = name.split(".")
    return COARSE_BITS if weight == COARSE and int(number) >= COARSE_FROM else BITS


def fit_calibration(logits: np.ndarray, broken: np.ndarray) -> tuple[float, float]:
    """Platt scaling (Platt 1999): scale and shift of the logit by logistic regression."""
    model = LogisticRegression(C=1e6).fit(logits[:, None], broken)
    return round(float(model.coef_[0, 0]), 6), round(float(model.intercept_[0]), 6)


def quality(exam: list[Question], logits: np.ndarray) -> dict:
    """Marks of the exam, AUROC of each held-out wording, calibration error, and what always-unsafe would get."""
    broken = np.array([question.broken for question in exam])
    return {"questions": len(exam), **metrics(exam, logits),
            "always_unsafe_accuracy": round(float(broken.mean()), 4),
            "wordings_auroc": {name: round(value, 3) for name, value in wording_auroc(exam, logits).items()}}


def _vision(checkpoint: Checkpoint, folder: Path) -> onnx.ModelProto:
    path = folder / "sight.onnx"
    torch.onnx.export(checkpoint.sight, (torch.zeros(2, 3, GEOMETRY.side, GEOMETRY.side),), path, dynamo=True,
                      verbose=False, external_data=False, opset_version=20, input_names=["pixel_values"],
                      output_names=["probabilities"], dynamic_shapes=({0: torch.export.Dim("batch")},))
    model = onnx.load(path)
    path.unlink()
    store_in_few_bits(model)
    return model


def _manifest(checkpoint: Checkpoint, files: list[Path]) -> dict:
    return {
        "format": FORMAT, "name": "nano", "version": __version__, "architecture": "tags",
        "base_model": [
            {"name": "SmolLM2-135M-Instruct", "layers": checkpoint.recipe["layers"], "licence": "Apache-2.0"},
            {"name": "EfficientNet-Lite2", "licence": "Apache-2.0"}],
        "prompt": {"style": STYLE.name, "version": STYLE.version, "sha256": STYLE.sha256},
        "verdict_tokens": asdict(STYLE.verdict_tokens),
        "processor": asdict(GEOMETRY),
        "max_policy_tokens": MAX_POLICY_TOKENS,
        "quantization": {"linear": f"stored in {BITS} bits, gate and up from layer {COARSE_FROM} on in {COARSE_BITS}, "
                                   "with a factor for 32 inputs (GPTQ), multiplied in int8; activations int8 per row "
                                   "(SmoothQuant)",
                         "embeddings": "6 bits with a scale for each row",
                         "vision": "fp16 kernels, int8 matrices, fp32 arithmetic"},
        "calibration": {"scale": 1.0, "shift": 0.0},
        "training": {"recipe": checkpoint.recipe, "commit": _commit(), "start": checkpoint.origin},
        "files": listed(files),
    }


def _commit() -> str:
    return subprocess.run(["git", "rev-parse", "HEAD"], capture_output=True, text=True, check=True).stdout.strip()
