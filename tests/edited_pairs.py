"""Pairs of a sample photo and its edit, made by the editor that needs no model."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from benchmarks.safeeditbench.build import build
from benchmarks.safeeditbench.editors import Task


def inpainted(photos: Mapping[str, Path], boxes: Mapping[str, tuple[float, float, float, float]], out: Path) -> Path:
    """`out`, with a pair for each photo whose box was painted over."""
    build([Task(name.removesuffix(".png"), photos[name], "Remove it.", (box,), "thing", "CC0", "scikit-image")
           for name, box in boxes.items()], out, "inpaint")
    return out
