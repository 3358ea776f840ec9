"""The queue between two stages of a scan: bounded by weight, closed from one side, stopped from either."""

from __future__ import annotations

import threading
import time

import pytest

from safeguard_sdk.scan.channel import Channel, Stopped


def started(work) -> threading.Thread:
    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    return thread


def test_what_is_put_is_taken_in_order_and_nothing_after_the_close():
    channel = Channel(10)
    for number in range(5):
        channel.put(number)
    channel.close()
    assert channel.take(3) == [0, 1, 2] and not channel.over
    assert channel.take(3) == [3, 4] and channel.over
    assert channel.take() == []


def test_put_waits_while_the_channel_is_full_and_what_is_heavier_than_all_passes_alone():
    channel = Channel(4)
    channel.put("heavy", weight=9)
    waiting = started(lambda: channel.put("light"))
    waiting.join(0.1)
    assert waiting.is_alive()
    assert channel.take() == ["heavy"]
    waiting.join(5)
    assert not waiting.is_alive() and channel.take() == ["light"]


def test_take_lingers_for_others_and_no_longer():
    channel = Channel(10)
    channel.put(1)
    started(lambda: (time.sleep(0.05), channel.put(2)))
    began = time.monotonic()
    assert channel.take(3, linger=0.5) == [1, 2]
    assert 0.4 < time.monotonic() - began < 5


def test_take_gives_nothing_when_its_patience_ends():
    assert Channel(1).take(patience=0.05) == []


@pytest.mark.parametrize("full", [False, True], ids=["to take", "to put"])
def test_whoever_waits_is_told_of_the_stop(full):
    channel = Channel(1)
    if full:
        channel.put(1)
    told = threading.Event()

    def wait():
        with pytest.raises(Stopped):
            channel.put(2) if full else channel.take()
        told.set()

    started(wait)
    time.sleep(0.05)
    channel.stop()
    assert told.wait(5)
