"""Input of nano: the squashed picture to the bit as numpy and Pillow have it, however the C++ computes it.

What both layouts share (memory layouts, buffers, threads, kernels, errors) is specified here; test_patches.py has the
patches of Qwen-VL.
"""

import ctypes
import mmap
import platform
import subprocess
import sys
import threading
import time

import numpy as np
import preprocess_reference as reference
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from PIL import Image
from preprocess_reference import noise, with_kernel

from safeguard_sdk import _fast
from safeguard_sdk.errors import ImageError
from safeguard_sdk.image import (
    PatchGeometry,
    SquareGeometry,
    batch_to_patches,
    batch_to_pixel_values,
    decode_image,
    to_patches,
    to_pixel_values,
)

KERNELS = _fast.preprocessing_kernels()
NANO = SquareGeometry(side=224, mean=(0.5,) * 3, std=(0.5,) * 3)
SMALL = SquareGeometry(side=48, mean=(0.48, 0.45, 0.4), std=(0.27, 0.26, 0.28))
QWEN = PatchGeometry(14, 56 * 56, 8 * 56 * 56, mean=(0.48, 0.45, 0.4), std=(0.27, 0.26, 0.28))
OUT = (3, 48, 48)
sides = st.integers(1, 300) | st.integers(1, 12)


# What it is

def test_pixel_values_are_the_squashed_picture_normalised(photos):
    rgb = decode_image(photos["china.jpg"])
    geometry = SquareGeometry(side=64, mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225))
    pixel_values = to_pixel_values(rgb, geometry)
    squashed = np.asarray(Image.fromarray(rgb).resize((64, 64), Image.Resampling.BICUBIC)).astype(np.float64)
    expected = ((squashed / 255 - geometry.mean) / geometry.std).transpose(2, 0, 1)
    assert pixel_values.shape == (3, 64, 64) and pixel_values.dtype == np.float32 and pixel_values.flags.c_contiguous
    np.testing.assert_allclose(pixel_values, expected, rtol=0, atol=3e-7)


def test_black_and_white_span_the_whole_range():
    for level, value in ((0, -1), (255, 1)):
        assert (to_pixel_values(np.full((9, 7, 3), level, np.uint8), NANO) == value).all()


def test_nothing_can_hide_at_an_edge(photos):
    """A crop to the middle would not see a mark in the outermost sixteenth of a wide picture."""
    with Image.open(photos["china.jpg"]) as photo:
        rgb = np.asarray(photo.resize((960, 64)))
    for columns in (slice(0, 60), slice(-60, None)):
        marked = rgb.copy()
        marked[:, columns] = 255 - marked[:, columns]
        assert np.abs(to_pixel_values(marked, NANO) - to_pixel_values(rgb, NANO)).max() > 0.5


def test_the_resampling_is_the_geometrys(photos):
    rgb = decode_image(photos["china.jpg"])
    bilinear = SquareGeometry(side=224, mean=NANO.mean, std=NANO.std, resample="bilinear")
    assert np.abs(to_pixel_values(rgb, bilinear) - to_pixel_values(rgb, NANO)).max() > 0.05


# The same bits as numpy and Pillow

@pytest.mark.parametrize("kernel", KERNELS)
@settings(deadline=None, max_examples=300)  # the machine that runs this may be busy
@given(height=sides, width=sides, side=st.integers(1, 80), resample=st.sampled_from(["bicubic", "bilinear"]))
@example(height=1, width=1, side=1, resample="bicubic")
@example(height=1, width=1, side=33, resample="bicubic")
@example(height=33, width=33, side=33, resample="bicubic")   # no pass
@example(height=33, width=200, side=33, resample="bicubic")  # one pass, horizontal
@example(height=200, width=33, side=33, resample="bicubic")  # one pass, vertical
@example(height=300, width=300, side=1, resample="bicubic")
@example(height=1, width=300, side=80, resample="bilinear")
def test_every_size_has_the_bits_of_the_reference(kernel, height, width, side, resample):
    rgb = noise(height, width)
    geometry = SquareGeometry(side, SMALL.mean, SMALL.std, resample)
    values = with_kernel(kernel, to_pixel_values, rgb, geometry)
    np.testing.assert_array_equal(values, reference.to_pixel_values(rgb, geometry))


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("more_columns, more_rows", [
    (20, 40), (20, 41), (21, 41),  # to both sides of twice as many rows as columns: there Pillow goes over rows first
    (-5, 1), (-5, -9), (-5, -11),  # the width grows; the height shrinks, grows
    (0, 50), (1, -1),
])
def test_the_order_of_the_passes_is_pillows(kernel, more_columns, more_rows):
    rgb = noise(48 + more_rows, 48 + more_columns)
    values = with_kernel(kernel, to_pixel_values, rgb, SMALL)
    np.testing.assert_array_equal(values, reference.to_pixel_values(rgb, SMALL))


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("height, width", [
    (1500, 2000), (20_000, 1), (1, 20_000),
    (1, 300_000),  # 4 · 300,000 / 48 weights for a pixel
])
def test_large_pictures_have_the_bits_of_the_reference(kernel, height, width):
    rgb = noise(height, width)
    values = with_kernel(kernel, to_pixel_values, rgb, SMALL)
    np.testing.assert_array_equal(values, reference.to_pixel_values(rgb, SMALL))


