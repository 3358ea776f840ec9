"""Mutants of small real files: each is an array of sane shape or an ImageError of a known kind, and nothing else ever.

Bounded and seeded, so what fails once fails again. More of them: make fuzz, or FUZZ_MUTANTS=20000 (of each file).
"""

import os
import random
import warnings
from collections.abc import Callable

import numpy as np
import pytest
from image_files import file_of, png_chunk, tiff
from PIL import Image, features

from safeguard_sdk.errors import IMAGE_ERROR_KINDS, ImageError
from safeguard_sdk.image import decode_image, jpeg

MUTANTS = int(os.environ.get("FUZZ_MUTANTS", "400"))  # of each file
MAX_PIXELS = 1_000_000
IMPOSSIBLE = {"not_found", "unreadable", "timeout", "crashed", "no_verdict"}  # kinds that bytes cannot have
EXTREMES = (0, 1, 0x7F, 0x80, 0xFF, 0x7FFF, 0xFFFF, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF)  # that lengths overflow at

EXIF = Image.Exif()
EXIF[274] = 6


def several(photo: Image.Image, file_format: str) -> bytes:
    return file_of(photo, file_format, save_all=True, append_images=[photo.rotate(180)])


FILES: dict[str, Callable[[Image.Image], bytes]] = {  # from a photo of 24 × 16 to a file; by what its decoder does
    "JPEG": lambda photo: file_of(photo, "JPEG", exif=EXIF),
    "JPEG, progressive": lambda photo: file_of(photo, "JPEG", progressive=True, subsampling="4:4:4"),
    "JPEG, CMYK": lambda photo: file_of(photo.convert("CMYK"), "JPEG"),
    "JPEG, grey, restarts": lambda photo: file_of(photo.convert("L"), "JPEG", restart_marker_rows=1),
    "JPEG, several": lambda photo: several(photo, "MPO"),
    "PNG": lambda photo: file_of(photo, "PNG", exif=EXIF),
    "PNG, palette": lambda photo: file_of(photo.quantize(16), "PNG", transparency=b"\0\x80"),
    "PNG, 16 bits": lambda photo: file_of(photo.convert("I;16"), "PNG"),
    "PNG, several": lambda photo: several(photo, "PNG"),
    "WEBP": lambda photo: file_of(photo, "WEBP", exif=EXIF),
    "WEBP, lossless": lambda photo: file_of(photo.convert("RGBA"), "WEBP", lossless=True),
    "WEBP, several": lambda photo: several(photo, "WEBP"),
    "GIF": lambda photo: several(photo, "GIF"),
    "BMP": lambda photo: file_of(photo, "BMP"),
    "BMP, palette": lambda photo: file_of(photo.quantize(16), "BMP"),
    "TIFF": lambda photo: file_of(photo, "TIFF", exif=EXIF),
    "TIFF, LZW": lambda photo: file_of(photo, "TIFF", compression="tiff_lzw"),
    "TIFF, JPEG": lambda photo: file_of(photo, "TIFF", compression="jpeg"),
    "TIFF, 16 bits": lambda photo: tiff(16, 1, photo.convert("I;16").tobytes(), *photo.size),
    **({"AVIF": lambda photo: file_of(photo, "AVIF", exif=EXIF)} if features.check("avif") else {}),
}


@pytest.mark.parametrize("name", FILES)
def test_a_mutated_file_is_an_array_or_an_image_error(small, name):
    generator = random.Random(f"mutants of {name}")
    photo = small.resize((24, 16))
    original, other = FILES[name](photo), FILES[name](photo.rotate(180).resize((31, 9)))
    outcomes = set()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for _ in range(MUTANTS):
            outcomes.add(outcome_of(mutate(original, other, generator)))
    assert len(outcomes) > 1


@pytest.mark.skipif(not jpeg.pillow_is_on_libjpeg_turbo(), reason="Pillow decodes all JPEGs here")
@pytest.mark.parametrize("name", [name for name in FILES if name.startswith("JPEG")])
def test_a_mutated_jpeg_comes_out_with_every_decoder_as_with_pillow_alone(small, monkeypatch, name):
    """Every pixel by simplejpeg, where it is installed; halves by our own decoder."""
    generator = random.Random(f"mutants of {name} for two decoders")
    original = FILES[name](small)
    for number in range(MUTANTS):
        mutant = mutate(original, original, generator)
        for side in (1000, 16):  # every pixel, and 1/2
            both = pixels_or_kind(mutant, side)
            with monkeypatch.context() as patch:
                patch.setattr(jpeg, "pillow_is_on_libjpeg_turbo", lambda: False)
                assert pixels_or_kind(mutant, side) == both, f"mutant {number}, {side} px"


