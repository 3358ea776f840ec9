"""HEIC, which iPhones write: read once pillow-heif is installed and registered."""

import io

import numpy as np
import pytest
from image_files import file_of, kind_of
from PIL import Image
from test_decode_orientation import STORED_AS

from safeguard_sdk.image import decode_image

pillow_heif = pytest.importorskip("pillow_heif", reason="pillow-heif is not installed")


@pytest.fixture(autouse=True)
def heif_opener(monkeypatch):
    """Registered for one test only: others say what happens without."""
    Image.init()  # or Pillow's own decoders would be registered in the copies
    for registry in ("OPEN", "MIME", "SAVE", "SAVE_ALL", "EXTENSION"):
        monkeypatch.setattr(Image, registry, dict(getattr(Image, registry)))
    monkeypatch.setattr(Image, "ID", list(Image.ID))
    pillow_heif.register_heif_opener()


def heic(picture: Image.Image, **options) -> bytes:
    return file_of(picture, "HEIF", quality=95, **options)


@pytest.mark.parametrize("orientation", STORED_AS)
def test_every_orientation_is_undone_and_only_once(small, orientation):
    """The file says it twice, in EXIF and in its own property irot or imir."""
    exif = Image.Exif()
    exif[274] = orientation
    stored = small if orientation == 1 else small.transpose(STORED_AS[orientation])
    rgb = decode_image(heic(stored, exif=exif.tobytes()))
    assert rgb.shape == (64, 96, 3)
    assert np.abs(rgb.astype(int) - np.asarray(small)).mean() <= 6  # grey levels; 40 and more if it is turned wrongly


def test_alpha_stands_on_white():
    rgb = decode_image(heic(Image.new("RGBA", (32, 32), (255, 0, 0, 128))))
    assert np.abs(rgb.astype(int) - (255, 127, 127)).max() <= 3


def test_the_thumbnail_in_a_file_is_not_taken_for_the_photo(small):
    photo = small.resize((480, 320))
    data = heic(photo, thumbnails=[128])
    with Image.open(io.BytesIO(data)) as picture:
        assert picture.draft("RGB", (64, 64))  # there is one, and Pillow would take it
    assert decode_image(data, target=lambda height, width: (32, 32), scaling="fast").shape == (320, 480, 3)


def test_a_file_cut_off_anywhere_never_passes(small):
    data = heic(small)
    kinds = {kind_of(data[:len(data) * percent // 100]) for percent in range(1, 100, 2)}
    assert "truncated" in kinds and kinds <= {"truncated", "not_an_image"}


def test_the_limit_holds_before_a_pixel_is_decoded(small):
    assert kind_of(heic(small), max_pixels=96 * 64 - 1) == "too_large"
