"""Offline on images of many shapes: a bundle of a Qwen-VL checkpoint of random weights."""

from __future__ import annotations

from pathlib import Path

import pytest
from PIL import Image
from tiny_qwen import write_checkpoint

from benchmarks.speed.offline import LEAST_SCANNED, scan_rate
from export.qwen.build import Order, export_qwen
from safeguard_sdk import Bundle, Guard, Policy

SIZES = {"chelsea.png": (84, 56), "coffee.png": (56, 84), "china.jpg": (140, 112)}  # (width, height)


@pytest.fixture(scope="module")
def small(photos, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("photos")
    for name, size in SIZES.items():
        with Image.open(photos[name]) as photo:
            photo.convert("RGB").resize(size).save(folder / f"{Path(name).stem}.png")
    return folder


def test_a_bundle_that_takes_images_of_many_shapes_is_scanned_as_any_other(small, tmp_path):
    checkpoint = write_checkpoint(tmp_path / "checkpoint", "qwen2_5_vl")
    export_qwen(Order(checkpoint, tmp_path / "bundle", "fp32", "safeguard-vl", gate_data=small, questions=2))
    guard = Guard(Policy.from_text("No weapons."), Bundle.open(tmp_path / "bundle"), threads=1)
    found = scan_rate(guard, [file.read_bytes() for file in sorted(small.iterdir())], expected=1.0, seconds=0.1)
    assert (found["images"], found["failed"]) == (LEAST_SCANNED, 0) and found["img_per_s"] > 0
