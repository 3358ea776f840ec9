"""Images of many shapes in a scan: batches of one shape each, room for what comes from a decoder, and pictures out of
patches. Scans with a bundle that takes them: test_qwen_bundle.py."""

from __future__ import annotations

import threading

import numpy as np
import pytest
from PIL import Image

from safeguard_sdk.image import PatchGeometry, decode_image, to_model_input
from safeguard_sdk.scan.batches import batches
from safeguard_sdk.scan.channel import Channel
from safeguard_sdk.scan.decoding import Prepared
from safeguard_sdk.scan.inputs import empty_input, picture_in, values_of
from safeguard_sdk.scan.item import Item
from safeguard_sdk.scan.job import FRAME_BYTES, Job, Ready

PATCHES = PatchGeometry(patch=14, min_pixels=56**2, max_pixels=168**2, mean=(0.48, 0.46, 0.41), std=(0.27, 0.26, 0.28))
WIDE, TALL, SQUARE = (1, 4, 6), (1, 6, 4), (1, 4, 4)  # grids


@pytest.mark.parametrize("size", [(84, 56), (56, 140), (123, 77)])  # the last is resized
def test_the_picture_in_patches_is_that_which_they_were_cut_from(photos, size):
    with Image.open(photos["coffee.png"]) as photo:
        rgb = np.asarray(photo.convert("RGB").resize(size))
    patches, grid = to_model_input(rgb, PATCHES)
    height, width = PATCHES.size_of(*rgb.shape[:2])
    picture = picture_in((patches, grid), PATCHES)
    assert picture.shape == (height, width, 3)
    if (width, height) == size:
        np.testing.assert_array_equal(picture, rgb)
    else:
        assert np.abs(picture - np.asarray(Image.fromarray(rgb).resize((width, height)), float)).mean() < 3


def test_there_is_room_for_exactly_what_an_image_becomes(photos):
    rgb = decode_image(photos["china.jpg"])
    made, room = to_model_input(rgb, PATCHES), empty_input(rgb.shape[:2], PATCHES)
    assert values_of(room).shape == values_of(made).shape and room[1] == made[1]


def ready(number: int, grid: tuple[int, int, int], nbytes: int = 0) -> Ready:
    prepared = Prepared((0,), ((28, 28),), ((np.zeros((1, 1), np.float32), grid),), None)
    return Ready(Job(Item(str(number)), b""), (0,), nbytes, prepared)


def batched(waiting: list[Ready], size: int) -> list[list[Ready]]:
    channel: Channel[Ready] = Channel(1 << 30)
    for one in waiting:
        channel.put(one)
    channel.close()
    return list(batches(channel, size))


def test_batches_hold_one_shape_each_and_nothing_is_lost():
    grids = [WIDE, TALL, SQUARE, WIDE, TALL, WIDE, WIDE, WIDE, TALL, WIDE, SQUARE, WIDE]
    found = batched([ready(number, grid) for number, grid in enumerate(grids)], size=3)
    assert all(len({one.shape for one in batch}) == 1 and len(batch) <= 3 for batch in found)
    assert sorted(int(one.job.item.path) for batch in found for one in batch) == list(range(12))
    assert sorted(map(len, found), reverse=True) == [3, 3, 3, 2, 1]  # 7 wide, 3 tall, 2 square


def test_what_waits_for_its_shape_is_bounded_in_bytes():
    """Sixteen shapes, one image each, of the weight of a batch: none waits for the others to come."""
    found = batched([ready(number, (1, 2, 2 * number), nbytes=16 * FRAME_BYTES) for number in range(1, 17)], size=16)
    assert [len(batch) for batch in found] == [1] * 16


def test_an_image_does_not_wait_for_others_that_are_not_there_yet():
    channel: Channel[Ready] = Channel(1 << 30)
    channel.put(ready(1, WIDE))
    found: list[list[Ready]] = []
    arrived = threading.Event()

    def judge() -> None:
        for batch in batches(channel, 16):
            found.append(batch)
            arrived.set()

    thread = threading.Thread(target=judge)
    thread.start()
    assert arrived.wait(20)  # though the channel is open
    channel.close()
    thread.join()
    assert [len(batch) for batch in found] == [1]
