"""Arrays that callers pass as images: taken as they are, or refused with the line of code that converts them."""

import numpy as np

from safeguard_sdk.errors import ImageError


def checked_rgb(array: np.ndarray, name: str) -> np.ndarray:
    """The array itself. Raises ImageError (bad_shape, empty) that says how to convert what was passed."""
    shape = array.shape
    if array.dtype == np.uint8 and array.ndim == 3 and shape[2] == 3:
        if array.size == 0:
            raise ImageError(f"{name}: is an array of shape {shape}, without a pixel", "empty")
        return array
    steps = []
    if array.ndim == 4:
        steps.append("pass one image at a time")
    elif array.ndim == 3 and shape[0] in (1, 3, 4) and shape[2] not in (1, 3, 4):
        steps.append("move the channels last: image.transpose(1, 2, 0)")
    elif array.ndim == 2 or shape[-1:] == (1,):
        steps.append("repeat the grey channel: np.repeat(image.reshape(*image.shape[:2], 1), 3, axis=2)")
    elif shape[-1:] == (4,):
        steps.append("composite its alpha on white: pass PIL.Image.fromarray(image)")
    if np.issubdtype(array.dtype, np.floating):
        steps.append("scale floats in 0..1 to bytes: (image * 255).round().astype(np.uint8)")
    elif array.dtype == np.uint16:
        steps.append("keep the high byte: (image >> 8).astype(np.uint8)")
    elif array.dtype != np.uint8:
        steps.append("bring its values to 0..255 and its type to np.uint8")
    raise ImageError(f"{name}: is an array of shape {shape} and type {array.dtype}, must be (h, w, 3) uint8, RGB; "
                     f"{'; '.join(steps) or 'pass three channels'}", "bad_shape")
