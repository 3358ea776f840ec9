"""Every image becomes upright RGB or an ImageError that says why; nothing in between, and no warning."""

import hashlib
import io
import os
import random
import struct
import threading
import warnings
import zlib
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from PIL import Image, ImageFile, features

from safeguard_sdk.errors import IMAGE_ERROR_KINDS, ImageError
from safeguard_sdk.image import (
    FORMATS,
    SquareGeometry,
    decode_image,
    image_sha256,
    read_bytes,
    to_pixel_values,
)
from safeguard_sdk.image.files import MAX_FILE_BYTES

WRITTEN = [name for name in FORMATS if name not in ("HEIF", "AVIF")] + ["AVIF"] * features.check("avif")
LOSSLESS = {"PNG": {}, "WEBP": {"lossless": True}, "TIFF": {}, "BMP": {}}  # format → options for save()
LOSSY = {"JPEG": {"quality": 95}, "AVIF": {"quality": 95}}
STORED_AS = {  # EXIF orientation → what a camera held that way does to the upright picture
    1: None, 2: Image.Transpose.FLIP_LEFT_RIGHT, 3: Image.Transpose.ROTATE_180, 4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE, 6: Image.Transpose.ROTATE_90, 7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_270,
}


@pytest.fixture(scope="session")
def small(photos) -> Image.Image:
    """A real photo, 96 × 64; its sides differ, so a swapped axis shows."""
    with Image.open(photos["china.jpg"]) as photo:
        return photo.resize((96, 64))


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


def grey_tiff(bits: int, photometric: int, pixels: bytes, width: int, height: int) -> bytes:
    """An uncompressed grey TIFF of one strip."""
    tags = [(256, width), (257, height), (258, bits), (259, 1), (262, photometric), (273, 8), (277, 1), (278, height),
            (279, len(pixels))]
    entries = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in tags)
    return struct.pack("<2sHI", b"II", 42, 8 + len(pixels)) + pixels + struct.pack("<H", len(tags)) + entries + bytes(4)


def kind_of(image, **options) -> str:
    with pytest.raises(ImageError) as caught:
        decode_image(image, **options)
    assert caught.value.kind in IMAGE_ERROR_KINDS
    return caught.value.kind


# --- what an image may be


@pytest.mark.parametrize("photo", ["astronaut.png", "chelsea.png", "rocket.jpg", "china.jpg", "flower.jpg"])
def test_a_photo_decodes_to_the_pixels_that_pillow_shows(photos, photo):
    rgb = decode_image(photos[photo])
    with Image.open(photos[photo]) as expected:
        np.testing.assert_array_equal(rgb, np.asarray(expected.convert("RGB")))
    assert rgb.dtype == np.uint8 and rgb.flags.c_contiguous


def test_path_text_bytes_pil_image_and_array_give_one_result(photos):
    path = photos["flower.jpg"]
    rgb = decode_image(path)
    with Image.open(path) as picture:
        for image in (str(path), path.read_bytes(), bytearray(path.read_bytes()), picture, rgb):
            np.testing.assert_array_equal(decode_image(image), rgb)


def test_anything_else_is_refused_by_its_type():
    assert kind_of(None) == kind_of(7) == kind_of([1, 2]) == "unsupported"


def test_the_content_decides_and_not_the_extension(tmp_path, small):
    path = tmp_path / "photo.jpg"
    path.write_bytes(file_of(small, "PNG"))
    np.testing.assert_array_equal(decode_image(path), np.asarray(small))


@pytest.mark.parametrize("file_format", WRITTEN)
def test_every_photo_format_is_read(small, file_format):
    rgb = decode_image(file_of(small, file_format, **(LOSSLESS | LOSSY).get(file_format, {})))
    tolerance = 0 if file_format in LOSSLESS else 12 if file_format == "GIF" else 6  # grey levels; GIF has 256 colours
    assert np.abs(rgb.astype(int) - np.asarray(small)).mean() <= tolerance


# --- orientation


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


