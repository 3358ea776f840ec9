"""Weights that a bundle stores in few bits and its graph multiplies in eight.

Beside `decoder.onnx` lie `decoder-0.npz` and so on, with three arrays for each weight: NAME.nibbles, NAME.planes and
NAME.factors, see cpp_ext/widening.hpp. When the graph is opened they are widened and given to it as its initializer
NAME.levels, (inputs, outputs) int8.
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

    All levels lie in one piece of memory, which goes back to the system as a whole once the runtime has packed them.
    raises  EngineError for a file that holds no such weights
    """
    stored = {name: parts for path in narrow_files(graph) for name, parts in _read(path).items()}
    shapes = {name: (len(nibbles), 2 * nibbles.shape[1]) for name, (nibbles, *_) in stored.items()}
    everything = np.empty(sum(inputs * outputs for inputs, outputs in shapes.values()), np.int8)
    levels, start = {}, 0
    for name, (inputs, outputs) in shapes.items():
        stop = start + inputs * outputs
        levels[f"{name}.levels"] = everything[start:stop].reshape(inputs, outputs)
        try:
            _fast.widen(*stored.pop(name), levels[f"{name}.levels"], threads)
        except (TypeError, ValueError) as error:
            raise _refusal(graph, f"{name}: {error}") from error
        start = stop
    return levels


def _read(path: Path) -> dict[str, tuple[np.ndarray, ...]]:
    """Name of a weight → its parts."""
    try:
        with np.load(path, allow_pickle=False) as stored:
            names = [key.removesuffix(f".{PARTS[0]}") for key in stored.files if key.endswith(f".{PARTS[0]}")]
            parts = {name: tuple(stored[f"{name}.{part}"] for part in PARTS) for name in names}
    except (BadZipFile, KeyError, OSError, ValueError) as error:
        raise _refusal(path, error) from error
    for name, (nibbles, *_) in parts.items():
        if nibbles.ndim != 2:
            raise _refusal(path, f"{name}: nibbles have {nibbles.ndim} dimensions, must have 2")
    return parts


def _refusal(path: Path, why: object) -> EngineError:
    return EngineError(f"{path}: has no weights in few bits ({' '.join(str(why).split())}); export the bundle again")
