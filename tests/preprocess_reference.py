"""What the model's input is, in numpy and Pillow: the definition that the C++ (cpp_ext) must equal to the bit.

The order of rounding is that of Hugging Face's processors; test_patches.py holds both to Qwen2VLImageProcessorPil.
"""

from collections.abc import Callable

import numpy as np
import pytest
from PIL import Image

from safeguard_sdk.image import PatchGeometry, SquareGeometry, pixels

RESAMPLING = {"bicubic": Image.Resampling.BICUBIC, "bilinear": Image.Resampling.BILINEAR}


def to_pixel_values(rgb: np.ndarray, geometry: SquareGeometry, dtype=np.float32) -> np.ndarray:
    """(h, w, 3) uint8 → (3, side, side): float64 throughout, rounded to float32 once."""
    squashed = resized(rgb, geometry.side, geometry.side, geometry.resample)
    values = (squashed / 255 - geometry.mean) / geometry.std
    return values.astype(np.float32).transpose(2, 0, 1).astype(dtype)


def to_patches(rgb: np.ndarray, geometry: PatchGeometry, dtype=np.float32) -> tuple[np.ndarray, tuple[int, int, int]]:
    """(h, w, 3) uint8 → (gh · gw, 3 · temporal · patch²), (1, gh, gw)."""
    height, width = geometry.size_of(*rgb.shape[:2])
    x = resized(rgb, height, width, geometry.resample)
    x = (x.astype(np.float64) * (1 / 255)).astype(np.float32)
    x = (x - np.array(geometry.mean, np.float32)) / np.array(geometry.std, np.float32)
    patch, merge, block = geometry.patch, geometry.merge, geometry.patch * geometry.merge
    x = x.reshape(height // block, merge, patch, width // block, merge, patch, 3)
    x = x.transpose(0, 3, 1, 4, 6, 2, 5)              # block row, block column, merge row, merge column, channel, y, x
    x = np.stack([x] * geometry.temporal, axis=5)     # a still picture fills every frame
    return x.reshape(-1, 3 * geometry.temporal * patch**2).astype(dtype), (1, height // patch, width // patch)


def resized(rgb: np.ndarray, height: int, width: int, resample: str) -> np.ndarray:
    picture = Image.fromarray(np.ascontiguousarray(rgb))
    return np.asarray(picture.resize((width, height), RESAMPLING[resample]))


def noise(height: int, width: int, seed: int = 0) -> np.ndarray:
    """Black and white samples: a resize overshoots most, and a flat picture would hide where each sample goes."""
    return np.random.default_rng([seed, height, width]).integers(0, 2, (height, width, 3), np.uint8) * np.uint8(255)


def with_kernel(kernel: str, function: Callable, *arguments, **options):
    """What the function returns where the C++ works with this kernel, one of _fast.preprocessing_kernels()."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pixels, "KERNEL", kernel)
        return function(*arguments, **options)
