"""Sweeps on a tiny bundle: what cannot be measured at a size is said, and the rest is measured."""

from __future__ import annotations

import pytest
import tiny_tags
from PIL import Image

from benchmarks.speed.photos import to_jpeg
from benchmarks.speed.sweeps import SIDES, image_size
from benchmarks.speed.systems import System
from safeguard_sdk import Bundle, Guard, Policy


@pytest.fixture(scope="module")
def system(tmp_path_factory) -> System:
    bundle = Bundle.open(tiny_tags.write(tmp_path_factory.mktemp("bundles") / "tiny"))
    return System("tiny", bundle, "onnx-cpu", Guard(Policy.packaged("L1"), bundle, threads=1))


@pytest.mark.parametrize("size, refused", [((1500, 10), [224]), ((1500, 12), [])])  # 224 × 1, and 224 × 2
def test_a_long_thin_photo_is_left_out_where_it_is_too_thin_to_be_judged(system, size, refused):
    rows = image_size(system, to_jpeg(Image.new("RGB", size), 90), seconds=0.01)
    assert sorted(row["side"] for row in rows) == list(SIDES)
    without = [row for row in rows if "not_measured" in row]
    assert [row["side"] for row in without] == refused
    assert all("the largest photo at 224 px: is 224 × 1" in row["not_measured"] for row in without)
