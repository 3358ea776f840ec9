"""Our own JPEG decoder: at a fraction of a file's size it has libjpeg-turbo's bits, or leaves the file to it."""

import io
import itertools
import struct
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from image_files import file_of
from PIL import Image, features

from safeguard_sdk import _fast

pytestmark = pytest.mark.skipif(features.check_feature("libjpeg_turbo") is not True,
                                reason="this Pillow is not on libjpeg-turbo, whose bits these are")

KERNELS = _fast.jpeg_kernels()
SCALES = (2, 4, 8)
SUBSAMPLINGS = ("4:4:4", "4:2:2", "4:2:0")
START_OF_FRAME, TABLES, QUANTIZATION, SCAN, END = b"\xff\xc0", b"\xff\xc4", b"\xff\xdb", b"\xff\xda", b"\xff\xd9"


def decoded(data: bytes, scale: int, kernel: str = KERNELS[0]) -> np.ndarray | None:
    with Image.open(io.BytesIO(data)) as picture:
        return _fast.decode_jpeg(data, picture.height, picture.width, scale, kernel)


def by_pillow(data: bytes, scale: int) -> np.ndarray:
    with Image.open(io.BytesIO(data)) as picture:
        picture.draft(None, (picture.width // scale, picture.height // scale))
        return np.asarray(picture.convert("RGB"))


def assert_pillows_bits(data: bytes) -> None:
    for scale, kernel in itertools.product(SCALES, KERNELS):
        np.testing.assert_array_equal(decoded(data, scale, kernel), by_pillow(data, scale), f"1/{scale}, {kernel}")


@pytest.fixture(scope="module")
def photo(photos) -> Image.Image:
    with Image.open(photos["china.jpg"]) as picture:
        return picture.crop((0, 0, 331, 217))  # sides that are no multiples of a block


# The bits of libjpeg-turbo

@pytest.mark.parametrize("quality", [1, 50, 90, 100])
@pytest.mark.parametrize("subsampling", SUBSAMPLINGS)
def test_photos_of_every_subsampling_and_quality(photo, subsampling, quality):
    assert_pillows_bits(file_of(photo, "JPEG", subsampling=subsampling, quality=quality))


@pytest.mark.parametrize("options", [{}, {"optimize": True}, {"restart_marker_rows": 1}, {"restart_marker_blocks": 1},
                                     {"restart_marker_blocks": 11}], ids=str)
@pytest.mark.parametrize("mode", ["RGB", "L"])
def test_photos_of_every_coding(photo, mode, options):
    assert_pillows_bits(file_of(photo.convert(mode), "JPEG", **options))


@settings(deadline=None, max_examples=150)
@given(width=st.integers(8, 90), height=st.integers(8, 90), levels=st.integers(2, 256), seed=st.integers(0, 2**32 - 1),
       quality=st.sampled_from([5, 75, 100]), subsampling=st.sampled_from(SUBSAMPLINGS))
def test_noise_of_any_size(width, height, levels, seed, quality, subsampling):
    """Down to black and white dots, from which the largest coefficients come."""
    noise = np.random.default_rng(seed).integers(0, levels, (height, width, 3)) * 255 // (levels - 1)
    assert_pillows_bits(file_of(Image.fromarray(noise.astype(np.uint8)), "JPEG", quality=quality,
                                subsampling=subsampling))


@pytest.mark.parametrize("subsampling", SUBSAMPLINGS)
def test_narrow_and_flat_pictures(photo, subsampling):
    for size in [(8, 9), (200, 8), (8, 200), (16, 16), (17, 15), (129, 8), (127, 33)]:
        assert_pillows_bits(file_of(photo.resize(size), "JPEG", subsampling=subsampling))


def test_a_block_that_ends_with_its_last_coefficient_and_no_end_of_block():
    """At the finest quality most blocks of noise do, and the code that follows is the next block's."""
    noise = np.random.default_rng(0).integers(0, 256, (64, 64), dtype=np.uint8)
    assert_pillows_bits(file_of(Image.fromarray(noise), "JPEG", quality=100))


def test_what_follows_the_end_of_the_picture_is_not_looked_at(photo):
    data = file_of(photo, "JPEG")
    np.testing.assert_array_equal(decoded(data + b"\xff\xda" * 100, 2), decoded(data, 2))


def test_threads_do_not_disturb_each_other(photo):
    files = [file_of(photo.rotate(angle), "JPEG") for angle in range(8)]
    with ThreadPoolExecutor(4) as pool:
        for rgb, data in zip(pool.map(lambda data: decoded(data, 2), files * 4), files * 4, strict=True):
            np.testing.assert_array_equal(rgb, by_pillow(data, 2))


# What is left to libjpeg

@pytest.mark.parametrize("options", [{"progressive": True}, {"keep_rgb": True}], ids=str)
def test_other_codings_are_left(photo, options):
    assert decoded(file_of(photo, "JPEG", **options), 2) is None


@pytest.mark.parametrize("subsampling, sampling", [("4:2:0", 0x41), ("4:2:0", 0x14), ("4:2:2", 0x12), ("4:4:4", 0x00)])
def test_other_subsamplings_are_left(photo, subsampling, sampling):
    """As many blocks in other places: a picture all the same, if a torn one."""
    data = file_of(photo, "JPEG", subsampling=subsampling)
    luma = data.index(START_OF_FRAME) + 11
    assert decoded(data, 2) is not None
    assert decoded(data[:luma] + bytes([sampling]) + data[luma + 1:], 2) is None


def test_cmyk_is_left(photo):
    assert decoded(file_of(photo.convert("CMYK"), "JPEG"), 2) is None


def test_a_file_that_ends_early_is_left_wherever_it_ends(small):
    data = file_of(small, "JPEG", quality=30)
    assert decoded(data, 8) is not None
    for length in range(len(data)):
        assert _fast.decode_jpeg(data[:length], small.height, small.width, 8, KERNELS[0]) is None, length


def test_a_file_of_another_size_than_was_checked_is_left(photo):
    data = file_of(photo, "JPEG")
    for height, width in ((216, 331), (217, 332), (331, 217)):
        assert _fast.decode_jpeg(data, height, width, 2, KERNELS[0]) is None


def test_data_before_a_marker_that_no_block_needs_are_left(photo):
    """libjpeg-turbo warns of them, and what becomes of a warning is for Pillow to say."""
    data = file_of(photo, "JPEG")
    assert decoded(data[:-2] + b"\0" + END, 2) is None
    assert decoded(data[:-2] + b"\xff\xd0" + END, 2) is None


def test_restart_markers_out_of_turn_are_left(photo):
    data = file_of(photo, "JPEG", restart_marker_rows=1)
    assert decoded(data, 2) is not None
    assert decoded(data.replace(b"\xff\xd1", b"\xff\xd2", 1), 2) is None


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("scale", SCALES)
def test_coefficients_that_no_samples_give_are_left(scale, kernel):
    """libjpeg's kernels differ from each other there."""
    noise = np.random.default_rng(0).integers(0, 2, (64, 64, 3), dtype=np.uint8) * 255
    data = file_of(Image.fromarray(noise), "JPEG", quality=100)
    tables = data.index(QUANTIZATION)
    coarse = data[:tables + 5] + b"\xff" * 64 + data[tables + 69:]  # all that was measured in ones is now in 255s
    assert _fast.decode_jpeg(data, 64, 64, scale, kernel) is not None
    assert _fast.decode_jpeg(coarse, 64, 64, scale, kernel) is None


@pytest.mark.parametrize("change", [
    lambda counts: bytes([3]) + counts[1:],               # three codes of one bit
    lambda counts: counts[:15] + bytes([255]),            # more symbols than there are
    lambda counts: bytes(16),                             # no code at all
    lambda counts: counts[:7] + bytes([sum(counts[7:9]), 0]) + counts[9:],  # the last one is a bit shorter: 11111111
], ids=["too many short codes", "too many symbols", "none", "a code of nothing but ones"])
def test_tables_that_are_no_code_are_left(small, change):
    data = file_of(small, "JPEG")
    tables = data.index(TABLES)
    assert decoded(data[:tables + 5] + change(data[tables + 5:tables + 21]) + data[tables + 21:], 2) is None


def test_a_large_picture_of_few_bytes_is_left_soon(small):
    data = file_of(small, "JPEG")
    size = data.index(START_OF_FRAME) + 5
    large = data[:size] + struct.pack(">HH", 60_000, 2_900) + data[size + 4:]
    assert _fast.decode_jpeg(large, 60_000, 2_900, 2, KERNELS[0]) is None


def test_a_picture_that_is_longer_than_libjpeg_takes_is_left():
    data = file_of(Image.new("L", (65_500, 8)), "JPEG")
    size = data.index(START_OF_FRAME) + 5
    longer = data[:size] + struct.pack(">HH", 8, 65_504) + data[size + 4:]  # of as many blocks
    assert decoded(data, 2) is not None
    assert decoded(longer, 2) is None


# Arguments

def test_a_scale_or_kernel_of_no_such_name_is_refused(small):
    data = file_of(small, "JPEG")
    for scale in (0, 1, 3, 16, -2):
        with pytest.raises(ValueError, match=f"scale is {scale}, must be 2, 4 or 8"):
            decoded(data, scale)
    with pytest.raises(ValueError, match="kernel 'mmx' does not run here"):
        decoded(data, 2, "mmx")


@pytest.mark.parametrize("data, count", [(b"", 0), (b"\xff", 0), (SCAN, 1), (b"\xff" + SCAN + b"\xda" + SCAN, 2)])
def test_scan_markers_are_counted(data, count):
    assert _fast.count_scan_markers(data) == count
