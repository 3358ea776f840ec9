"""What an engine takes of an image, as a scan handles it: the room it needs, and the picture in it."""

from __future__ import annotations

import numpy as np

from safeguard_sdk.image import ModelInput, PatchGeometry, SquareGeometry


def values_of(model_input: ModelInput) -> np.ndarray:
    """The numbers of it, float32, whatever else belongs to it."""
    return model_input if isinstance(model_input, np.ndarray) else model_input[0]


def shape_of(model_input: ModelInput) -> tuple[int, ...]:
    """What it has in common with those that an engine can run together with it: its shape, or its grid of patches."""
    return model_input.shape if isinstance(model_input, np.ndarray) else model_input[1]


def empty_input(size: tuple[int, int], geometry: SquareGeometry | PatchGeometry) -> ModelInput:
    """Room for what `to_model_input` makes of an image of (h, w). Raises ImageError as geometry.size_of does."""
    if isinstance(geometry, SquareGeometry):
        return np.empty((3, geometry.side, geometry.side), np.float32)
    grid = geometry.grid_of(*size)
    return np.empty((grid[1] * grid[2], 3 * geometry.temporal * geometry.patch**2), np.float32), grid


def picture_in(model_input: ModelInput, geometry: SquareGeometry | PatchGeometry) -> np.ndarray:
    """(h, w, 3) uint8: what the model saw; of a square geometry squashed to the square."""
    planes = model_input if isinstance(model_input, np.ndarray) else _planes(*model_input, geometry)
    mean, std = (np.array(values, np.float32)[:, None, None] for values in (geometry.mean, geometry.std))
    return ((planes * std + mean) * 255).round().clip(0, 255).astype(np.uint8).transpose(1, 2, 0)


def _planes(patches: np.ndarray, grid: tuple[int, int, int], geometry: PatchGeometry) -> np.ndarray:
    """(3, h, w): the first frame of patches that stand as `to_patches` has them."""
    _, rows, columns = grid
    patch, merge = geometry.patch, geometry.merge
    blocks = patches.reshape(rows // merge, columns // merge, merge, merge, 3, geometry.temporal, patch, patch)
    return blocks[:, :, :, :, :, 0].transpose(4, 0, 2, 5, 1, 3, 6).reshape(3, rows * patch, columns * patch)
