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
from export.quantize import embedding_graph, quantize_matmuls, save_split, store_in_few_bits
from safeguard_sdk import __version__
from safeguard_sdk.bundle import FORMAT, Bundle
from safeguard_sdk.engine import open_engine
from training.nano.exam import KNOWN, Question, metrics, wording_auroc
from training.nano.examiner import QUESTIONS, Examiner, answer
from training.nano.reader import STYLE
from training.nano.vision import GEOMETRY

MAX_POLICY_TOKENS = 1024
# Kept in 8 bits: keys and values of all layers, and the first two layers wholly. On 140 validation questions scores
# drift by 0.020 with keys and values alone; the first two layers take a quarter off that at 3 MB, all queries an eighth
# at 4.
SENSITIVE = ("k_proj", "v_proj")
SENSITIVE_LAYERS = ("layers.0.", "layers.1.")
CALIBRATION_QUESTIONS, MOMENT_QUESTIONS, PARITY_QUESTIONS = 300, 900, 600


def export_nano(run: Path, photos: Path, out: Path, bits: int) -> dict:
    """Write the bundle and return its manifest. Raises ParityError and leaves `out` as it was if the gate fails."""
    building = out.with_name(out.name + ".building")
    shutil.rmtree(building, ignore_errors=True)
    building.mkdir(parents=True)
    checkpoint = Checkpoint(run)
    examiner = Examiner(photos, run.parent / "assets")
    fitting = [question for question in examiner.exam("validation", CALIBRATION_QUESTIONS, seed=2)
               if question.wording == KNOWN]
    few = [fitting[row] for row in np.random.default_rng(0).permutation(len(fitting))[:MOMENT_QUESTIONS]]
    moments = checkpoint.input_moments(*examiner.feeds("validation", few)) if bits < 32 else {}
    files = write_graphs(checkpoint, building, bits, moments)
    manifest = _manifest(checkpoint, building, files, bits)
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


def write_graphs(checkpoint: Checkpoint, folder: Path, bits: int, moments: dict[str, np.ndarray]) -> list[Path]:
    """vision, embed and decoder graphs, tokenizer and tags.

    bits     of the linear layers; 32 leaves them in fp32
    moments  second moments of the inputs of the linear layers, see quantize.quantize_blocks
    """
    files = [folder / "tokenizer.json", folder / "tags.json"]
    files[0].write_text(checkpoint.tokenizer.backend_tokenizer.to_str(), encoding="utf-8")
    checkpoint.table.write(files[1])
    files += save_split(_vision(checkpoint, folder), folder / "vision.onnx")
    knots = checkpoint.reader.probability.weight.detach().numpy()
    files += save_split(embedding_graph(checkpoint.embeddings, knots), folder / "embed.onnx")
    model = export_decoder(Decoder.from_llama(checkpoint.reader.model, checkpoint.reader.verdict), folder / "full.onnx")
    for leftover in folder.glob("full.onnx*"):
        leftover.unlink()
    if bits < 32:
        names = [tensor.name for tensor in model.graph.initializer if ".weights." in tensor.name]
        quantize_matmuls(model, {name: 8 if _is_sensitive(name) else bits for name in names}, moments)
    return files + save_split(model, folder / "decoder.onnx")


def _is_sensitive(name: str) -> bool:
    return name.endswith(SENSITIVE) or name.startswith(SENSITIVE_LAYERS)


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


def _manifest(checkpoint: Checkpoint, folder: Path, files: list[Path], bits: int) -> dict:
    return {
        "format": FORMAT, "name": "nano", "version": __version__, "architecture": "tags",
        "base_model": [
            {"name": "SmolLM2-135M-Instruct", "layers": checkpoint.recipe["layers"], "licence": "Apache-2.0"},
            {"name": "EfficientNet-Lite2", "licence": "Apache-2.0"}],
        "prompt": {"style": STYLE.name, "version": STYLE.version, "sha256": STYLE.sha256},
        "verdict_tokens": asdict(STYLE.verdict_tokens),
        "processor": asdict(GEOMETRY),
        "max_policy_tokens": MAX_POLICY_TOKENS,
        "quantization": {"linear": f"{bits} bits, keys, values and the first two layers 8, in blocks of 32 (GPTQ); "
                                   "activations int8 per row" if bits < 32 else "fp32",
                         "embeddings": "int8 per row", "vision": "fp16 kernels, int8 matrices, fp32 arithmetic"},
        "calibration": {"scale": 1.0, "shift": 0.0},
        "training": {"recipe": checkpoint.recipe, "commit": _commit(), "start": checkpoint.origin},
        "files": listed(files),
    }


def _commit() -> str:
    return subprocess.run(["git", "rev-parse", "HEAD"], capture_output=True, text=True, check=True).stdout.strip()
