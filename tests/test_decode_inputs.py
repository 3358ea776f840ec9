"""A path, bytes, a PIL image or an array: one result, whatever way it comes in, and no trace of its decoding."""

import hashlib
import io
import threading
import warnings
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from image_files import LOSSLESS, LOSSY, WRITTEN, file_of, kind_of
from PIL import Image

from safeguard_sdk.errors import ImageError
from safeguard_sdk.image import decode_image

# What an image may be

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


# Arrays and PIL images

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
        decode_image(picture, target=lambda h, w: (32, 32))
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


# The process around it

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
