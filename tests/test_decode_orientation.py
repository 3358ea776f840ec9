"""Every picture comes out upright, whatever way it is stored."""

import numpy as np
import pytest
from image_files import LOSSLESS, LOSSY, WRITTEN, file_of, png_chunk
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from safeguard_sdk.image import decode_image

STORED_AS = {  # EXIF orientation → what a camera held that way does to the upright picture
    1: None, 2: Image.Transpose.FLIP_LEFT_RIGHT, 3: Image.Transpose.ROTATE_180, 4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE, 6: Image.Transpose.ROTATE_90, 7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_270,
}


@pytest.mark.parametrize("orientation", STORED_AS)
@pytest.mark.parametrize("file_format", [name for name in WRITTEN if name not in ("GIF", "BMP")])  # these have no EXIF
def test_every_exif_orientation_is_undone_in_every_format_that_has_one(small, file_format, orientation):
    stored = small if orientation == 1 else small.transpose(STORED_AS[orientation])
    exif = Image.Exif()
    exif[274] = orientation
    rgb = decode_image(file_of(stored, file_format, exif=exif, **(LOSSLESS | LOSSY)[file_format]))
    assert rgb.shape == (64, 96, 3)
    assert np.abs(rgb.astype(int) - np.asarray(small)).mean() <= 6  # grey levels; 40 and more if it is turned wrongly


def test_the_orientation_of_a_pil_image_counts_too(small):
    exif = Image.Exif()
    exif[274] = 6
    stored = small.transpose(Image.Transpose.ROTATE_90)
    stored.info["exif"] = exif.tobytes()
    np.testing.assert_array_equal(decode_image(stored), np.asarray(small))


def test_orientation_behind_the_pixels_of_a_png_counts(small):
    exif = Image.Exif()
    exif[274] = 3
    data = file_of(small.transpose(Image.Transpose.ROTATE_180), "PNG")
    late = data[:-12] + png_chunk(b"eXIf", exif.tobytes()[6:]) + data[-12:]  # before IEND
    np.testing.assert_array_equal(decode_image(late), np.asarray(small))


@pytest.mark.parametrize("value", [0, 9, 65535])
def test_an_orientation_that_means_nothing_is_ignored(small, value):
    exif = Image.Exif()
    exif[274] = value
    np.testing.assert_array_equal(decode_image(file_of(small, "PNG", exif=exif)), np.asarray(small))


@pytest.mark.parametrize("exif", [b"", b"II", b"garbage in there", b"II*\0\xff\xff\xff\xff",
                                  b"MM\0*\0\0\0\x08\x00\x09\x01\x12"])
@pytest.mark.parametrize("file_format", ["JPEG", "PNG", "WEBP"])
def test_broken_exif_does_not_spoil_good_pixels(small, file_format, exif):
    data = file_of(small, file_format, exif=b"Exif\0\0" + exif)
    np.testing.assert_array_equal(decode_image(data), decode_image(file_of(small, file_format)))


def test_an_orientation_in_xmp_counts_where_exif_has_none(small):
    """As PIL.ImageOps.exif_transpose has it, so that a verdict is on the picture that Pillow's users see."""
    xmp = b'<x:xmpmeta xmlns:x="adobe:ns:meta/"><r tiff:Orientation="3"/></x:xmpmeta>'
    stored = small.transpose(Image.Transpose.ROTATE_180)
    np.testing.assert_array_equal(decode_image(file_of(stored, "PNG", pnginfo=xmp_chunk(xmp))), np.asarray(small))


def xmp_chunk(xmp: bytes) -> PngInfo:
    info = PngInfo()
    info.add_itxt("XML:com.adobe.xmp", xmp.decode())
    return info
