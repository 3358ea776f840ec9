"""Odd files of other people's making: each of them in the table below, with what becomes of it."""

from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from safeguard_sdk.errors import ImageError
from safeguard_sdk.image import decode_image

OUTCOMES = {  # folder → pattern → what becomes of its files; the first pattern that fits a file counts
    "exif-orientation": {"*.jpg": "array", "LICENSE": "not_an_image"},
    "pngsuite/png": {
        "xcrn0g04.png": "not_an_image", "xlfn0g04.png": "not_an_image",  # line ends in the signature were converted
        "xs?n0g01.png": "not_an_image",                                  # wrong bytes in the signature
        "xdtn0g01.png": "truncated",                                     # no pixels at all
        "x*.png": "bad_header",                                          # wrong checksums, colour types and depths
        "*.png": "array",
    },
    "pngsuite/bmp": {"*.bmp": "array"},
    "pngsuite/json": {"*": "not_an_image"},
    "pngsuite": {"PngSuite.png": "array", "*": "not_an_image"},
    "": {"*.md": "not_an_image"},
}


@pytest.mark.parametrize("folder", OUTCOMES)
def test_every_odd_file_comes_out_as_the_table_says(shared_data, folder):
    files = sorted(path for path in shared_data(f"odd/{folder}").iterdir() if path.is_file())
    wrong = [f"{path.name}: {outcome_of(path)}, expected {expected(path, folder)}" for path in files
             if outcome_of(path) != expected(path, folder)]
    assert files and not wrong


def test_no_folder_of_odd_files_is_left_out(shared_data):
    odd = shared_data("odd")
    folders = Counter(path.parent.relative_to(odd).as_posix() for path in odd.rglob("*") if path.is_file())
    assert set(folders) == {folder or "." for folder in OUTCOMES}


def expected(path: Path, folder: str) -> str:
    return next((outcome for pattern, outcome in OUTCOMES[folder].items() if path.match(pattern)), "not in the table")


def outcome_of(path: Path) -> str:
    try:
        rgb = decode_image(path)
    except ImageError as error:
        return error.kind
    return "array" if rgb.ndim == 3 and rgb.dtype == np.uint8 and rgb.size else f"an array of shape {rgb.shape}"


def test_pngsuite_decodes_to_its_reference_pixels(shared_data):
    suite = shared_data("odd/pngsuite")
    wrong = []
    for path in sorted((suite / "png").glob("[!x]*.png")):
        rgb = decode_image(path)
        with Image.open(suite / "bmp" / f"{path.stem}.bmp") as bitmap:
            rgba = np.asarray(bitmap.convert("RGBA")).astype(float)
        alpha = rgba[:, :, 3:] / 255
        distance = np.abs(rgb - (rgba[:, :, :3] * alpha + 255 * (1 - alpha))).max()
        if distance > 1:  # grey level: 16 bits may be rounded or cut to 8
            wrong.append(f"{path.name}: {distance:.1f} grey levels from its reference, 1 is allowed")
    assert not wrong


def test_one_photo_in_nine_orientations_comes_out_alike(shared_data):
    for scene in ("Landscape", "Portrait"):
        files = sorted(shared_data("odd/exif-orientation").glob(f"{scene}_*.jpg"))
        assert len(files) == 9
        decoded = [Image.fromarray(decode_image(path)) for path in files]
        assert len({picture.size for picture in decoded}) == 1
        small = [np.asarray(picture.resize((100, 100))).astype(int) for picture in decoded]
        for path, pixels in zip(files, small, strict=True):  # small, as each file was compressed on its own
            assert np.abs(pixels - small[0]).mean() < 2.5, path  # grey levels
