"""What is no image, or not a whole one, is an ImageError that says why; never a picture, never another exception."""

import io
import os
import re
from pathlib import Path

import pytest
from image_files import WRITTEN, file_of, kind_of, png
from PIL import Image, ImageFile

from safeguard_sdk.errors import IMAGE_ERROR_KINDS, ImageError
from safeguard_sdk.image import MAX_FILE_BYTES, decode_image, read_bytes


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


def test_the_documentation_explains_every_kind_of_error():
    page = (Path(__file__).parents[1] / "docs/images.md").read_text(encoding="utf-8")
    kinds = page[page.index("## Kinds of errors"):page.index("## JPEG")]
    assert tuple(re.findall(r"^\| `(\w+)` \|", kinds, re.MULTILINE)) == IMAGE_ERROR_KINDS
