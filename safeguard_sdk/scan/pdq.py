"""PDQ: 256 bits that stay nearly the same when a picture is saved again, resized or brightened. Extra `duplicates`.

source  "The TMK+PDQF video-hashing algorithm and the PDQ image-hashing algorithm" (Facebook, 2019), and its code in
        facebook/ThreatExchange
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from PIL import Image

from safeguard_sdk.image import decode_image
from safeguard_sdk.image.header import open_header
from safeguard_sdk.image.jpeg import JPEG_FORMATS, dct_scale
from safeguard_sdk.image.orientation import orientation_of, upright_shape

BITS = 256
MOST_DISTANCE = 31  # bits in which the hashes of near duplicates differ at most, as PDQ's authors advise
LEAST_QUALITY = 50  # hashes of pictures with less in them say little and are not compared, likewise
SIDE = 512          # pixels; a picture with a longer side is squashed to SIDE × SIDE first, as in their pdqio.cpp


class Pdq(NamedTuple):
    """Of one image."""

    hash: str     # 64 hex digits, the most significant word first, as PDQ hashes are exchanged
    quality: int  # 0 to 100: how much there is to see

    @classmethod
    def of_row(cls, row: dict) -> Pdq | None:
        return None if row["pdq"] is None else cls(row["pdq"], row["pdq_quality"])

    @property
    def is_comparable(self) -> bool:
        return self.quality >= LEAST_QUALITY


def pdq_of(data: bytes, rgb: np.ndarray, name: str) -> Pdq:
    """The hash of an image file, which depends on nothing but the file: not on the sides a model wants to see.

    rgb  its pixels as they were decoded for a model: those that are hashed too, unless it is a JPEG that was decoded at
         another fraction of its size than the smallest with both sides >= SIDE
    """
    picture = open_header(data, name)
    if picture.format in JPEG_FORMATS:
        shape = upright_shape(picture.size, orientation_of(picture))
        scale = dct_scale(shape, (SIDE, SIDE), "fast")
        if rgb.shape[:2] != tuple(-(-side // scale) for side in shape):
            rgb = decode_image(data, target=lambda height, width: (SIDE, SIDE), scaling="fast", name=name)
    return pdq_of_pixels(rgb)


def pdq_of_pixels(rgb: np.ndarray) -> Pdq:
    """(h, w, 3) uint8 → its hash."""
    import pdqhash
    if max(rgb.shape[:2]) > SIDE:
        rgb = np.asarray(Image.fromarray(rgb).resize((SIDE, SIDE), Image.Resampling.BOX))
    bits, quality = pdqhash.compute(rgb)
    return Pdq(np.packbits(bits.astype(np.uint8)).tobytes().hex(), quality)
