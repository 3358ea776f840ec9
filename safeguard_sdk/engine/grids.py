"""Where the patches and tokens of an image stand: what a Qwen-VL graph is told besides pixels, in numpy.

A grid is (rows, columns) of patches, or of tokens, which are merge × merge patches. Patches stand in the order of
image.to_patches: those of a token together, tokens row by row.
"""

from __future__ import annotations

import numpy as np

MASKED = -1e9  # finite: a row that is masked whole must not become NaN


def patch_positions(grid: tuple[int, int], merge: int) -> np.ndarray:
    """(patches, 2) int64: row and column of each patch."""
    rows, columns = grid
    places = np.stack(np.meshgrid(np.arange(rows), np.arange(columns), indexing="ij"), -1)
    blocks = places.reshape(rows // merge, merge, columns // merge, merge, 2)
    return np.ascontiguousarray(blocks.transpose(0, 2, 1, 3, 4).reshape(-1, 2).astype(np.int64))


def windows(positions: np.ndarray, side: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Which patches see each other in windows of side × side patches, the first at the upper left corner.

    positions  (patches, 2) as patch_positions has them
    returns    slots (W, side²) int64: the patches of each window, 0 where it has fewer; bias (W, side²) float32: 0, and
               MASKED where it has fewer; places (patches,) int64: of each patch among all slots
    source     Qwen2.5-VL (arXiv:2502.13923), section 2.1.1; get_vision_window_index of Hugging Face transformers
    """
    across = positions[:, 1].max() // side + 1
    window = positions[:, 0] // side * across + positions[:, 1] // side
    order = np.argsort(window, kind="stable")
    counts = np.bincount(window)
    starts = np.concatenate([[0], counts.cumsum()[:-1]])
    slot = np.empty(len(window), np.int64)
    slot[order] = np.arange(len(window)) - starts[window[order]]
    places = window * side**2 + slot
    slots = np.zeros((len(counts), side**2), np.int64)
    slots.reshape(-1)[places] = np.arange(len(window))
    bias = np.where(np.arange(side**2) < counts[:, None], 0, MASKED).astype(np.float32)
    return slots, bias, places


def position_corners(positions: np.ndarray, grid: tuple[int, int], side: int) -> tuple[np.ndarray, np.ndarray]:
    """The square table of learnt positions, stretched bilinearly over a grid, its corners onto the grid's.

    returns  entries (patches, 4) int64 of the table of side², and their weights (patches, 4) float32
    source   get_vision_interpolation_indices_and_weights of Hugging Face transformers, in float32 as there
    """
    taps, weights = [], []
    for axis, size in enumerate(grid):
        place = positions[:, axis].astype(np.float32) * np.float32(side - 1) / np.float32(max(size - 1, 1))
        low = np.floor(place)
        taps.append(np.stack([low, low + 1], 1).clip(0, side - 1).astype(np.int64))
        weights.append(np.stack([1 - (place - low), place - low], 1))
    entries = (taps[0][:, :, None] * side + taps[1][:, None, :]).reshape(-1, 4)
    return entries, (weights[0][:, :, None] * weights[1][:, None, :]).reshape(-1, 4).astype(np.float32)


def token_positions(grid: tuple[int, int], start: int, after: int) -> np.ndarray:
    """(3, tokens + after) int64: time, row and column of an image's tokens and of the text tokens after it (M-RoPE).

    grid   of tokens
    start  position of the first one
    source Qwen2-VL (arXiv:2409.12191), section 2.1; get_rope_index of Hugging Face transformers
    """
    rows, columns = grid
    place = np.stack(np.meshgrid(np.arange(rows), np.arange(columns), indexing="ij"), 0).reshape(2, -1)
    image = np.concatenate([np.zeros((1, rows * columns), np.int64), place])
    text = np.broadcast_to(max(grid) + np.arange(after), (3, after))
    return start + np.concatenate([image, text], 1)