def test_the_exif_orientation_family_comes_out_alike(shared_data):
    for scene in ("Landscape", "Portrait"):
        files = sorted(shared_data("odd/exif-orientation").glob(f"{scene}_*.jpg"))
        assert len(files) == 9
        decoded = [decode_image(path) for path in files]
        assert len({rgb.shape for rgb in decoded}) == 1
        small = [to_pixel_values(rgb, SquareGeometry(side=100, mean=(0, 0, 0), std=(1, 1, 1))) for rgb in decoded]
        for path, values in zip(files, small, strict=True):  # small, as each file was compressed on its own
            assert np.abs(values - small[0]).mean() < 0.01, path


# --- transparency


def palette_picture(*alphas: int) -> Image.Image:
    picture = Image.new("P", (2, 1))
    picture.putpalette([255, 0, 0, 0, 0, 255])  # red, blue
    picture.putdata([0, 1])
    picture.info["transparency"] = bytes(alphas)
    return picture


def with_transparency(picture: Image.Image, key) -> Image.Image:
    picture.info["transparency"] = key
    return picture


WHITE, RED, BLUE, PINK, GREY, MID = (255,) * 3, (255, 0, 0), (0, 0, 255), (255, 127, 127), (100,) * 3, (177,) * 3
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


# --- sample depth and colour


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


@pytest.mark.parametrize("image", [
    Image.fromarray(np.ones((2, 2), np.float32)),               # white, if floats go to 1; black, if they go to 255
    Image.fromarray(np.array([[0, 255]], np.int32)),            # 8-bit levels, or an almost black 16-bit picture
    Image.fromarray(np.array([[0, 65536]], np.int32)),
    Image.fromarray(np.array([[-1, 300]], np.int32)),
    grey_tiff(12, 1, bytes(6), 2, 2),
    grey_tiff(16, 0, bytes(8), 2, 2),                           # zero means white, which Pillow overlooks at 16 bits
], ids=["float", "8 bits in 32", "17 bits in 32", "negative", "12-bit TIFF", "white-is-zero TIFF"])
def test_samples_of_unknown_range_are_refused_and_not_guessed(image):
    assert kind_of(image) == "unsupported"


def test_a_plain_16_bit_tiff_made_the_same_way_is_read():
    np.testing.assert_array_equal(decode_image(grey_tiff(16, 1, b"\0\x80" * 4, 2, 2)), np.full((2, 2, 3), 128))


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


def test_a_ycck_jpeg_keeps_its_colours(small):
    """Adobe stores the negative; as YCCK its first three channels are the negative's Y, Cb, Cr, and transform is 2."""
    negative = Image.fromarray(255 - np.asarray(small)).convert("YCbCr")
    channels = [channel.point(lambda v: 255 - v) for channel in negative.split()]  # saving inverts them once more
    data = bytearray(file_of(Image.merge("CMYK", [*channels, Image.new("L", small.size)]), "JPEG", quality=95))
    transform = data.index(b"Adobe") + 11
    assert data[transform] == 0
    data[transform] = 2
    assert np.abs(decode_image(bytes(data)).astype(int) - np.asarray(small)).mean() < 6


# --- several frames


@pytest.mark.parametrize("file_format", ["GIF", "WEBP", "PNG", "TIFF", "MPO"] + ["AVIF"] * features.check("avif"))
def test_of_several_frames_the_first_is_read(small, file_format):
    rest = [Image.new("RGB", small.size, RED), Image.new("RGB", small.size, BLUE)]
    options = {} if file_format in ("MPO", "TIFF") else {"duration": 100}
    data = file_of(small, file_format, save_all=True, append_images=rest, **options)
    assert Image.open(io.BytesIO(data)).n_frames == 3
    assert np.abs(decode_image(data).astype(int) - np.asarray(small)).mean() < 12  # grey levels; GIF has 256 colours


# --- limits, judged from the header


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
        "TIFF": grey_tiff(8, 1, b"\0", 60_000, 60_000),
    }
    assert webp[12:16] == b"VP8X"
    assert {name: kind_of(data) for name, data in bombs.items()} == dict.fromkeys(bombs, "too_large")


