"""The manifest in a bundle's folder, whatever its architecture."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from safeguard_sdk.bundle import MANIFEST, file_sha256


def listed(files: Sequence[Path]) -> list[dict]:
    """The files of a bundle as its manifest names them."""
    return [{"file": path.name, "sha256": file_sha256(path), "bytes": path.stat().st_size} for path in files]


def write_manifest(folder: Path, manifest: dict) -> None:
    (folder / MANIFEST).write_text(json.dumps(manifest, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
