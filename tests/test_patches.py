"""Input of Qwen-VL: patches with the bits of Hugging Face's PIL processor, however the C++ computes them."""

import csv
import hashlib
from pathlib import Path

import numpy as np
import preprocess_reference as reference
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from PIL import Image
from preprocess_reference import noise, with_kernel

from safeguard_sdk import _fast
from safeguard_sdk.errors import ImageError
from safeguard_sdk.image import PatchGeometry, batch_to_patches, decode_image, to_patches

KERNELS = _fast.preprocessing_kernels()
CLIP = {"mean": (0.48145466, 0.4578275, 0.40821073), "std": (0.26862954, 0.26130258, 0.27577711)}
HALF = {"mean": (0.5, 0.5, 0.5), "std": (0.5, 0.5, 0.5)}
QWEN2 = PatchGeometry(14, 56 * 56, 256 * 28 * 28, **CLIP)
QWEN3 = PatchGeometry(16, 64 * 32 * 32, 256 * 32 * 32, **HALF)
SMALL = PatchGeometry(14, 28 * 28, 12 * 28 * 28, **CLIP)
SAMPLE = 80  # photos of ../shared/data/photos
SIZES = [
    (1, 1), (1, 200), (200, 1), (2, 400),                  # one pixel; the longest that are judged
    (28, 28), (28, 84), (84, 28), (27, 29), (42, 70),      # edges of a block; halves between two
    (112, 84), (500, 700), (700, 500), (1200, 300),        # at and over max_pixels; over rows first
]


# What a patch is