@pytest.mark.parametrize("resample", ["bicubic", "bilinear"])
def test_photos_have_the_bits_of_the_reference(photos, resample):
    geometry = SquareGeometry(320, NANO.mean, NANO.std, resample)
    for name in ("astronaut.png", "china.jpg", "rocket.jpg"):
        rgb = decode_image(photos[name])
        np.testing.assert_array_equal(to_pixel_values(rgb, geometry), reference.to_pixel_values(rgb, geometry))


def test_float16_is_the_float32_rounded_to_the_nearest():
    rgb = noise(60, 80)
    expected = reference.to_pixel_values(rgb, SMALL).astype(np.float16)
    values = to_pixel_values(rgb, SMALL, dtype=np.float16)
    assert values.dtype == np.float16
    np.testing.assert_array_equal(values, expected)


# Where the pixels lie

LAYOUTS = {
    "read-only": lambda rgb: rgb,
    "column-major": np.asfortranarray,
    "channel by channel": lambda rgb: np.ascontiguousarray(rgb.transpose(2, 0, 1)).transpose(1, 2, 0),
    "every second pixel": lambda rgb: np.repeat(rgb, 2, axis=1)[:, ::2],
    "every second row": lambda rgb: np.repeat(rgb, 2, axis=0)[::2],
    "a window": lambda rgb: np.pad(rgb, ((3, 3), (3, 3), (0, 0)))[3:-3, 3:-3],
    "the colours of RGBA": lambda rgb: np.pad(rgb, ((0, 0), (0, 0), (0, 1)))[:, :, :3],
    "upside down": lambda rgb: rgb[::-1].copy()[::-1],
    "mirrored": lambda rgb: rgb[:, ::-1].copy()[:, ::-1],
    "BGR": lambda rgb: rgb[:, :, ::-1].copy()[:, :, ::-1],
    "turned around": lambda rgb: rgb[::-1, ::-1, ::-1].copy()[::-1, ::-1, ::-1],
    "at an odd address": lambda rgb: np.concatenate([[np.uint8(0)], rgb.ravel()])[1:].reshape(rgb.shape),
}


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("layout", LAYOUTS.values(), ids=LAYOUTS)
@pytest.mark.parametrize("height, width", [(64, 96), (200, 60), (96, 48), (48, 96), (3, 2)])  # both orders, one pass
def test_pixel_values_do_not_depend_on_the_layout_of_the_array(kernel, layout, height, width):
    rgb = noise(height, width)
    laid_out = layout(rgb)
    laid_out.flags.writeable = False
    np.testing.assert_array_equal(laid_out, rgb)
    values = with_kernel(kernel, to_pixel_values, laid_out, SMALL)
    np.testing.assert_array_equal(values, reference.to_pixel_values(rgb, SMALL))


def test_one_pixel_may_stand_for_a_whole_picture():
    """np.broadcast_to has steps of zero."""
    flat = np.broadcast_to(np.array([255, 0, 255], np.uint8), (500, 700, 3))
    np.testing.assert_array_equal(to_pixel_values(flat, NANO)[:, 7, 9], [1, -1, 1])


def test_the_last_row_is_read_to_its_end_and_not_beyond():
    """Behind the last byte lies memory that may not be read: an access there would end the process."""
    page = mmap.PAGESIZE
    guarded = mmap.mmap(-1, 2 * page)
    address = ctypes.addressof(ctypes.c_char.from_buffer(guarded))
    libc = ctypes.CDLL(None)
    if not hasattr(libc, "mprotect") or libc.mprotect(ctypes.c_void_p(address + page), page, 0):
        pytest.skip("needs mprotect")
    for height, width in ((16, 85), (1, 1), (5, 7), (2, 3)):
        size = height * width * 3
        rgb = np.ctypeslib.as_array((ctypes.c_uint8 * size).from_address(address + page - size))
        rgb = rgb.reshape(height, width, 3)
        rgb[...] = noise(height, width)
        for picture in (rgb, rgb[::-1], rgb[:, ::-1], rgb[:, :, ::-1]):
            for kernel in KERNELS:
                values = with_kernel(kernel, to_pixel_values, picture, SMALL)
                np.testing.assert_array_equal(values, reference.to_pixel_values(picture, SMALL))


