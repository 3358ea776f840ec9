"""From upright RGB to the model's input.

This numpy and Pillow code is the definition that the C++ path (cpp_ext) must equal.
"""

import numpy as np
from PIL import Image

from safeguard_sdk.image.decode import checked_rgb
from safeguard_sdk.image.geometry import RESAMPLE, Geometry


def to_pixel_values(rgb: np.ndarray, geometry: Geometry) -> np.ndarray:
    """(h, w, 3) uint8 → (3, side, side) float32: the picture squashed to the square, then (v / 255 - mean) / std.

    Nothing is cropped away, so nothing can hide at an edge. The resize is Pillow's, antialiased, in fixed point and
    rounded to uint8 after each of its two passes. The 256 values of a channel are computed in float64 and rounded to
    float32 once, so the result is the same on every machine and for every memory layout of rgb.
    raises  ImageError (bad_shape, empty) if rgb is no (h, w, 3) uint8 array with pixels
    """
    picture = Image.fromarray(checked_rgb(rgb, "<array>"))
    squashed = np.asarray(picture.resize((geometry.side, geometry.side), RESAMPLE[geometry.resample]))
    values = ((np.arange(256)[:, None] / 255 - geometry.mean) / geometry.std).astype(np.float32)  # (256, 3)
    return np.stack([values[squashed[:, :, channel], channel] for channel in range(3)])
