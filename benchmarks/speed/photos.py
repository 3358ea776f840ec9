"""The photos that are judged: a folder's, or JPEG files made in memory from those of scikit-image and scikit-learn."""

from __future__ import annotations

import hashlib
import importlib.util
import io
import itertools
import time
from collections.abc import Iterator
from pathlib import Path

from PIL import Image

from safeguard_sdk import ImageError
from safeguard_sdk.image import decode_image
from safeguard_sdk.scan.names import IMAGES

SIDE, QUALITY = 384, 90  # pixels of the longer side of the sample photos, and of their JPEG
SAMPLES = {"skimage/data": ("astronaut.png", "chelsea.png", "coffee.png", "coins.png", "hubble_deep_field.jpg",
                            "motorcycle_left.png", "retina.jpg", "rocket.jpg"),
           "sklearn/datasets/images": ("china.jpg", "flower.jpg")}


def sample_photos() -> list[bytes]:
    """The same on every machine."""
    files = []
    for place, names in SAMPLES.items():
        package, _, folder = place.partition("/")
        spec = importlib.util.find_spec(package)
        if spec is None:
            raise ImageError(f"the sample photos come with {package}, which is not installed; install the extra demo, "
                             "or name a folder of your own: --images", "not_found")
        files += [_small_jpeg(Path(spec.origin).parent / folder / name) for name in names]
    return files


def read_folder(folder: Path) -> list[bytes]:
    """All image files of a folder, in the order of their names. Raises ImageError if there is none, or one cannot be
    decoded."""
    paths = [path for path in sorted(folder.glob("*")) if path.suffix.lower() in IMAGES]
    if not paths:
        raise ImageError(f"{folder}: holds no image files; name a folder of images", "not_found")
    for path in paths:
        decode_image(path)
    return [path.read_bytes() for path in paths]


def describe(files: list[bytes]) -> dict:
    digest = hashlib.sha256(b"".join(hashlib.sha256(file).digest() for file in files)).hexdigest()
    return {"count": len(files), "bytes": sum(map(len, files)), "sha256": digest}


def resized(file: bytes, side: int) -> bytes:
    """The same picture as a JPEG whose longer side has `side` pixels."""
    with Image.open(io.BytesIO(file)) as picture:
        scale = side / max(picture.size)
        size = (max(1, round(picture.width * scale)), max(1, round(picture.height * scale)))
        return to_jpeg(picture.convert("RGB").resize(size, Image.Resampling.LANCZOS), QUALITY)


def to_jpeg(picture: Image.Image, quality: int) -> bytes:
    """A JPEG file with 4:2:0 subsampling, as phones write it."""
    buffer = io.BytesIO()
    picture.save(buffer, "JPEG", quality=quality, subsampling="4:2:0")
    return buffer.getvalue()


def until(seconds: float, files: list[bytes]) -> Iterator[bytes]:
    """The files over and over, at least one, until the time is up."""
    end = time.perf_counter() + seconds
    for file in itertools.cycle(files):
        yield file
        if time.perf_counter() >= end:
            return


def _small_jpeg(path: Path) -> bytes:
    with Image.open(path) as photo:
        small = photo.convert("RGB")
    small.thumbnail((SIDE, SIDE))
    return to_jpeg(small, QUALITY)