# A buffer of the caller

@pytest.mark.parametrize("dtype", [np.float32, np.float16])
def test_the_result_is_written_into_the_callers_buffer(dtype):
    rgb = noise(60, 80)
    out = np.full(OUT, np.nan, dtype)
    assert to_pixel_values(rgb, SMALL, dtype=dtype, out=out) is out
    np.testing.assert_array_equal(out, reference.to_pixel_values(rgb, SMALL, dtype))


def test_nothing_around_the_buffer_is_written():
    memory = np.full((3, *OUT), np.float32(7))
    to_pixel_values(noise(60, 80), SMALL, out=memory[1])
    assert (memory[[0, 2]] == 7).all()


READ_ONLY = np.empty(OUT, np.float32)
READ_ONLY.flags.writeable = False


@pytest.mark.parametrize("out, reason", [
    (np.empty((3, 48, 49), np.float32), r"shape \(3, 48, 49\)"),
    (np.empty((1, *OUT), np.float32), r"shape \(1, 3, 48, 48\)"),
    (np.empty(OUT, np.float16), "type float16"),
    (np.empty(OUT, ">f4"), "type >f4"),
    (np.empty((48, 48, 3), np.float32).transpose(2, 0, 1), "not C-contiguous"),
    (READ_ONLY, "read-only"),
    (np.empty(4 * 3 * 48 * 48 + 1, np.uint8)[1:].view(np.float32).reshape(OUT), "not aligned"),
    ([0.0], "type list"),
])
def test_a_buffer_that_does_not_fit_is_refused_and_told_why(out, reason):
    wanted = r"must be .*shape \(3, 48, 48\) and type float32"
    with pytest.raises(ValueError, match=f"^out is .*{reason}.*{wanted}"):
        to_pixel_values(noise(8, 9), SMALL, out=out)


@pytest.mark.parametrize("dtype", [np.float64, np.uint8])
def test_other_types_are_refused(dtype):
    with pytest.raises(ValueError, match="float32 or float16"):
        to_pixel_values(noise(8, 9), SMALL, dtype=dtype)


# Batches and threads

@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("threads", [1, 2, 3, 16])
def test_a_batch_is_its_images_whatever_the_number_of_threads(kernel, threads):
    images = [noise(20 + 7 * number, 150 - 9 * number, seed=number) for number in range(12)]
    expected = np.stack([reference.to_pixel_values(rgb, SMALL) for rgb in images])
    out = np.full(expected.shape, np.nan, np.float32)
    assert with_kernel(kernel, batch_to_pixel_values, images, SMALL, threads=threads, out=out) is out
    np.testing.assert_array_equal(out, expected)


def test_a_batch_of_nothing_is_empty():
    assert batch_to_pixel_values([], SMALL, threads=2).shape == (0, 3, 48, 48)


@pytest.mark.parametrize("threads", [0, -1, 1.5, None])
def test_the_number_of_threads_is_a_whole_number(threads):
    for batch, geometry in ((batch_to_pixel_values, SMALL), (batch_to_patches, QWEN)):
        with pytest.raises(ValueError, match="threads"):
            batch([noise(8, 9)], geometry, threads=threads)


def test_other_python_code_runs_meanwhile():
    """Without the GIL released, the main thread would stand still from the start of the batch to its end."""
    images = [noise(1500, 2000)] * 8
    worker = threading.Thread(target=with_kernel, args=("portable", batch_to_pixel_values, images, SMALL),
                              kwargs={"threads": 2})
    worker.start()
    turns = 0
    while worker.is_alive():
        time.sleep(0.001)
        turns += 1
    assert turns > 10


NOT_ENOUGH_MEMORY = """
import resource
import numpy as np
from safeguard_sdk.image import SquareGeometry, batch_to_pixel_values
wide = np.broadcast_to(np.zeros(3, np.uint8), (1, 1 << 24, 3))  # 200 MB of rows and 500 MB of weights
used = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (used + (100 << 20),) * 2)
geometry = SquareGeometry(2, (0.5,) * 3, (0.5,) * 3)
try:
    batch_to_pixel_values([np.zeros((3, 4, 3), np.uint8), wide] * 2, geometry, threads=2)
except MemoryError:
    print(batch_to_pixel_values([np.zeros((3, 4, 3), np.uint8)], geometry, threads=2).max())
"""


