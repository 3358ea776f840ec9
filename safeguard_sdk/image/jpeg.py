"""JPEG files: decoded at a fraction of their size where that suffices, and by whichever decoder is the fastest.

Three decoders give the same pixels in every bit, so which of them works changes how long a verdict takes and never the
verdict: our own (cpp_ext/jpeg.hpp), for the kind that cameras and phones write, at a fraction of its size; simplejpeg
(the extra `turbo`), which calls the same library as Pillow, libjpeg-turbo, with less around it; and Pillow, for all
that these two leave.
"""

import re
from collections.abc import Iterator
from typing import Literal

import numpy as np
from PIL import ImageFile, __version__, features

from safeguard_sdk import _fast
from safeguard_sdk.errors import ImageError

try:
    import simplejpeg
except ImportError:
    simplejpeg = None

KERNEL = _fast.jpeg_kernels()[0]
JPEG_FORMATS = ("JPEG", "MPO")  # MPO: several JPEGs in one file, as many phones write; the first is the photo
MAX_PASSES = 500  # a progressive JPEG has about 10; each pass costs time for every pixel and may cost the file no bytes

Scaling = Literal["exact", "safe", "fast"]
_ROOM = {"safe": 1.9, "fast": 1}  # how many times the target's sides a reduced picture must have at least

_PLAIN_FRAMES = (0xC0, 0xC1, 0xC2)  # baseline, extended sequential, progressive: Huffman codes, DCT
_START_OF_SCAN, _END_OF_IMAGE = 0xDA, 0xD9
_FRAMES = {*range(0xC0, 0xD0)} - {0xC4, 0xC8, 0xCC}  # open a frame's header; the three are tables and a reserved one
_MARKER = re.compile(rb"\xff[\x02-\xcf\xd9-\xfe]")  # has a length, or is the end; no stuffing, restart or filling


def dct_scale(shape: tuple[int, int], target: tuple[int, int], scaling: Scaling) -> int:
    """By what an image of `shape` may be divided when a model sees it at `target` (both height, width): 1, 2, 4 or 8.

    exact  never reduced
    safe   while both sides stay >= 1.9 × the target's: verdicts flip no more often than when a JPEG is saved once more,
           as `python -m benchmarks.dct_scaling` measures (docs/images.md)
    fast   while both sides stay >= 1 × the target's
    """
    if scaling == "exact":
        return 1
    return next((scale for scale in (8, 4, 2) if all(side >= scale * _ROOM[scaling] * wanted
                                                     for side, wanted in zip(shape, target, strict=True))), 1)


def check_passes(data: bytes, name: str) -> None:
    """Raises ImageError (too_large) for a JPEG made to keep a decoder busy: many passes over large areas, few bytes."""
    if _fast.count_scan_markers(data) <= MAX_PASSES:  # quick, and counts thumbnails and appended films too
        return
    passes = sum(marker == _START_OF_SCAN for marker in _markers(data))
    if passes > MAX_PASSES:
        raise ImageError(f"{name}: is a JPEG of {passes} passes over its pixels, the limit is {MAX_PASSES}; open it in "
                         "an editor and save it again", "too_large")


def reduce(picture: ImageFile.ImageFile, scale: int) -> None:
    """Have Pillow decode a JPEG, not loaded yet, at 1/scale of its size, sides rounded up.

    Only a JPEG: what draft() does to a HEIF is to show the thumbnail in it, which may be another picture.
    """
    if scale > 1:
        picture.draft(None, (picture.width // scale, picture.height // scale))


def decode_jpeg(data: bytes, picture: ImageFile.ImageFile, scale: int, name: str) -> np.ndarray | None:
    """The pixels of a JPEG at 1/scale of its size, as stored, equal to Pillow's: (h, w, 3) uint8.

    picture  the same file, its header read by Pillow
    None     for what is left to Pillow
    raises   ImageError (too_large) as check_passes does
    """
    reduced = decode_baseline(data, picture, scale)
    if reduced is not None:  # in one pass
        return reduced
    check_passes(data, name)
    return decode_with_simplejpeg(data, picture, scale)


def decode_baseline(data: bytes, picture: ImageFile.ImageFile, scale: int) -> np.ndarray | None:
    """As decode_jpeg, by our own decoder. None for the full size, all but plain grey and YCbCr of one pass with chroma
    whole, halved or halved both ways, and whatever libjpeg-turbo would warn of."""
    if scale == 1 or not pillow_is_on_libjpeg_turbo():
        return None
    return _fast.decode_jpeg(data, picture.height, picture.width, scale, KERNEL)


def decode_with_simplejpeg(data: bytes, picture: ImageFile.ImageFile, scale: int) -> np.ndarray | None:
    """As decode_jpeg, by simplejpeg. None for everything if it is not here; CMYK, YCCK, arithmetic and lossless coding;
    and what libjpeg-turbo warns about, as Pillow passes some of it and knows a kind for the rest."""
    if not decoder_is_simplejpeg() or picture.mode not in ("L", "RGB") or _frame(data) not in _PLAIN_FRAMES:
        return None
    if scale > 1 and min(picture.size) < 8:  # two of its scales may give one size; it takes a size, not a scale
        return None
    try:
        if simplejpeg.decode_jpeg_header(data)[:2] != (picture.height, picture.width):
            return None  # nothing is decoded whose size has not been checked
        smallest = {"min_height": -(-picture.height // scale), "min_width": -(-picture.width // scale)}
        return simplejpeg.decode_jpeg(data, "RGB", fastdct=False, fastupsample=False, strict=True,
                                      **smallest if scale > 1 else {})
    except (ValueError, MemoryError):
        return None


def pillow_is_on_libjpeg_turbo() -> bool:
    """Another libjpeg beneath Pillow would round differently; then all JPEGs are left to Pillow."""
    return features.check_feature("libjpeg_turbo") is True


def decoder_is_simplejpeg() -> bool:
    return simplejpeg is not None and pillow_is_on_libjpeg_turbo()


def jpeg_decoder() -> str:
    """What decodes JPEG files that our own decoder leaves, for reports: "simplejpeg 1.9.0" or "Pillow 13.0.0"."""
    return f"simplejpeg {simplejpeg.__version__}" if decoder_is_simplejpeg() else f"Pillow {__version__}"


def _frame(data: bytes) -> int | None:
    """The marker of the first frame's header, which tells how the pixels are coded."""
    return next((marker for marker in _markers(data) if marker in _FRAMES), None)


def _markers(data: bytes) -> Iterator[int]:
    """The markers of the first picture in a file. Segments are stepped over, and so are thumbnails within them."""
    position = 2  # after the start of the image
    while match := _MARKER.search(data, position):
        marker = data[match.start() + 1]
        yield marker
        if marker == _END_OF_IMAGE:
            return
        position = match.end() + int.from_bytes(data[match.end():match.end() + 2])
