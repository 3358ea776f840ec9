"""Limits hold before a pixel is decoded."""

import io
import struct
import warnings

import numpy as np
import pytest
from image_files import file_of, kind_of, png, tiff
from PIL import Image

from safeguard_sdk.image import decode_image
from safeguard_sdk.image.jpeg import MAX_PASSES


def jpeg_of_size(small, width, height) -> bytes:
    data = bytearray(file_of(small, "JPEG"))
    frame = data.index(b"\xff\xc0")  # SOF0: marker, length, bits, height, width
    data[frame + 5:frame + 9] = struct.pack(">HH", height, width)
    return bytes(data)


def test_a_bomb_is_refused_from_its_header_in_every_format(small):
    webp = file_of(small, "WEBP", exif=b"Exif\0\0II*\0")  # with EXIF it has the VP8X header
    bombs = {
        "PNG": png(30_000, 30_000, 8, 2, None),
        "GIF": b"GIF89a" + struct.pack("<HHBBB", 65535, 65535, 0, 0, 0) + b"," + bytes(4) + b"\1\0\1\0\0\x02\0;",
        "BMP": b"BM" + struct.pack("<IIIIiiHHIIiiII", 54, 0, 54, 40, 30_000, 30_000, 1, 24, 0, 0, 0, 0, 0, 0),
        "JPEG": jpeg_of_size(small, 65_500, 65_500),
        "WEBP": webp[:24] + b"\xff\x3f\0" * 2 + webp[30:],  # 16,384 × 16,384
        "TIFF": tiff(8, 1, b"\0", 60_000, 60_000),
    }
    assert webp[12:16] == b"VP8X"
    assert {name: kind_of(data) for name, data in bombs.items()} == dict.fromkeys(bombs, "too_large")


def test_the_limit_is_the_callers(small):
    data = file_of(small, "PNG")
    assert decode_image(data, max_pixels=96 * 64).shape == (64, 96, 3)
    for image in (data, small, np.asarray(small)):
        assert kind_of(image, max_pixels=96 * 64 - 1) == "too_large"


def test_an_array_over_the_limit_is_refused_before_it_is_copied():
    tall = np.broadcast_to(np.zeros((1, 1, 3), np.uint8), (1 << 20, 1 << 20, 3))  # 3 TiB if it were laid out
    assert kind_of(tall) == "too_large"
    assert kind_of(tall, max_pixels=1 << 40) == "too_large"  # no memory for it


def test_the_limit_does_not_depend_on_pillows_global_one(monkeypatch, small):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", None)
    assert kind_of(png(30_000, 30_000, 8, 2, None)) == "too_large"
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 10)  # 96 × 64 would be an error, 5 × 3 a warning
    assert decode_image(file_of(small, "PNG")).shape == (64, 96, 3)
    assert decode_image(file_of(small.resize((5, 3)), "JPEG")).shape == (3, 5, 3)


def test_between_pillows_warning_and_its_error_there_is_no_warning():
    header = png(10_000, 10_000, 8, 2, None)  # 100 million pixels: Pillow warns from 89 million on
    with pytest.warns(Image.DecompressionBombWarning):
        Image.open(io.BytesIO(header))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert kind_of(header) == "truncated"  # not too_large: below the limit, so its missing pixels are what is wrong


@pytest.mark.parametrize("width, height", [(200, 1), (1, 200), (400, 2)])
def test_a_side_ratio_of_200_is_still_judged(width, height):
    assert decode_image(Image.new("RGB", (width, height))).shape == (height, width, 3)


@pytest.mark.parametrize("width, height", [(201, 1), (1, 201), (401, 2)])
def test_a_side_ratio_over_200_is_refused(width, height):
    picture = Image.new("RGB", (width, height))
    for image in (picture, np.asarray(picture), file_of(picture, "PNG")):
        assert kind_of(image) == "bad_shape"


def jpeg_of_passes(small, passes: int) -> bytes:
    """A progressive JPEG whose last pass, which holds next to nothing, is repeated."""
    data = file_of(small, "JPEG", progressive=True)
    last = data.rindex(b"\xff\xda")
    return data[:-2] + data[last:-2] * (passes - data.count(b"\xff\xda")) + data[-2:]


def test_a_jpeg_that_costs_time_without_end_is_refused(small):
    """Every pass goes over all pixels, and an empty one takes a few bytes: a small file could last for hours."""
    assert decode_image(jpeg_of_passes(small, MAX_PASSES)).shape == (64, 96, 3)
    assert kind_of(jpeg_of_passes(small, MAX_PASSES + 1)) == "too_large"


def test_a_film_or_a_thumbnail_in_a_jpeg_is_no_pass_over_its_pixels(small):
    data = file_of(small, "JPEG")
    note = b"\xff\xe5" + struct.pack(">H", 2 + 4 * MAX_PASSES) + b"\xff\xda\0\0" * MAX_PASSES  # APP5
    for photo in (data + b"\xff\xda" * (MAX_PASSES + 1), data[:2] + note + note + data[2:]):
        np.testing.assert_array_equal(decode_image(photo), decode_image(data))