def test_each_value_stands_where_its_pixel_says():
    """The value of a pixel names the pixel, so that a swapped axis shows."""
    geometry = PatchGeometry(14, 28 * 28, 10**6, mean=(0, 0, 0), std=(1, 1, 1))
    y, x = np.mgrid[:56, :84].astype(np.uint8)
    pixel_values, grid = to_patches(np.dstack([y, x, y // 14 * 10 + x // 14]), geometry)
    samples = np.rint(pixel_values * 255).reshape(2, 3, 2, 2, 3, 2, 14, 14)
    assert grid == (1, 4, 6)
    row, column, merge_row, merge_column, channel, _frame, patch_y, patch_x = np.indices(samples.shape)
    y, x = row * 28 + merge_row * 14 + patch_y, column * 28 + merge_column * 14 + patch_x
    np.testing.assert_array_equal(samples, np.choose(channel, [y, x, y // 14 * 10 + x // 14]))


# The same bits as numpy and Pillow

@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("height, width", SIZES)
def test_sizes_at_an_edge_have_the_bits_of_the_reference(kernel, height, width):
    rgb = noise(height, width)
    expected, grid = reference.to_patches(rgb, SMALL)
    pixel_values, found = with_kernel(kernel, to_patches, rgb, SMALL)
    assert found == grid == SMALL.grid_of(height, width)
    np.testing.assert_array_equal(pixel_values, expected)


@st.composite
def geometries(draw) -> PatchGeometry:
    min_pixels = draw(st.integers(1, 20_000))
    return PatchGeometry(
        draw(st.sampled_from([14, 16])), min_pixels, min_pixels + draw(st.integers(0, 20_000)), **CLIP,
        merge=draw(st.integers(1, 3)), temporal=draw(st.integers(1, 3)),
        resample=draw(st.sampled_from(["bicubic", "bilinear"])))


@st.composite
def pictures(draw) -> np.ndarray:
    """With a ratio of the sides up to 200."""
    short = draw(st.integers(1, 150))
    long = draw(st.integers(short, min(200 * short, 1500)) | st.just(min(200 * short, 1500)))
    return noise(*draw(st.permutations([short, long])), seed=draw(st.integers(0, 9)))


@pytest.mark.parametrize("kernel", KERNELS)
@settings(deadline=None, max_examples=200)  # the machine that runs this may be busy
@given(rgb=pictures(), geometry=geometries(), dtype=st.sampled_from([np.float32, np.float16]))
@example(noise(1, 200), SMALL, np.float32)
def test_every_size_has_the_bits_of_the_reference(kernel, rgb, geometry, dtype):
    expected, grid = reference.to_patches(rgb, geometry, dtype)
    pixel_values, found = with_kernel(kernel, to_patches, rgb, geometry, dtype=dtype)
    assert found == grid and pixel_values.dtype == dtype
    np.testing.assert_array_equal(pixel_values, expected)


# The same bits as Hugging Face

@pytest.fixture(scope="module")
def assert_as_hugging_face():
    """assert_as_hugging_face(rgb, geometry, name): the processor gives the same patches and grid."""
    module = pytest.importorskip("transformers.models.qwen2_vl.image_processing_pil_qwen2_vl")

    def compare(rgb: np.ndarray, geometry: PatchGeometry, name: str) -> None:
        processor = module.Qwen2VLImageProcessorPil(
            size={"shortest_edge": geometry.min_pixels, "longest_edge": geometry.max_pixels},
            patch_size=geometry.patch, image_mean=geometry.mean, image_std=geometry.std)
        expected = processor(Image.fromarray(rgb), return_tensors="np")
        pixel_values, grid = to_patches(rgb, geometry)
        np.testing.assert_array_equal([grid], expected["image_grid_thw"], err_msg=name)
        np.testing.assert_array_equal(pixel_values, expected["pixel_values"], err_msg=name)

    return compare


@pytest.mark.parametrize("height, width", SIZES)
def test_sizes_at_an_edge_have_the_bits_of_hugging_face(assert_as_hugging_face, height, width):
    for geometry in (SMALL, QWEN3):
        assert_as_hugging_face(noise(height, width), geometry, f"{geometry.patch}")


def test_photos_have_the_bits_of_hugging_face(assert_as_hugging_face, shared_data):
    folder = shared_data("photos/index.csv").parent
    with open(folder / "index.csv", newline="", encoding="utf-8") as file:
        names = [row["path"] for row in csv.DictReader(file)]
    sample = sorted(names, key=lambda name: hashlib.sha256(name.encode()).digest())[:SAMPLE]
    for number, name in enumerate(sample):
        assert_as_hugging_face(decode_image(folder / name), (QWEN2, QWEN3)[number % 2], name)


def test_odd_images_have_the_bits_of_hugging_face(assert_as_hugging_face, shared_data):
    decoded = 0
    for path in sorted(filter(Path.is_file, shared_data("odd").rglob("*"))):
        try:
            rgb = decode_image(path)
        except ImageError:
            continue
        assert_as_hugging_face(rgb, QWEN2, path.name)
        decoded += 1
    assert decoded > 150


# Buffers and batches

def test_the_patches_are_written_into_the_callers_buffer():
    rgb = noise(100, 150)
    expected, grid = reference.to_patches(rgb, SMALL)
    out = np.full(expected.shape, np.nan, np.float32)
    pixel_values, found = to_patches(rgb, SMALL, out=out)
    assert pixel_values is out and found == grid
    np.testing.assert_array_equal(out, expected)


def test_a_buffer_for_another_grid_is_refused():
    with pytest.raises(ValueError, match=r"^out is of shape \(40, 1176\).*must be of shape \(32, 1176\)"):
        to_patches(noise(56, 112), SMALL, out=np.empty((40, 1176), np.float32))


@pytest.mark.parametrize("threads", [1, 2, 5])
@pytest.mark.parametrize("dtype", [np.float32, np.float16])
def test_a_batch_is_its_images_one_behind_the_other(threads, dtype):
    images = [noise(30 + 11 * number, 190 - 13 * number, seed=number) for number in range(9)]
    expected = [reference.to_patches(rgb, SMALL, dtype) for rgb in images]
    pixel_values, grids = batch_to_patches(images, SMALL, threads=threads, dtype=dtype)
    np.testing.assert_array_equal(pixel_values, np.concatenate([patches for patches, _ in expected]))
    np.testing.assert_array_equal(grids, [grid for _, grid in expected])
    assert grids.dtype == np.int64 and len({tuple(grid) for grid in grids.tolist()}) > 3


def test_a_batch_of_nothing_is_empty():
    pixel_values, grids = batch_to_patches([], SMALL, threads=2)
    assert (pixel_values.shape, grids.shape) == ((0, 1176), (0, 3))


def test_a_side_ratio_over_200_is_refused():
    for rgb in (noise(1, 201), noise(201, 1)):
        with pytest.raises(ImageError, match="200 times") as caught:
            to_patches(rgb, SMALL)
        assert caught.value.kind == "bad_shape"
