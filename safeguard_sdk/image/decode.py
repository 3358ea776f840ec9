"""From a path, bytes, a PIL image or an array to upright RGB.

The header comes first: format, dimensions and limits are judged before a pixel is decoded. Whatever goes wrong is an
ImageError with a stable kind, however Pillow fails. No global state of Pillow is changed.
Of several frames (GIF, APNG, WebP, AVIF) or pages (TIFF, MPO) the first is read. Colour profiles are not applied.

A decoder that runs in this process cannot be interrupted. The limits bound its work; who needs a bound in seconds
decodes in a process that can be ended.
"""

import hashlib
import os
from collections.abc import Callable
from typing import get_args

import numpy as np
from PIL import Image, ImageFile

from safeguard_sdk.errors import ImageError
from safeguard_sdk.image.array import checked_rgb
from safeguard_sdk.image.colour import to_rgb
from safeguard_sdk.image.failures import as_image_error, pillow_not_warning
from safeguard_sdk.image.files import printable, read_bytes
from safeguard_sdk.image.header import MAX_PIXELS, check_size, open_header
from safeguard_sdk.image.jpeg import JPEG_FORMATS, Scaling, dct_scale, decode_jpeg, reduce
from safeguard_sdk.image.orientation import orientation_of, upright_array, upright_shape

Target = Callable[[int, int], tuple[int, int]]


def decode_image(
    image: str | os.PathLike | bytes | Image.Image | np.ndarray, *,
    max_pixels: int = MAX_PIXELS, target: Target | None = None, scaling: Scaling = "safe", name: str | None = None,
) -> np.ndarray:
    """One image as (h, w, 3) uint8: upright, RGB, C-contiguous; an array that fits already is returned as it is.

    image       a path; the bytes of a file (known by content, whatever its name says); a PIL image of any mode (its
                current frame; its EXIF orientation counts); or an array (h, w, 3) uint8 in RGB order
    max_pixels  an image with w · h above this is refused from its header
    target      what a model will see: from (height, width) of the upright image to the (height, width) that it is
                resized to. Lets a JPEG file be decoded at 1/2, 1/4 or 1/8 of its sides; None keeps every pixel
    scaling     how far: "safe" to 1.9 × the target, "fast" to 1 ×, "exact" not at all (see jpeg.dct_scale)
    name        what messages call the image, such as a member of an archive; by default its path or "<bytes>"
    raises      ImageError, whatever the file holds; its kind is never "timeout"
    Alpha, palette and single-colour transparency is composited on white. Of 16-bit samples the high byte is kept.
    """
    if scaling not in get_args(Scaling):
        raise ValueError(f"scaling is {scaling!r}, must be one of {', '.join(get_args(Scaling))}")
    name = name and printable(name)  # names in an archive come from strangers
    if isinstance(image, np.ndarray):
        name = name or "<array>"
        rgb = checked_rgb(image, name)
        check_size((rgb.shape[1], rgb.shape[0]), max_pixels, name)
        with as_image_error(name, "its pixels cannot be laid out", "unsupported"):
            return np.ascontiguousarray(rgb)
    if isinstance(image, str | os.PathLike):
        name, image = name or printable(image), read_bytes(image)
    with pillow_not_warning():
        if isinstance(image, Image.Image):
            name, picture, data = name or "<PIL image>", image, None
        elif isinstance(image, bytes | bytearray | memoryview):
            name, data = name or "<bytes>", bytes(image)
            picture = open_header(data, name)
        else:
            raise ImageError(f"{name or '<image>'}: is of type {type(image).__name__}; pass a path, bytes, a PIL image "
                             "or an (h, w, 3) uint8 array", "unsupported")
        check_size(picture.size, max_pixels, name)
        if ImageFile.LOAD_TRUNCATED_IMAGES and getattr(picture, "tile", None):  # not loaded yet
            raise ImageError(f"{name}: PIL.ImageFile.LOAD_TRUNCATED_IMAGES is on in this process, so a cut-off file "
                             "would pass as a whole one; set it to False", "unsupported")
        return _pixels(picture, data if picture.format in JPEG_FORMATS else None, target, scaling, name)


def image_sha256(image: str | os.PathLike | bytes | Image.Image | np.ndarray) -> str:
    """The hex digest that names an image in a record: of a file's bytes, else of its upright RGB pixels and shape.

    raises  ImageError as read_bytes and decode_image do
    """
    if isinstance(image, str | os.PathLike):
        image = read_bytes(image)
    if isinstance(image, bytes | bytearray | memoryview):
        return hashlib.sha256(image).hexdigest()
    rgb = decode_image(image)
    return hashlib.sha256(f"rgb {rgb.shape[0]} {rgb.shape[1]}\n".encode() + rgb.tobytes()).hexdigest()


def _pixels(picture: Image.Image, jpeg: bytes | None, target: Target | None, scaling: Scaling, name: str) -> np.ndarray:
    """Of a picture within the limits; `jpeg` is its file if it is one."""
    scale = 1
    if jpeg is not None:
        shape = upright_shape(picture.size, orientation_of(picture))
        scale = dct_scale(shape, target(*shape), scaling) if target else 1
    with as_image_error(name, "its pixels cannot be decoded", "corrupt"):
        stored = decode_jpeg(jpeg, picture, scale, name) if jpeg is not None else None
        if stored is None:
            reduce(picture, scale)
            stored = to_rgb(picture, name)
        return upright_array(stored, orientation_of(picture))
