"""Weights that a bundle stores in few bits and its graph multiplies in eight.

Beside `decoder.onnx` lie `decoder-0.npz` and so on, with three arrays for each weight: NAME.nibbles, NAME.planes and
NAME.factors, see cpp_ext/widening.hpp. When the graph is opened they are widened and given to it as its initializer
NAME.levels, (inputs, outputs) uint8 around 128.
"""

from __future__ import annotations

from pathlib import Path
from zipfile import BadZipFile

import numpy as np

from safeguard_sdk import _fast
from safeguard_sdk.errors import EngineError

PARTS = ("nibbles", "planes", "factors")


def narrow_files(graph: Path) -> list[Path]:
    """The files of narrow weights that belong to a graph."""
    return sorted(graph.parent.glob(f"{graph.stem}-*.npz"))


def widened(graph: Path, threads: int) -> dict[str, np.ndarray]:
    """Name of an initializer → its levels, of all narrow weights of a graph; none where it has none.

    raises  EngineError for a file that holds no such weights
    """
    levels = {}
    for path in narrow_files(graph):
        try:
            with np.load(path, allow_pickle=False) as stored:
                for key in stored.files:
                    name, _, part = key.rpartition(".")
                    if part == PARTS[0]:
                        levels[f"{name}.levels"] = _fast.widen(*(stored[f"{name}.{part}"] for part in PARTS), threads)
        except (BadZipFile, KeyError, OSError, TypeError, ValueError) as error:
            raise EngineError(f"{path}: holds no weights in few bits ({' '.join(str(error).split())}); "
                              "export the bundle again") from error
    return levels
