"""Small files of every kind, made on the spot, and what decoding makes of them."""

import io
import struct
import zlib

import numpy as np
import pytest
from PIL import Image, features

from safeguard_sdk.errors import IMAGE_ERROR_KINDS, ImageError
from safeguard_sdk.image import FORMATS, decode_image

WRITTEN = [name for name in FORMATS if name not in ("HEIF", "AVIF")] + ["AVIF"] * features.check("avif")
LOSSLESS = {"PNG": {}, "WEBP": {"lossless": True}, "TIFF": {}, "BMP": {}}  # format → options for save()
LOSSY = {"JPEG": {"quality": 95}, "AVIF": {"quality": 95}}
WHITE, RED, BLUE, PINK, GREY, MID = (255,) * 3, (255, 0, 0), (0, 0, 255), (255, 127, 127), (100,) * 3, (177,) * 3


def file_of(picture: Image.Image, file_format: str, **options) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, file_format, **options)
    return buffer.getvalue()


def png(width: int, height: int, bits: int, colour: int, pixels: bytes | None, *chunks: tuple[bytes, bytes]) -> bytes:
    """A PNG of any header; pixels are rows without filter bytes, None leaves them out."""
    rows = [] if pixels is None else np.frombuffer(pixels, np.uint8).reshape(height, -1)
    data = zlib.compress(b"".join(b"\0" + row.tobytes() for row in rows))
    header = struct.pack(">IIBBBBB", width, height, bits, colour, 0, 0, 0)
    listed = [(b"IHDR", header), *chunks, (b"IDAT", data), (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(png_chunk(*chunk) for chunk in listed)


def png_chunk(name: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))


def tiff(bits: int, photometric: int, pixels: bytes, width: int, height: int, samples: int = 1) -> bytes:
    """An uncompressed TIFF of one strip. photometric: 0 grey from white on, 1 from black on, 2 RGB, 5 CMYK."""
    depths = struct.pack("<4H", *[bits] * 4)  # of each sample; a single one stands in its tag
    tags = [(256, 4, 1, width), (257, 4, 1, height), (258, 3, samples, bits if samples == 1 else 8), (259, 4, 1, 1),
            (262, 4, 1, photometric), (273, 4, 1, 16), (277, 4, 1, samples), (278, 4, 1, height),
            (279, 4, 1, len(pixels))]
    directory = struct.pack("<H", len(tags)) + b"".join(struct.pack("<HHII", *tag) for tag in tags) + bytes(4)
    return struct.pack("<2sHI", b"II", 42, 16 + len(pixels)) + depths + pixels + directory


def kind_of(image, **options) -> str:
    with pytest.raises(ImageError) as caught:
        decode_image(image, **options)
    assert caught.value.kind in IMAGE_ERROR_KINDS
    return caught.value.kind