def outcome_of(data: bytes) -> str:
    try:
        rgb = decode_image(data, max_pixels=MAX_PIXELS)
    except ImageError as error:
        assert error.kind in IMAGE_ERROR_KINDS and error.kind not in IMPOSSIBLE
        assert str(error).startswith("<bytes>: ") and str(error).isprintable()
        return error.kind
    assert rgb.dtype == np.uint8 and rgb.ndim == 3 and rgb.shape[2] == 3 and rgb.flags.c_contiguous
    assert 0 < rgb.shape[0] * rgb.shape[1] <= MAX_PIXELS
    return "array"


def pixels_or_kind(data: bytes, side: int) -> tuple | str:
    try:
        rgb = decode_image(data, max_pixels=MAX_PIXELS, target=lambda height, width: (side, side))
    except ImageError as error:
        return error.kind
    return rgb.shape, rgb.tobytes()


# --- mutation


def mutate(data: bytes, other: bytes, generator: random.Random) -> bytes:
    """One to three changes; of PNG every second mutant gets right checksums, or none would get past them."""
    for _ in range(generator.choice([1, 1, 2, 3])):
        change = generator.choice([flip_bits, set_bytes, set_length, cut, repeat, splice])
        data = change(bytearray(data), other, generator)
    return with_right_checksums(data) if data.startswith(b"\x89PNG") and generator.random() < 0.5 else data


def flip_bits(data: bytearray, other: bytes, generator: random.Random) -> bytes:
    for _ in range(generator.choice([1, 1, 8])):
        data[place(data, generator)] ^= 1 << generator.randrange(8)
    return bytes(data)


def set_bytes(data: bytearray, other: bytes, generator: random.Random) -> bytes:
    for _ in range(generator.choice([1, 2, 8])):
        data[place(data, generator)] = generator.randrange(256)
    return bytes(data)


def set_length(data: bytearray, other: bytes, generator: random.Random) -> bytes:
    """A field of two or four bytes, of either order, becomes extreme or nearly what it was."""
    size, order = generator.choice([2, 4]), generator.choice(["big", "little"])
    start = min(place(data, generator), max(len(data) - size, 0))
    nearly = int.from_bytes(data[start:start + size], order) + generator.choice([-1, 1])
    value = generator.choice([nearly, generator.choice(EXTREMES)]) % 256**size
    data[start:start + size] = value.to_bytes(size, order)
    return bytes(data)


def cut(data: bytearray, other: bytes, generator: random.Random) -> bytes:
    """At the end, or a stretch from the middle; a few bytes always remain."""
    start = generator.randrange(4, len(data)) if len(data) > 4 else 4
    return bytes(data[:start] + (data[start + generator.randrange(1, 40):] if generator.random() < 0.5 else b""))


def repeat(data: bytearray, other: bytes, generator: random.Random) -> bytes:
    start, length = place(data, generator), generator.randrange(1, 200)
    data[start:start] = data[start:start + length] * generator.choice([1, 1, 20])
    return bytes(data)


def splice(data: bytearray, other: bytes, generator: random.Random) -> bytes:
    """The header of one file on the body of another."""
    border = generator.randrange(4, min(len(other), 400))
    return other[:border] + bytes(data[border:])


def place(data: bytearray, generator: random.Random) -> int:
    """Mostly near an end: headers stand there, TIFF's at the last."""
    position = generator.randrange(min(len(data), generator.choice([40, 200, len(data)])))
    return generator.choice([position, position, len(data) - 1 - position])


def with_right_checksums(data: bytes) -> bytes:
    position, parts = 8, [data[:8]]
    while position + 12 <= len(data):
        length = int.from_bytes(data[position:position + 4])
        parts.append(png_chunk(data[position + 4:position + 8], data[position + 8:position + 8 + length]))
        position += 12 + length
    return b"".join(parts)
