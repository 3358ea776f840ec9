"""Weights that a bundle stores in few bits and its graph multiplies in eight.

Beside `decoder.onnx` lie `decoder-0.npz` and so on, with three arrays for each weight: NAME.nibbles, NAME.planes and
NAME.factors, see cpp_ext/widening.hpp. When the graph is opened they are widened and given to it as its initializer
NAME.levels, (inputs, outputs) int8; or, to its twin `decoder-uint8.onnx`, as the same levels and 128 in uint8.
"""

from __future__ import annotations

import math
import mmap
import os
import struct
from pathlib import Path
from typing import BinaryIO
from zipfile import ZIP_STORED, BadZipFile, ZipFile, ZipInfo

import numpy as np

from safeguard_sdk import _fast
from safeguard_sdk.errors import EngineError

PARTS = ("nibbles", "planes", "factors")
SIGN = 0x80  # the bit by which a level in int8 and the same and 128 in uint8 differ


def narrow_files(graph: Path) -> list[Path]:
    """The files of narrow weights that belong to a graph."""
    return sorted(graph.parent.glob(f"{graph.stem}-*.npz"))


def unsigned_twin(graph: Path) -> Path:
    """The same graph over levels in uint8."""
    return graph.with_name(f"{graph.stem}-uint8.onnx")


def widened(graph: Path, threads: int, signed: bool = True) -> dict[str, np.ndarray]:
    """Name of an initializer → its levels, of all narrow weights of a graph; none where it has none.

    All levels lie in one piece of memory, which goes back to the system as a whole once the runtime has packed them.
    signed  whether they are int8, or uint8 for the twin of the graph
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
    if signed:
        return levels
    bits = everything.view(np.uint8)
    bits ^= SIGN
    return {name: array.view(np.uint8) for name, array in levels.items()}


def _read(path: Path) -> dict[str, tuple[np.ndarray, ...]]:
    """Name of a weight → its parts, which lie in the file as they are: a bundle's hashes vouch for it, and numpy's own
    reader checks and copies for longer than widening takes."""
    try:
        with ZipFile(path) as archive, open(path, "rb") as file:
            memory = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
            arrays = {member.filename.removesuffix(".npy"): _array(file, memory, member)
                      for member in archive.infolist()}
        names = [key.removesuffix(f".{PARTS[0]}") for key in arrays if key.endswith(f".{PARTS[0]}")]
        parts = {name: tuple(arrays[f"{name}.{part}"] for part in PARTS) for name in names}
    except OSError as error:
        raise EngineError(f"{path}: cannot be read ({error.strerror or error}); see to its permissions and to free "
                          "memory") from error
    except (BadZipFile, KeyError, ValueError, struct.error) as error:
        raise _refusal(path, error) from error
    for name, (nibbles, *_) in parts.items():
        if nibbles.ndim != 2:
            raise _refusal(path, f"{name}: nibbles have {nibbles.ndim} dimensions, must have 2")
    return parts


def _array(file: BinaryIO, memory: mmap.mmap, member: ZipInfo) -> np.ndarray:
    """An array of np.savez; before it stand 26 bytes, the lengths of a name and of an extra field, and these two."""
    file.seek(member.header_offset + 26)
    file.seek(sum(struct.unpack("<HH", file.read(4))), os.SEEK_CUR)
    if member.compress_type != ZIP_STORED or np.lib.format.read_magic(file) != (1, 0):
        raise ValueError(f"{member.filename} is not stored as np.savez does")
    shape, columns_first, kind = np.lib.format.read_array_header_1_0(file)
    values = np.frombuffer(memory, kind, math.prod(shape), file.tell())
    return values.reshape(shape, order="F" if columns_first else "C")


def _refusal(path: Path, why: object) -> EngineError:
    return EngineError(f"{path}: has no weights in few bits ({' '.join(str(why).split())}); export the bundle again")
