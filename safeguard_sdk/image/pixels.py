"""From upright RGB to the model's input, in one pass of C++ (cpp_ext): resize, rescale, normalise, lay out.

    pixel_values = to_pixel_values(rgb, square)                  # nano: (3, side, side) float32
    pixel_values, grid = to_patches(rgb, patch)                  # Qwen-VL: (gh · gw, 3 · 2 · 14²) float32, (1, gh, gw)
    pixel_values, grids = batch_to_patches(images, patch, threads=4)  # those of all images, (n, 3)

Images are (h, w, 3) uint8 arrays of any memory layout, read-only or not; they are read where they lie. The resize is
Pillow 13's, antialiased, in fixed point and rounded to uint8 after each of its two passes: results have the same bits
on every machine, alone or in a batch, with any number of threads. No other Python code waits while they are computed.

Common to all four functions:

dtype   np.float32, or np.float16 for the float32 values rounded to the nearest (halves to even)
out     an array to write into, of the shape and dtype of the result, C-contiguous and writeable; it is also returned
raises  ImageError (bad_shape, empty) for an image that is no (h, w, 3) uint8 array with pixels;
        ValueError for an `out` that does not fit
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import DTypeLike

from safeguard_sdk import _fast
from safeguard_sdk.image.array import checked_rgb
from safeguard_sdk.image.geometry import PatchGeometry, SquareGeometry

KERNEL = _fast.preprocessing_kernels()[0]
# What an engine takes of an image: (3, side, side) of a square geometry, patches and their grid of the other.
ModelInput = np.ndarray | tuple[np.ndarray, tuple[int, int, int]]


def to_pixel_values(
    rgb: np.ndarray, geometry: SquareGeometry, *, dtype: DTypeLike = np.float32, out: np.ndarray | None = None,
) -> np.ndarray:
    """One image → (3, side, side): the picture squashed to the square, then (v / 255 - mean) / std.

    Nothing is cropped away, so nothing can hide at an edge.
    """
    out = _checked_out(out, (3, geometry.side, geometry.side), dtype)
    batch_to_pixel_values([rgb], geometry, threads=1, dtype=dtype, out=out[None])
    return out


def batch_to_pixel_values(
    images: Sequence[np.ndarray], geometry: SquareGeometry, *, threads: int, dtype: DTypeLike = np.float32,
    out: np.ndarray | None = None,
) -> np.ndarray:
    """n images → (n, 3, side, side), each as to_pixel_values has it, `threads` of them at a time."""
    _check_batch(images, threads)
    out = _checked_out(out, (len(images), 3, geometry.side, geometry.side), dtype)
    values = _square_values(geometry).astype(out.dtype)
    _fast.to_planes(list(images), geometry.side, geometry.resample, values, out, threads, KERNEL)
    return out


def to_patches(
    rgb: np.ndarray, geometry: PatchGeometry, *, dtype: DTypeLike = np.float32, out: np.ndarray | None = None,
) -> tuple[np.ndarray, tuple[int, int, int]]:
    """One image → pixel_values (gh · gw, 3 · temporal · patch²) and its grid (1, gh, gw), as geometry.grid_of has it.

    The patches of a token, merge × merge, stand together, tokens row by row; within a patch: channel, frame, y, x.
    raises  ImageError (bad_shape) also where one side is over 200 times the other
    source  Qwen2VLImageProcessorPil of Hugging Face transformers: the same bits for a picture in RGB
    """
    pixel_values, grids = batch_to_patches([rgb], geometry, threads=1, dtype=dtype, out=out)
    return pixel_values, tuple(grids[0].tolist())


def batch_to_patches(
    images: Sequence[np.ndarray], geometry: PatchGeometry, *, threads: int, dtype: DTypeLike = np.float32,
    out: np.ndarray | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """n images → their patches, one image behind the other, and their grids (n, 3) int64, each as to_patches has it.

    `threads` images are computed at a time. Raises as to_patches does.
    """
    _check_batch(images, threads)
    sizes = [geometry.size_of(*image.shape[:2]) for image in images]
    grids = np.array([geometry.grid_of(*image.shape[:2]) for image in images], np.int64).reshape(-1, 3)
    out = _checked_out(out, (int(grids.prod(axis=1).sum()), 3 * geometry.temporal * geometry.patch**2), dtype)
    values = _patch_values(geometry).astype(out.dtype)
    _fast.to_patches(list(images), sizes, geometry.patch, geometry.merge, geometry.temporal, geometry.resample, values,
                     out, threads, KERNEL)
    return out, grids


def to_model_input(rgb: np.ndarray, geometry: SquareGeometry | PatchGeometry) -> ModelInput:
    """One image as the engine of a bundle with this geometry takes it: by to_pixel_values or to_patches."""
    return to_patches(rgb, geometry) if isinstance(geometry, PatchGeometry) else to_pixel_values(rgb, geometry)


def _square_values(geometry: SquareGeometry) -> np.ndarray:
    """(3, 256) float32: the value of each sample of each channel, computed in float64 and rounded once."""
    samples = np.arange(256)[:, None]
    return np.ascontiguousarray(((samples / 255 - geometry.mean) / geometry.std).T.astype(np.float32))


def _patch_values(geometry: PatchGeometry) -> np.ndarray:
    """(3, 256) float32, rounded where Hugging Face's processor rounds: after v · (1 / 255), of mean and std, after each
    of the two operations with these."""
    scaled = (np.arange(256) * (1 / 255)).astype(np.float32)
    mean, std = np.array(geometry.mean, np.float32)[:, None], np.array(geometry.std, np.float32)[:, None]
    return (scaled - mean) / std


def _check_batch(images: Sequence[np.ndarray], threads: int) -> None:
    if not isinstance(threads, int) or threads < 1:
        raise ValueError(f"threads is {threads!r}, must be a whole number >= 1")
    for number, image in enumerate(images):
        checked_rgb(image, f"<array {number}>" if len(images) > 1 else "<array>")


def _checked_out(out: np.ndarray | None, shape: tuple[int, ...], dtype: DTypeLike) -> np.ndarray:
    """`out`, or a new array where it is None."""
    dtype = np.dtype(dtype)
    if dtype not in (np.float32, np.float16):
        raise ValueError(f"dtype is {dtype}, must be float32 or float16")
    if out is None:
        return np.empty(shape, dtype)
    if not isinstance(out, np.ndarray):
        raise ValueError(f"out is of type {type(out).__name__}, must be an array of shape {shape} and type {dtype}")
    if out.shape != shape or out.dtype != dtype or not out.flags.carray:  # carray: aligned, writeable, C-contiguous
        raise ValueError(f"out is {_described(out)}, must be of shape {shape} and type {dtype}, C-contiguous, aligned "
                         "and writeable")
    return out


def _described(array: np.ndarray) -> str:
    traits = {"not C-contiguous": array.flags.c_contiguous, "not aligned": array.flags.aligned,
              "read-only": array.flags.writeable}
    wrong = [trait for trait, holds in traits.items() if not holds]
    return ", ".join([f"of shape {array.shape} and type {array.dtype}", *wrong])
