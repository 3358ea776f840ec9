"""A bundle of a few bytes: enough for all that is done with a bundle before its graphs run."""

import hashlib
import json
from pathlib import Path

from safeguard_sdk.bundle import FORMAT
from safeguard_sdk.prompt import PROMPTS

FILES = {"vision.onnx": b"a graph", "vision-0.bin": b"its weights", "tokenizer.json": b"{}"}


def manifest_of(contents: dict[str, bytes], **changes) -> dict:
    """A manifest that names these files with their hashes; `changes` replace its entries."""
    style = PROMPTS["direct"]
    return {
        "format": FORMAT, "name": "tiny", "version": "0.1", "architecture": "tags",
        "prompt": {"style": style.name, "version": style.version, "sha256": style.sha256},
        "processor": {"side": 32, "mean": [0.5] * 3, "std": [0.25] * 3, "resample": "bilinear"},
        "max_policy_tokens": 64, "calibration": {"scale": 2.0, "shift": -1.0},
        "files": [{"file": name, "sha256": hashlib.sha256(data).hexdigest()} for name, data in contents.items()],
    } | changes


def write_manifest(folder: Path, manifest: object) -> None:
    (folder / "manifest.json").write_text(json.dumps(manifest), encoding="utf-8")


def write_bundle(folder: Path, contents: dict[str, bytes] = FILES) -> Path:
    for name, data in contents.items():
        (folder / name).write_bytes(data)
    write_manifest(folder, manifest_of(contents))
    return folder
