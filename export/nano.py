"""nano: checkpoint → ONNX graphs → few bits → calibration → parity gate → bundle.

    python -m export runs/nano --photos ../shared/data/photos --out safeguard_sdk/nano

The bundle is built in a folder beside `out` and takes its place only after it has passed the gate.
"""

from __future__ import annotations

import json
import shutil
import subprocess
from dataclasses import asdict
from pathlib import Path

import numpy as np
import onnx
import torch
from sklearn.linear_model import LogisticRegression

from export.checkpoint import Checkpoint
from export.decoder import Decoder, export_decoder
from export.gate import bundle_logits, compare, require
from export.quantize import embedding_graph, quantize_matmuls, save_split, store_in_16_bits
from safeguard_sdk import __version__
from safeguard_sdk.bundle import FORMAT, MANIFEST, Bundle, file_sha256
from safeguard_sdk.engine import open_engine
from safeguard_sdk.image import decode_image, to_pixel_values
from training.assets import fetch_wordnet
from training.nano.exam import Question, build_exam, metrics, wording_auroc
from training.nano.reader import STYLE
from training.nano.train import Sight, photo_world
from training.nano.vision import GEOMETRY
from training.photos import read_photos
from training.policyflip.concepts import Concepts, Heldout
from training.wordnet import WordNet

MAX_POLICY_TOKENS = 1024
CALIBRATION_QUESTIONS, TEST_QUESTIONS, PARITY_QUESTIONS = 240, 400, 600


def export_nano(run: Path, photos: Path, out: Path, bits: int) -> dict:
    """Write the bundle and return its manifest. Raises ParityError and leaves `out` as it was if the gate fails."""
    building = out.with_name(out.name + ".building")
    shutil.rmtree(building, ignore_errors=True)
    building.mkdir(parents=True)
    checkpoint = Checkpoint(run)
    files = write_graphs(checkpoint, building, bits)
    manifest = _manifest(checkpoint, building, files, bits)
    _write(building, manifest)

    examiner = Examiner(run, photos, checkpoint)
    engine = open_engine(Bundle.open(building))
    fitting = examiner.exam("validation", CALIBRATION_QUESTIONS, seed=2)
    logits = bundle_logits(engine, *examiner.feeds("validation", fitting))
    scale, shift = fit_calibration(logits, np.array([question.broken for question in fitting]))
    manifest["calibration"] = {"scale": scale, "shift": shift, "questions": len(fitting),
                               "data": "photos and held-out wordings of the validation split"}

    exam = examiner.exam("test", TEST_QUESTIONS, seed=3)
    logits = bundle_logits(engine, *examiner.feeds("test", exam))
    some = np.random.default_rng(0).permutation(len(exam))[:PARITY_QUESTIONS]
    texts, pixels = examiner.feeds("test", [exam[row] for row in some])
    parity = compare(checkpoint.logits(texts, pixels), logits[some], scale, shift)
    print(f"parity with the fp32 checkpoint: {parity.as_json()}", flush=True)
    require(parity)
    manifest["parity"] = parity.as_json()
    manifest["quality"] = quality(exam, scale * logits + shift)
    _write(building, manifest)
    Bundle.open(building)
    if out.exists():
        shutil.rmtree(out)
    building.rename(out)
    return manifest


def write_graphs(checkpoint: Checkpoint, folder: Path, bits: int) -> list[Path]:
    """vision, embed and decoder graphs, tokenizer and tags. bits: of the linear layers, 32 leaves them in fp32."""
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
        quantize_matmuls(model, {name: bits for name in names})
    return files + save_split(model, folder / "decoder.onnx")


class Examiner:
    """Questions over the photos of a split, and the pixels that they are about."""

    def __init__(self, run: Path, photos: Path, checkpoint: Checkpoint) -> None:
        self.concepts = Concepts.read(WordNet.read(fetch_wordnet(run.parent / "assets")))
        self.heldout = Heldout.read(self.concepts)
        self.sight = Sight(read_photos(photos), checkpoint.table, np.load(run / "tags.npy", mmap_mode="r"))
        self._pixels: dict[tuple[str, int], np.ndarray] = {}

    def exam(self, split: str, questions: int, seed: int) -> list[Question]:
        world = photo_world(self.sight, split, self.concepts, self.heldout, first_view=True)
        return build_exam(world, self.concepts, self.heldout, questions, seed)

    def feeds(self, split: str, exam: list[Question]) -> tuple[list[str], list[np.ndarray]]:
        """The policy text and the pixel values of each question."""
        rows = self.sight.rows(split)
        return [question.text for question in exam], [self._pixel_values(rows[q.scene.photo]) for q in exam]

    def _pixel_values(self, row: int) -> np.ndarray:
        if row not in self._pixels:
            rgb = decode_image(self.sight.photos[row].path, target_side=GEOMETRY.side)
            self._pixels[row] = to_pixel_values(rgb, GEOMETRY)
        return self._pixels[row]


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
    store_in_16_bits(model)
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
        "quantization": {"linear": f"{bits} bits in blocks of 32, activations int8 per row" if bits < 32 else "fp32",
                         "embeddings": "int8 per row", "vision": "fp16 weights, fp32 arithmetic"},
        "calibration": {"scale": 1.0, "shift": 0.0},
        "training": {"recipe": checkpoint.recipe, "commit": _commit()},
        "files": [{"file": path.name, "sha256": file_sha256(path), "bytes": path.stat().st_size} for path in files],
    }


def _commit() -> str:
    return subprocess.run(["git", "rev-parse", "HEAD"], capture_output=True, text=True, check=True).stdout.strip()


def _write(folder: Path, manifest: dict) -> None:
    (folder / MANIFEST).write_text(json.dumps(manifest, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
