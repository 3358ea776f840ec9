"""A guard that judges in microseconds, and small real pictures: enough for all that a scan does with them."""

from __future__ import annotations

import io
import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from image_files import file_of
from PIL import Image
from tiny_bundle import FILES, write_bundle

from safeguard_sdk import Bundle, Guard, Policy
from safeguard_sdk.engine import ImageEmbedding, Prefix
from safeguard_sdk.policy import Rule
from safeguard_sdk.scan.output import ScanFolder
from safeguard_sdk.scan.rows import Row

DARK = Policy("dark", "1", (Rule("dark", text="Nothing dark."), Rule("red", text="Nothing red.")))


class MeanEngine:
    """An engine whose embedding of an image is the mean of each channel, and whose scores are sums of these."""

    def __init__(self, bundle: Bundle) -> None:
        self.bundle = bundle

    def count_tokens(self, text: str) -> int:
        return len(text.split())

    def read(self, text: str) -> Prefix:
        return Prefix((), sum(map(ord, text)))

    def encode(self, pixel_values: np.ndarray) -> list[ImageEmbedding]:
        return [ImageEmbedding(one.mean(axis=(1, 2))[None]) for one in pixel_values]

    def pack(self, embedding: ImageEmbedding) -> bytes:
        return json.dumps(embedding.tokens.tolist()).encode()

    def unpack(self, packed: bytes) -> ImageEmbedding:
        return ImageEmbedding(np.array(json.loads(packed), np.float32))

    def score(self, prefix: Prefix, images: Sequence[ImageEmbedding]) -> np.ndarray:
        weights = np.cos(np.arange(1, 4) * prefix.length).astype(np.float32)
        logits = [float((image.tokens[0] * weights).sum()) for image in images]
        return np.array([[-logit, logit] for logit in logits], np.float32).reshape(-1, 2)


class MeanGuard(Guard):
    """A guard on a MeanEngine and a bundle of a few bytes, which `files` are."""

    def __init__(self, policy: Policy, folder: Path, files: dict[str, bytes] = FILES) -> None:
        folder.mkdir(exist_ok=True)
        self._stand_on(MeanEngine(Bundle.open(write_bundle(folder, files))), policy)


def pictures(photo: Path, count: int, side: int = 24) -> list[bytes]:
    """Different PNG files, cut out of one photo."""
    with Image.open(photo) as picture:
        picture = picture.convert("RGB")
    files = []
    for number in range(count):
        left = (number * 37) % (picture.width - side)
        top = (number * 61 + number // 7) % (picture.height - side)
        buffer = io.BytesIO()
        picture.crop((left, top, left + side, top + side)).save(buffer, "PNG")
        files.append(buffer.getvalue())
    return files


def animation(colours: list[str], side: int = 16) -> bytes:
    """A GIF with a frame of each colour."""
    frames = [Image.new("RGB", (side, side), colour) for colour in colours]
    return file_of(frames[0], "GIF", save_all=True, append_images=frames[1:], duration=50)


def write_folder(folder: Path, files: dict[str, bytes]) -> Path:
    for name, data in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(data)
    return folder


def rows_of(out: Path) -> list[Row]:
    """All rows of a scan, sorted: what two scans must have in common."""
    return sorted(ScanFolder.open(out).rows(), key=lambda row: row["id"])


def by_name(out: Path) -> dict[str, Row]:
    """Rows by the file's name or the member's; names must be unique."""
    rows = rows_of(out)
    named = {row["member"] or Path(row["path"]).name: row for row in rows}
    assert len(named) == len(rows)
    return named
