"""Every mode becomes RGB: transparency on white, 16 bits scaled to 8, of several frames the first."""

import io

import numpy as np
import pytest
from image_files import BLUE, GREY, LOSSLESS, MID, PINK, RED, WHITE, file_of, kind_of, png, tiff
from PIL import Image, features

from safeguard_sdk.image import decode_image

# Transparency

def palette_picture(*alphas: int) -> Image.Image:
    picture = Image.new("P", (2, 1))
    picture.putpalette([255, 0, 0, 0, 0, 255])  # red, blue
    picture.putdata([0, 1])
    picture.info["transparency"] = bytes(alphas)
    return picture


def with_transparency(picture: Image.Image, key) -> Image.Image:
    picture.info["transparency"] = key
    return picture


TRANSPARENT = {  # what carries the transparency → the picture, its colour
    "RGBA, opaque": (Image.new("RGBA", (2, 1), (255, 0, 0, 255)), RED),
    "RGBA, nothing": (Image.new("RGBA", (2, 1), (255, 0, 0, 0)), WHITE),
    "RGBA, half": (Image.new("RGBA", (2, 1), (255, 0, 0, 128)), PINK),
    "RGBa, premultiplied": (Image.new("RGBA", (2, 1), (255, 0, 0, 128)).convert("RGBa"), PINK),
    "LA, half": (Image.new("LA", (2, 1), (100, 128)), MID),
    "La, premultiplied": (Image.new("LA", (2, 1), (100, 128)).convert("La"), MID),
    "PA, half": (Image.new("RGBA", (2, 1), (255, 0, 0, 128)).convert("PA"), PINK),
    "grey, one level": (with_transparency(Image.new("L", (2, 1), 100), 100), WHITE),
    "grey, another level": (with_transparency(Image.new("L", (2, 1), 100), 101), GREY),
    "black and white": (with_transparency(Image.new("1", (2, 1), 0), 0), WHITE),
    "RGB, one colour": (with_transparency(Image.new("RGB", (2, 1), RED), RED), WHITE),
}


@pytest.mark.parametrize("picture, colour", TRANSPARENT.values(), ids=TRANSPARENT)
def test_transparency_is_composited_on_white(picture, colour):
    assert np.abs(decode_image(picture).astype(int) - colour).max() <= 1


@pytest.mark.parametrize("alphas, colours", [
    ((255, 0), [RED, WHITE]), ((128, 255), [PINK, BLUE]), ((0,), [WHITE, BLUE]),
])
@pytest.mark.parametrize("file_format", [None, "PNG"])
def test_a_transparent_palette_is_composited_on_white(file_format, alphas, colours):
    picture = palette_picture(*alphas)
    rgb = decode_image(file_of(picture, "PNG") if file_format else picture)
    assert np.abs(rgb[0].astype(int) - colours).max() <= 1


@pytest.mark.parametrize("file_format", ["PNG", "WEBP", "TIFF", "GIF"] + ["AVIF"] * features.check("avif"))
def test_what_a_file_leaves_transparent_is_white_in_every_format_that_can(small, file_format):
    rgba = small.convert("RGBA")
    rgba.paste((255, 0, 0, 0), (0, 0, 48, 64))  # the left half: red, were it not transparent
    rgb = decode_image(file_of(rgba, file_format, **LOSSLESS.get(file_format, {})))
    assert (rgb[:, :40] == 255).all()
    assert np.abs(rgb[:, 56:].astype(int) - np.asarray(small)[:, 56:]).mean() < 12  # grey levels; GIF has 256 colours


def test_a_png_key_is_compared_at_the_depth_of_its_pixels():
    """Pillow scales the pixels to 8 bits and leaves the key as it is: 4-bit level 5 becomes 85, the key stays 5."""
    four_bits = png(2, 1, 4, 0, b"\x5a", (b"tRNS", b"\0\x05"))
    np.testing.assert_array_equal(decode_image(four_bits)[0, :, 0], [255, 0xAA])
    sixteen_bits = png(2, 1, 16, 0, b"\x12\x34\x12\x35", (b"tRNS", b"\x12\x34"))
    np.testing.assert_array_equal(decode_image(sixteen_bits)[0, :, 0], [255, 0x12])
    sixteen_bit_rgb = png(2, 1, 16, 2, b"\x12\x34" * 3 + b"\x34\x12" * 3, (b"tRNS", b"\x12\x34" * 3))
    np.testing.assert_array_equal(decode_image(sixteen_bit_rgb)[0, :, 0], [255, 0x34])


def test_a_real_photo_with_alpha_stands_on_white(photos):
    with Image.open(photos["horse.png"]) as picture:
        rgba = np.asarray(picture).astype(float)
    alpha = rgba[:, :, 3:] / 255
    assert alpha.min() < 0.5 < alpha.max()
    expected = rgba[:, :, :3] * alpha + 255 * (1 - alpha)
    assert np.abs(decode_image(photos["horse.png"]) - expected).max() <= 1


# Sample depth and colour

@pytest.mark.parametrize("mode", ["I;16", "I;16B", "I"])
def test_16_bit_grey_is_scaled_and_not_clipped(mode):
    levels = np.array([[0, 255, 256, 32768, 65535]], np.int32)
    picture = Image.fromarray(levels).convert(mode)
    np.testing.assert_array_equal(decode_image(picture)[0, :, 0], [0, 0, 1, 128, 255])


