"""The size that a model wants to see a picture in."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from safeguard_sdk.errors import ImageError
from safeguard_sdk.image import PatchGeometry, SquareGeometry

HALF = (0.5, 0.5, 0.5)
SQUARE = {"side": 224, "mean": HALF, "std": HALF}
PATCHES = {"patch": 14, "min_pixels": 56 * 56, "max_pixels": 1280 * 28 * 28, "mean": HALF, "std": HALF}
QWEN2 = PatchGeometry(**PATCHES)
sides = st.integers(1, 20_000)


@pytest.mark.parametrize("wrong", [
    {"side": 0}, {"side": 22.4}, {"mean": (0.5,)}, {"std": (0.5, 0.5, 0)}, {"resample": "cubic"},
])
def test_a_square_geometry_that_means_nothing_is_refused(wrong):
    with pytest.raises(ValueError, match=f"geometry: .*{next(iter(wrong))}"):
        SquareGeometry(**SQUARE | wrong)


@pytest.mark.parametrize("wrong", [
    {"patch": 0}, {"patch": 14.0}, {"merge": 0}, {"temporal": 0}, {"min_pixels": 0}, {"max_pixels": 56 * 56 - 1},
    {"mean": (0.5,)}, {"std": (0.5, 0.5, 0)}, {"resample": "cubic"},
])
def test_a_patch_geometry_that_means_nothing_is_refused(wrong):
    with pytest.raises(ValueError, match=f"geometry: .*{next(iter(wrong))}"):
        PatchGeometry(**PATCHES | wrong)


@pytest.mark.parametrize("size, resized", [
    ((280, 420), (280, 420)),     # fits already
    ((293, 407), (280, 420)),     # to the nearest multiple of 28
    ((294, 294), (280, 280)),     # 10.5 blocks: halves round to even,
    ((322, 322), (336, 336)),     # 11.5 too
    ((3000, 4000), (840, 1148)),  # over max_pixels: rounded down
    ((1, 1), (56, 56)),           # below min_pixels: rounded up
    ((10, 200), (28, 252)),
    ((1, 200), (28, 812)),        # the longest that is judged
])
def test_the_size_is_a_multiple_of_28_between_the_limits(size, resized):
    assert QWEN2.size_of(*size) == resized
    assert QWEN2.size_of(*size[::-1]) == resized[::-1]
    assert QWEN2.grid_of(*size) == (1, resized[0] // 14, resized[1] // 14)


def test_qwen3_has_patches_of_16():
    qwen3 = PatchGeometry(patch=16, min_pixels=65_536, max_pixels=16_777_216, mean=HALF, std=HALF)
    assert qwen3.size_of(480, 640) == (480, 640)
    assert qwen3.grid_of(480, 640) == (1, 30, 40)


@pytest.mark.parametrize("size", [(1, 201), (201, 1), (2, 401)])
def test_a_side_ratio_over_200_is_refused(size):
    with pytest.raises(ImageError, match="200 times") as caught:
        QWEN2.size_of(*size)
    assert caught.value.kind == "bad_shape"


@settings(deadline=None)  # the first call imports transformers
@given(sides, sides, st.sampled_from([14, 16]), st.integers(1, 10**6), st.integers(0, 10**7))
def test_the_size_is_that_of_hugging_face(height, width, patch, min_pixels, more):
    module = pytest.importorskip("transformers.models.qwen2_vl.image_processing_pil_qwen2_vl")
    geometry = PatchGeometry(patch, min_pixels, min_pixels + more, HALF, HALF)
    try:
        expected = module.smart_resize(height, width, 2 * patch, min_pixels, min_pixels + more)
    except ValueError:
        expected = None
    try:
        size = geometry.size_of(height, width)
    except ImageError:
        size = None
    assert size == expected
