"""JPEG files: decoded at a fraction of their size where that suffices, and by other decoders exactly as by Pillow."""

import io
import itertools
import random

import numpy as np
import pytest
from image_files import file_of
from PIL import Image, features

from safeguard_sdk.image import decode_image, jpeg, jpeg_decoder

SUBSAMPLINGS = ["4:4:4", "4:2:2", "4:2:0", "4:1:1"]  # all that Pillow writes

needs_simplejpeg = pytest.mark.skipif(not jpeg.decoder_is_simplejpeg(), reason="the extra turbo is not installed")


def square(side: int):
    return lambda height, width: (side, side)


@pytest.fixture
def pillow_alone(monkeypatch):
    """decode_image as it is where Pillow decodes every JPEG."""

    def decode(image, **options) -> np.ndarray:
        with monkeypatch.context() as patch:
            patch.setattr(jpeg, "pillow_is_on_libjpeg_turbo", lambda: False)
            assert jpeg_decoder().startswith("Pillow ")
            return decode_image(image, **options)

    return decode


# --- decoded at a fraction of its size


@pytest.mark.parametrize("scaling, side, scale", [
    ("safe", 1000, 1), ("safe", 113, 1), ("safe", 112, 2), ("safe", 57, 2), ("safe", 56, 4), ("safe", 29, 4),
    ("safe", 28, 8), ("safe", 1, 8),
    ("fast", 1000, 1), ("fast", 214, 1), ("fast", 213, 2), ("fast", 107, 2), ("fast", 106, 4), ("fast", 54, 4),
    ("fast", 53, 8), ("fast", 1, 8),
    ("exact", 53, 1), ("exact", 1, 1),
])
def test_a_jpeg_is_never_decoded_below_1_9_times_the_target_if_safe_and_once_if_fast(photos, scaling, side, scale):
    rgb = decode_image(photos["china.jpg"], target=square(side), scaling=scaling)  # 640 × 427
    assert rgb.shape == (-(-427 // scale), -(-640 // scale), 3)


def test_safe_is_the_default_and_without_a_target_every_pixel_counts(photos):
    default, safe = (decode_image(photos["china.jpg"], target=square(100), **options)
                     for options in ({}, {"scaling": "safe"}))
    np.testing.assert_array_equal(default, safe)
    assert decode_image(photos["china.jpg"]).shape == (427, 640, 3)


@pytest.mark.parametrize("target, scale", [((56, 84), 4), ((57, 84), 2), ((56, 85), 2), ((84, 56), 2)])
def test_both_sides_count_each_against_its_own_target(photos, target, scale):
    rgb = decode_image(photos["china.jpg"], target=lambda height, width: target)
    assert rgb.shape == (-(-427 // scale), 640 // scale, 3)


def test_the_target_is_that_of_the_upright_picture(photos):
    exif = Image.Exif()
    exif[274] = 6
    with Image.open(photos["china.jpg"]) as photo:
        sideways = file_of(photo, "JPEG", exif=exif)
    asked = []

    def target(height: int, width: int) -> tuple[int, int]:
        asked.append((height, width))
        return 84, 56  # of the picture as stored, 427 × 640, this would allow 1/2 and no more

    assert decode_image(sideways, target=target).shape == (160, 107, 3)
    assert asked == [(640, 427)]


def test_reduced_decoding_hardly_moves_what_a_model_sees(photos):
    for photo in ("china.jpg", "flower.jpg"):
        exact, safe = (Image.fromarray(decode_image(photos[photo], target=square(100), scaling=scaling))
                       for scaling in ("exact", "safe"))
        assert exact.size != safe.size
        moved = np.abs(np.asarray(exact.resize((100, 100))).astype(int) - np.asarray(safe.resize((100, 100))))
        assert 0 < moved.mean() < 2.5  # grey levels


def test_only_jpeg_files_are_reduced(small):
    for image in (small, np.asarray(small), file_of(small, "PNG"), Image.open(io.BytesIO(file_of(small, "JPEG")))):
        assert decode_image(image, target=square(4)).shape == (64, 96, 3)


def test_the_first_of_several_jpegs_in_a_file_is_reduced_too(small):
    data = file_of(small, "MPO", save_all=True, append_images=[Image.new("RGB", small.size)])
    assert Image.open(io.BytesIO(data)).format == "MPO"
    np.testing.assert_array_equal(decode_image(data, target=square(8)),
                                  decode_image(file_of(small, "JPEG"), target=square(8)))
    assert decode_image(data, target=square(8)).shape == (16, 24, 3)


def test_a_scaling_of_no_such_name_is_refused_whatever_the_image(small):
    for image in (np.asarray(small), file_of(small, "JPEG")):
        with pytest.raises(ValueError, match="scaling is 'half', must be one of exact, safe, fast"):
            decode_image(image, scaling="half")


# --- our own decoder, which test_jpeg_baseline.py specifies, and simplejpeg


def test_the_common_kind_is_decoded_by_our_own_decoder_where_it_is_reduced(small):
    common, progressive = file_of(small, "JPEG"), file_of(small, "JPEG", progressive=True)
    with Image.open(io.BytesIO(common)) as picture:
        assert jpeg.decode_baseline(common, picture, 2).shape == (32, 48, 3)
        assert jpeg.decode_baseline(common, picture, 1) is None
    with Image.open(io.BytesIO(progressive)) as picture:
        assert jpeg.decode_baseline(progressive, picture, 2) is None


def test_who_decodes_is_told_by_name_and_version(monkeypatch):
    assert jpeg_decoder().split()[0] in ("simplejpeg", "Pillow")
    monkeypatch.setattr(jpeg, "simplejpeg", None)
    assert jpeg_decoder() == f"Pillow {Image.__version__}"


def test_pillow_on_another_libjpeg_decodes_alone(monkeypatch, small):
    """It rounds differently, and a verdict must not depend on an extra."""
    monkeypatch.setattr(features, "check_feature", lambda feature: False)
    data = file_of(small, "JPEG")
    assert decoded_by_simplejpeg(data) is None
    with Image.open(io.BytesIO(data)) as picture:
        assert jpeg.decode_baseline(data, picture, 2) is None


@needs_simplejpeg
def test_sampled_photos_decode_to_the_same_pixels_as_with_pillow(shared_data, pillow_alone):
    paths = sorted(shared_data("photos").rglob("*.jpg"))
    for path in random.Random(0).sample(paths, 100):
        assert decoded_by_simplejpeg(path.read_bytes()) is not None
        for side in (320, 100, 50, 25):
            np.testing.assert_array_equal(decode_image(path, target=square(side)),
                                          pillow_alone(path, target=square(side)), err_msg=f"{path}, {side} px")


@needs_simplejpeg
@pytest.mark.parametrize("options", [
    *({"subsampling": subsampling, "progressive": progressive} for subsampling in SUBSAMPLINGS
      for progressive in (False, True)),
    {"restart_marker_rows": 1}, {"keep_rgb": True}, {"quality": 1}, {"quality": 100, "optimize": True},
], ids=str)
@pytest.mark.parametrize("mode", ["RGB", "L"])
def test_every_plain_coding_decodes_to_the_same_pixels_as_with_pillow(photos, pillow_alone, mode, options):
    with Image.open(photos["china.jpg"]) as photo:
        data = file_of(photo.crop((0, 0, 331, 217)).convert(mode), "JPEG", **options)  # sides are no multiples of 8
    for scale in (1, 2, 4, 8):
        np.testing.assert_array_equal(decoded_by_simplejpeg(data, scale),
                                      pillow_alone(data, target=square(217 // scale), scaling="fast"))


@needs_simplejpeg
def test_the_smallest_pictures_decode_to_the_same_pixels_as_with_pillow(small, pillow_alone):
    """Between two scales that give one size, simplejpeg would choose another than Pillow."""
    for width in range(1, 20):
        for height in {width, 1, 7, 19}:
            for progressive, side in itertools.product((False, True), (1, 2, 5)):
                data = file_of(small.resize((width, height)), "JPEG", progressive=progressive)
                options = {"target": square(side), "scaling": "fast"}
                np.testing.assert_array_equal(decode_image(data, **options), pillow_alone(data, **options),
                                              err_msg=f"{width} × {height}, {side} px")


@needs_simplejpeg
def test_what_simplejpeg_does_not_take_is_left_to_pillow(small):
    data = file_of(small, "JPEG")
    frame = data.index(b"\xff\xc0")
    left = {"CMYK": file_of(small.convert("CMYK"), "JPEG"), "arithmetic": data[:frame] + b"\xff\xc9" + data[frame + 2:],
            "without its end": data[:-2], "cut off": data[:len(data) // 2],
            "of another size": data[:frame] + data[frame:frame + 19] + data[frame:]}  # two frame headers
    assert {name for name, file in left.items() if decoded_by_simplejpeg(file) is not None} == set()


@needs_simplejpeg
def test_a_flaw_that_pillow_passes_passes_with_simplejpeg_too(small, pillow_alone):
    data = file_of(small, "JPEG")
    middle = len(data) * 3 // 4
    flawed = data[:middle] + b"\xff\xd3" + data[middle:]  # a stray restart marker
    assert decoded_by_simplejpeg(flawed) is None
    np.testing.assert_array_equal(decode_image(flawed), pillow_alone(flawed))


def decoded_by_simplejpeg(data: bytes, scale: int = 1) -> np.ndarray | None:
    with Image.open(io.BytesIO(data)) as picture:
        return jpeg.decode_with_simplejpeg(data, picture, scale)
