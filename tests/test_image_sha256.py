"""The name of an image in a record."""

import hashlib

import numpy as np
import pytest

from safeguard_sdk.errors import ImageError
from safeguard_sdk.image import image_sha256


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