@pytest.mark.parametrize("file_format", ["PNG", "TIFF"])
def test_a_16_bit_file_is_scaled_and_not_clipped(file_format):
    levels = np.arange(0, 65536, 32, dtype=np.uint16).reshape(32, 64)
    rgb = decode_image(file_of(Image.fromarray(levels), file_format))
    np.testing.assert_array_equal(rgb, np.repeat((levels >> 8)[:, :, None], 3, axis=2))


def test_16_bit_colour_is_scaled_and_not_clipped():
    rgb = decode_image(png(1, 1, 16, 2, b"\x40\x01\x80\x02\xff\xff"))
    np.testing.assert_array_equal(rgb[0, 0], [0x40, 0x80, 0xFF])


def test_16_bit_colour_with_alpha_is_scaled_and_stands_on_white():
    np.testing.assert_array_equal(decode_image(png(1, 1, 16, 6, b"\x40\x01\x80\x02\xff\xff\xff\xff"))[0, 0],
                                  [0x40, 0x80, 0xFF])
    np.testing.assert_array_equal(decode_image(png(1, 1, 16, 6, b"\x40\x01\x80\x02\xff\xff\0\0"))[0, 0], WHITE)
    np.testing.assert_array_equal(decode_image(png(1, 1, 16, 4, b"\x40\x01\xff\xff"))[0, 0], [0x40] * 3)


def test_a_16_bit_colour_tiff_is_scaled_and_not_clipped():
    rgb = decode_image(tiff(16, 2, b"\x01\x40\x02\x80\xff\xff" * 4, 2, 2, samples=3))
    np.testing.assert_array_equal(rgb, np.full((2, 2, 3), [0x40, 0x80, 0xFF]))


@pytest.mark.parametrize("image", [
    Image.fromarray(np.ones((2, 2), np.float32)),               # white, if floats go to 1; black, if they go to 255
    Image.fromarray(np.array([[0, 255]], np.int32)),            # 8-bit levels, or an almost black 16-bit picture
    Image.fromarray(np.array([[0, 65536]], np.int32)),
    Image.fromarray(np.array([[-1, 300]], np.int32)),
    tiff(12, 1, bytes(6), 2, 2),
    tiff(16, 0, bytes(8), 2, 2),                           # zero means white, which Pillow overlooks at 16 bits
], ids=["float", "8 bits in 32", "17 bits in 32", "negative", "12-bit TIFF", "white-is-zero TIFF"])
def test_samples_of_unknown_range_are_refused_and_not_guessed(image):
    assert kind_of(image) == "unsupported"


def test_a_plain_16_bit_tiff_made_the_same_way_is_read():
    np.testing.assert_array_equal(decode_image(tiff(16, 1, b"\0\x80" * 4, 2, 2)), np.full((2, 2, 3), 128))


@pytest.mark.parametrize("mode", ["1", "L", "CMYK", "YCbCr", "HSV", "RGBX", "LAB"])
def test_every_mode_of_a_pil_image_becomes_rgb(small, mode):
    picture = small.convert(mode)
    assert np.abs(decode_image(picture).astype(int) - np.asarray(picture.convert("RGB"))).max() == 0


def test_grey_photos_have_three_equal_channels(photos):
    rgb = decode_image(photos["camera.png"])
    assert (rgb[:, :, 0] == rgb[:, :, 1]).all() and (rgb[:, :, 0] == rgb[:, :, 2]).all() and rgb.std() > 20


def test_a_cmyk_jpeg_keeps_its_colours(small):
    rgb = decode_image(file_of(small.convert("CMYK"), "JPEG", quality=95))
    assert np.abs(rgb.astype(int) - np.asarray(small)).mean() < 6


def test_a_cmyk_tiff_keeps_its_colours(small):
    rgb = decode_image(file_of(small.convert("CMYK"), "TIFF"))
    assert np.abs(rgb.astype(int) - np.asarray(small)).max() <= 1


def test_a_ycck_jpeg_keeps_its_colours(small):
    """Adobe stores the negative; as YCCK its first three channels are the negative's Y, Cb, Cr, and transform is 2."""
    negative = Image.fromarray(255 - np.asarray(small)).convert("YCbCr")
    channels = [channel.point(lambda v: 255 - v) for channel in negative.split()]  # saving inverts them once more
    data = bytearray(file_of(Image.merge("CMYK", [*channels, Image.new("L", small.size)]), "JPEG", quality=95))
    transform = data.index(b"Adobe") + 11
    assert data[transform] == 0
    data[transform] = 2
    assert np.abs(decode_image(bytes(data)).astype(int) - np.asarray(small)).mean() < 6


# Several frames

@pytest.mark.parametrize("file_format", ["GIF", "WEBP", "PNG", "TIFF", "MPO"] + ["AVIF"] * features.check("avif"))
def test_of_several_frames_the_first_is_read(small, file_format):
    rest = [Image.new("RGB", small.size, RED), Image.new("RGB", small.size, BLUE)]
    options = {} if file_format in ("MPO", "TIFF") else {"duration": 100}
    data = file_of(small, file_format, save_all=True, append_images=rest, **options)
    assert Image.open(io.BytesIO(data)).n_frames == 3
    assert np.abs(decode_image(data).astype(int) - np.asarray(small)).mean() < 12  # grey levels; GIF has 256 colours