def test_the_limit_is_the_callers(small):
    data = file_of(small, "PNG")
    assert decode_image(data, max_pixels=96 * 64).shape == (64, 96, 3)
    for image in (data, small, np.asarray(small)):
        assert kind_of(image, max_pixels=96 * 64 - 1) == "too_large"


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


# --- files that are not what they should be


def test_a_path_without_a_readable_file_is_named(tmp_path):
    (tmp_path / "empty.jpg").touch()
    os.mkfifo(tmp_path / "pipe")
    cases = {"missing.jpg": "not_found", ".": "not_found", "empty.jpg": "empty", "empty.jpg/x": "not_found",
             "nul\0.jpg": "not_found", "x" * 300: "not_found", "pipe": "unreadable"}
    assert {name: kind_of(tmp_path / name) for name in cases} == cases
    with pytest.raises(ImageError, match=r"missing\.jpg: no such file"):
        read_bytes(tmp_path / "missing.jpg")


@pytest.mark.skipif(not os.path.exists("/proc/self/mem"), reason="needs a file that exists and fails on reading")
def test_a_file_that_fails_on_reading_is_unreadable():
    assert kind_of("/proc/self/mem") == "unreadable"


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read every file")
def test_a_file_without_permission_is_unreadable(tmp_path, small):
    path = tmp_path / "secret.png"
    path.write_bytes(file_of(small, "PNG"))
    path.chmod(0)
    assert kind_of(path) == "unreadable"


def test_a_huge_file_is_refused_before_it_is_read(tmp_path):
    path = tmp_path / "huge.tif"
    with path.open("wb") as file:
        file.truncate(MAX_FILE_BYTES + 1)  # sparse: takes no space
    assert kind_of(path) == "too_large"


def test_a_message_is_one_line_whatever_the_file_is_called(tmp_path):
    for name in ("two\nlines.jpg", os.fsdecode(b"latin\xe9.jpg")):
        with pytest.raises(ImageError) as caught:
            decode_image(tmp_path / name)
        assert str(caught.value).isprintable() and str(caught.value).encode()
        with pytest.raises(ImageError) as caught:
            decode_image(b"no image", name=name)
        assert str(caught.value).isprintable()


def test_a_message_names_the_image_the_finding_and_the_mend(tmp_path, small):
    path = tmp_path / "half.png"
    path.write_bytes(file_of(small, "PNG")[:3000])
    with pytest.raises(ImageError, match=r"half\.png: .*[Tt]runcated.*; fetch the file again"):
        decode_image(path)
    with pytest.raises(ImageError, match=r"^<bytes>: "):
        decode_image(b"no image")
    with pytest.raises(ImageError, match=r"^photos\.tar/7\.jpg: "):
        decode_image(b"no image", name="photos.tar/7.jpg")


NOT_IMAGES = {
    "zero bytes": (b"", "empty"),
    "text": (b"I am no JPEG, whatever my name says.\n", "not_an_image"),
    "one byte": (b"\xff", "not_an_image"),
    "HTML": (b"<!DOCTYPE html><html><body>404</body></html>", "not_an_image"),
    "zeros": (bytes(5000), "not_an_image"),
    "EPS": (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "unsupported"),
    "PDF": (b"%PDF-1.7\n", "unsupported"),
    "PSD": (b"8BPS\0\x01" + bytes(20), "unsupported"),
    "SVG": (b"<svg xmlns='http://www.w3.org/2000/svg'/>", "unsupported"),
    "JPEG XL": (b"\0\0\0\x0cJXL \r\n\x87\n", "unsupported"),
    "a PNG header alone": (b"\x89PNG\r\n\x1a\n", "truncated"),
    "a JPEG header alone": (b"\xff\xd8\xff\xe0", "truncated"),
    "a PNG of colour type 1": (png(1, 1, 8, 1, b"\0"), "bad_header"),
    "a PNG without width": (png(0, 1, 8, 2, None), "bad_header"),
    "a TIFF with no directory": (b"II*\0\x08\0\0\0", "bad_header"),
}