@pytest.mark.skipif(platform.system() != "Linux", reason="limits memory as Linux does")
def test_a_failure_on_a_thread_is_a_python_exception_and_the_process_lives_on():
    run = subprocess.run([sys.executable, "-c", NOT_ENOUGH_MEMORY], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "-1.0", run.stderr


# What is no image

@pytest.mark.parametrize("rgb, kind", [
    (np.zeros((0, 5, 3), np.uint8), "empty"), (np.zeros((5, 0, 3), np.uint8), "empty"),
    (np.zeros((8, 9), np.uint8), "bad_shape"), (np.zeros((8, 9, 4), np.uint8), "bad_shape"),
    (np.zeros((8, 9, 3), np.float32), "bad_shape"), (np.zeros((2, 8, 9, 3), np.uint8), "bad_shape"),
])
def test_what_is_no_rgb_array_with_pixels_is_refused(rgb, kind):
    for function, geometry in ((to_pixel_values, SMALL), (to_patches, QWEN)):
        with pytest.raises(ImageError) as caught:
            function(rgb, geometry)
        assert caught.value.kind == kind


def test_in_a_batch_the_error_names_the_image():
    with pytest.raises(ImageError, match=r"^<array 1>: "):
        batch_to_pixel_values([noise(8, 9), np.zeros((8, 9), np.uint8)], SMALL, threads=1)


def test_a_side_of_more_pixels_than_pillow_counts_exactly_is_refused():
    for shape in ((1, (1 << 24) + 1, 3), ((1 << 24) + 1, 1, 3)):
        with pytest.raises(ValueError, match="16777217 pixels"):
            to_pixel_values(np.broadcast_to(np.uint8(0), shape), SMALL)


# What the C++ checks for itself

def values_and_out(side=48, dtype=np.float32) -> dict:
    return {"values": np.zeros((3, 256), dtype), "out": np.empty((1, 3, side, side), dtype)}


@pytest.mark.parametrize("wrong", [
    {"images": [np.zeros((8, 9, 3), np.float32)]}, {"images": [np.zeros((8, 9), np.uint8)]},
    {"images": [np.zeros((0, 9, 3), np.uint8)]}, {"images": [np.zeros((8, 9, 3), np.uint8)] * 2},
    {"side": 0}, {"side": 49}, {"side": 1 << 62}, {"resample": "lanczos"}, {"kernel": "none"},
    {"values": np.zeros((3, 255), np.float32)}, {"values": np.zeros((256, 3), np.float32).T},
    {"values": np.zeros((3, 256), np.float64)}, {"values": np.zeros((3, 256), np.float16)},
    {"out": READ_ONLY}, {"out": np.empty((48, 48, 3), np.float32).T}, {"out": np.empty((1, *OUT), np.float16)},
])
def test_the_planes_refuse_what_would_reach_beyond_memory(wrong):
    right = {"images": [noise(8, 9)], "side": 48, "resample": "bicubic", "threads": 1, "kernel": KERNELS[0],
             **values_and_out()}
    _fast.to_planes(**right)
    with pytest.raises(ValueError, match=r"\w"):
        _fast.to_planes(**right | wrong)


@pytest.mark.parametrize("wrong", [
    {"sizes": []}, {"sizes": [(56, 57)]}, {"sizes": [(56, 84)]}, {"sizes": [(0, 56)]}, {"sizes": [(1 << 62, 56)]},
    {"patch": 0}, {"patch": -14}, {"merge": 0}, {"merge": 3}, {"temporal": 0}, {"temporal": 3},
    {"temporal": 1 << 24, "patch": 1 << 24, "merge": 1, "sizes": [(1 << 24, 1 << 24)]},
    {"images": []}, {"out": np.empty((15, 1176), np.float32)},
])
def test_the_patches_refuse_what_would_reach_beyond_memory(wrong):
    right = {"images": [noise(8, 9)], "sizes": [(56, 56)], "patch": 14, "merge": 2, "temporal": 2,
             "resample": "bicubic", "threads": 1, "kernel": KERNELS[0],
             "values": np.zeros((3, 256), np.float32), "out": np.empty((16, 1176), np.float32)}
    _fast.to_patches(**right)
    with pytest.raises(ValueError, match=r"\w"):
        _fast.to_patches(**right | wrong)