@pytest.mark.parametrize("data, kind", NOT_IMAGES.values(), ids=NOT_IMAGES)
def test_what_is_no_image_says_so(data, kind):
    assert kind_of(data) == kind


@pytest.mark.parametrize("file_format", ["JPEG2000", "ICO", "TGA", "PCX", "PPM", "SGI"])
def test_formats_outside_the_list_are_refused_though_pillow_knows_them(small, file_format):
    data = file_of(small, file_format)
    Image.open(io.BytesIO(data)).load()
    assert kind_of(data) in ("unsupported", "not_an_image")


@pytest.mark.skipif("HEIF" in Image.OPEN, reason="pillow-heif is registered here")
def test_heic_without_a_decoder_says_which_one_is_missing():
    with pytest.raises(ImageError, match="pillow_heif"):
        decode_image(b"\0\0\0\x18ftypheic\0\0\0\0mif1heic")


@pytest.mark.parametrize("file_format", WRITTEN)
def test_a_file_cut_off_anywhere_never_passes(small, file_format):
    data = file_of(small, file_format)
    kinds = {kind_of(data[:len(data) * percent // 100]) for percent in range(1, 100, 2)}
    assert "truncated" in kinds
    assert kinds <= {"truncated", "bad_header", "not_an_image"}  # TIFF keeps its header at the end; 1 % is no signature


def test_a_progressive_jpeg_cut_off_between_scans_never_passes(photos):
    data = file_of(Image.open(photos["astronaut.png"]), "JPEG", progressive=True)
    assert {kind_of(data[:len(data) * percent // 100]) for percent in range(10, 100, 10)} == {"truncated"}


def test_a_cut_off_file_does_not_pass_where_the_process_lets_pillow_fill_it_up(monkeypatch, small):
    monkeypatch.setattr(ImageFile, "LOAD_TRUNCATED_IMAGES", True)
    data = file_of(small, "JPEG")
    with pytest.raises(ImageError, match="LOAD_TRUNCATED_IMAGES"):
        decode_image(data[:len(data) // 2])
    assert decode_image(small).shape == (64, 96, 3)  # has its pixels already


def test_one_wrong_bit_in_the_pixels_of_a_png_is_found(small):
    data = bytearray(file_of(small, "PNG"))
    data[len(data) // 2] ^= 1
    assert kind_of(bytes(data)) == "bad_header"


def test_pngsuite_decodes_to_its_reference_and_its_corrupt_files_fail(shared_data):
    suite = shared_data("odd/pngsuite")
    wrong = []
    for path in sorted((suite / "png").glob("*.png")):
        try:
            rgb = decode_image(path)
        except ImageError as error:
            wrong += [] if path.name.startswith("x") else [f"{path.name}: {error}"]
            continue
        with Image.open(suite / "bmp" / f"{path.stem}.bmp") as bitmap:
            rgba = np.asarray(bitmap.convert("RGBA")).astype(float)
        alpha = rgba[:, :, 3:] / 255
        distance = np.abs(rgb - (rgba[:, :, :3] * alpha + 255 * (1 - alpha))).max()
        if path.name.startswith("x") or distance > 1:  # grey level: 16 bits may be rounded or cut to 8
            wrong.append(f"{path.name}: decoded, {distance:.1f} grey levels from its reference, 1 is allowed")
    assert not wrong


# --- arrays and PIL images


def test_an_array_is_taken_whatever_its_layout(small):
    rgb = np.asarray(small)
    layouts = {
        "column-major": np.asfortranarray(rgb),
        "channel by channel": np.ascontiguousarray(rgb.transpose(2, 0, 1)).transpose(1, 2, 0),
        "a window": np.pad(rgb, ((3, 3), (3, 3), (0, 0)))[3:-3, 3:-3],
        "a mirrored mirror": rgb[:, ::-1].copy()[:, ::-1],
        "BGR reversed": rgb[:, :, ::-1].copy()[:, :, ::-1],
    }
    for name, layout in layouts.items():
        layout.flags.writeable = False
        decoded = decode_image(layout)
        assert decoded.flags.c_contiguous and np.array_equal(decoded, rgb), name


@pytest.mark.parametrize("shape, dtype, hint", [
    ((8, 9, 3), np.float32, r"\(image \* 255\)"),
    ((3, 8, 9), np.uint8, r"transpose\(1, 2, 0\)"),
    ((3, 8, 9), np.float32, r"transpose\(1, 2, 0\).*\(image \* 255\)"),
    ((8, 9), np.uint8, r"np\.repeat"),
    ((8, 9, 1), np.uint8, r"np\.repeat"),
    ((8, 9, 4), np.uint8, r"alpha"),
    ((8, 9, 3), np.uint16, r">> 8"),
    ((8, 9, 3), np.int64, r"0\.\.255"),
    ((2, 8, 9, 3), np.uint8, r"one image at a time"),
    ((8, 9, 5), np.uint8, r"three channels"),
    ((), np.uint8, r"\(h, w, 3\) uint8"),
])
def test_an_array_of_another_shape_or_type_is_told_how_to_convert(shape, dtype, hint):
    with pytest.raises(ImageError, match=hint) as caught:
        decode_image(np.zeros(shape, dtype))
    assert caught.value.kind == "bad_shape"


def test_an_image_without_pixels_is_empty():
    for image in (np.zeros((0, 5, 3), np.uint8), Image.new("RGB", (0, 5)), Image.Image()):
        assert kind_of(image) == "empty"


def test_a_pil_image_is_left_as_it_was(photos):
    with Image.open(photos["china.jpg"]) as picture:
        size, info = picture.size, dict(picture.info)
        decode_image(picture, target_side=32)
        assert (picture.size, picture.mode, picture.info) == (size, "RGB", info)


def test_a_closed_pil_image_cannot_be_judged(tmp_path, small):
    closed = small.copy()
    closed.close()
    assert kind_of(closed) == "unreadable"
    path = tmp_path / "photo.png"
    small.save(path)
    with Image.open(path) as lazy:
        pass  # closed before a pixel was read
    assert kind_of(lazy) in ("unreadable", "corrupt")


def test_a_pil_image_of_a_cut_off_file_is_truncated(small):
    data = file_of(small, "JPEG")
    assert kind_of(Image.open(io.BytesIO(data[:len(data) // 2]))) == "truncated"


# --- reduced decoding


@pytest.mark.parametrize("target_side, scale", [
    (None, 1), (1000, 1), (107, 1), (106, 2), (54, 2), (53, 4), (27, 4), (26, 8), (1, 8),
])
def test_a_jpeg_is_never_decoded_below_twice_the_target(photos, target_side, scale):
    rgb = decode_image(photos["china.jpg"], target_side=target_side)  # 640 × 427
    assert rgb.shape == (-(-427 // scale), -(-640 // scale), 3)


def test_reduced_decoding_hardly_moves_the_models_input(photos):
    geometry = SquareGeometry(side=100, mean=(0, 0, 0), std=(1, 1, 1))
    for photo in ("china.jpg", "flower.jpg"):
        full = to_pixel_values(decode_image(photos[photo]), geometry)
        reduced = to_pixel_values(decode_image(photos[photo], target_side=100), geometry)
        assert 0 < np.abs(full - reduced).mean() < 0.01


def test_reduced_decoding_leaves_other_formats_and_orientation_alone(small):
    assert decode_image(file_of(small, "PNG"), target_side=4).shape == (64, 96, 3)
    exif = Image.Exif()
    exif[274] = 6
    assert decode_image(file_of(small, "JPEG", exif=exif), target_side=8).shape == (24, 16, 3)


# --- the process around it


def test_pillows_warnings_about_metadata_do_not_leak_and_the_filters_stay_as_they_were(small):
    data = file_of(small, "JPEG", exif=b"Exif\0\0II*\0\x08\0\0\0\x05\0")  # five entries promised, none there
    with pytest.warns(UserWarning, match="EXIF"):
        Image.open(io.BytesIO(data)).getexif()
    filters = list(warnings.filters)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert decode_image(data).shape == (64, 96, 3)
    assert warnings.filters == filters


def test_threads_decode_alike(photos, small):
    jobs = 6 * [photos["china.jpg"], photos["horse.png"], photos["camera.png"], file_of(small, "WEBP"), small, b"text"]
    filters = list(warnings.filters)
    barrier = threading.Barrier(4)

    def decode(share):
        barrier.wait()  # all at once
        return [digest(job) for job in share]

    def digest(job):
        try:
            return hashlib.sha256(decode_image(job)).hexdigest()
        except ImageError as error:
            return error.kind

    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(decode, [jobs] * 4)) == [[digest(job) for job in jobs]] * 4
    assert warnings.filters == filters


@pytest.mark.parametrize("file_format", WRITTEN)
def test_a_mutated_file_is_an_array_or_an_image_error(small, file_format):
    """Bounded and seeded; for PNG every second mutant gets right checksums, or none would get past them."""
    generator = random.Random(f"mutants of {file_format}")
    options = {"PNG": {"exif": b"Exif\0\0II*\0"}}.get(file_format, {})
    original = file_of(small.resize((24, 16)), file_format, **options)
    outcomes = set()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for number in range(60):
            mutant = mutate(original, generator)
            if file_format == "PNG" and number % 2:
                mutant = with_right_checksums(mutant)
            try:
                rgb = decode_image(mutant, max_pixels=1_000_000)
            except ImageError as error:
                outcomes.add(error.kind)
                assert error.kind in IMAGE_ERROR_KINDS
                assert str(error).startswith("<bytes>: ") and str(error).isprintable()
            else:
                outcomes.add("array")
                assert rgb.dtype == np.uint8 and rgb.ndim == 3 and rgb.shape[2] == 3 and rgb.flags.c_contiguous
    assert len(outcomes) > 1


def mutate(data: bytes, generator: random.Random) -> bytes:
    """One to eight bytes changed, mostly near an end (TIFF's header is last); at times a stretch too."""
    mutant = bytearray(data)
    for _ in range(generator.choice([1, 1, 2, 8])):
        position = generator.randrange(min(len(data), generator.choice([40, 200, len(data)])))
        mutant[generator.choice([position, position, -1 - position])] = generator.randrange(256)
    if generator.random() < 0.3:
        start, length = generator.randrange(len(mutant)), generator.randrange(1, 40)
        mutant[start:start + length] = generator.choice([b"", bytes(mutant[start:start + length]) * 2, b"\xff" * 20])
    return bytes(mutant)


def with_right_checksums(data: bytes) -> bytes:
    position, parts = 8, [data[:8]]
    while position + 12 <= len(data):
        length = int.from_bytes(data[position:position + 4])
        parts.append(png_chunk(data[position + 4:position + 8], data[position + 8:position + 8 + length]))
        position += 12 + length
    return b"".join(parts)


# --- the name of an image in a record


def test_a_file_is_named_by_its_bytes(photos):
    data = photos["flower.jpg"].read_bytes()
    assert image_sha256(photos["flower.jpg"]) == image_sha256(data) == hashlib.sha256(data).hexdigest()


def test_pixels_are_named_by_value_and_shape(small):
    rgb = np.asarray(small)
    assert image_sha256(small) == image_sha256(rgb) == image_sha256(np.asfortranarray(rgb))
    assert len({image_sha256(rgb), image_sha256(rgb.reshape(96, 64, 3)), image_sha256(255 - rgb)}) == 3


def test_what_cannot_be_read_has_no_name(tmp_path):
    with pytest.raises(ImageError) as caught:
        image_sha256(tmp_path / "missing.jpg")
    assert caught.value.kind == "not_found"
