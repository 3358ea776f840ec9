"""Batches of images of one shape: engines that take images of many shapes run those of one together."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator

from safeguard_sdk.scan.channel import Channel
from safeguard_sdk.scan.job import Ready

LINGER_SECONDS = 0.05  # that the engine waits for a batch to fill
SHELVED = 2            # batches: as much as this may wait for others of its shape


def batches(ready: Channel[Ready], size: int) -> Iterator[list[Ready]]:
    """All that the channel brings, up to `size` of one shape at a time. Raises Stopped.

    An image waits for others of its shape only while there are others to judge, so the engine never waits for it.
    """
    shelves: defaultdict[tuple[int, ...], list[Ready]] = defaultdict(list)
    shelved = 0
    while True:
        taken = ready.take(size, patience=0.0) if shelves else ready.take(size, LINGER_SECONDS)
        if not taken and not shelves:
            return
        for one in taken:
            shelves[one.shape].append(one)
            shelved += one.weight
        shape = max(shelves, key=lambda shape: len(shelves[shape]))  # the oldest shelf of equally full ones
        if taken and len(shelves[shape]) < size and shelved < SHELVED * size:
            continue
        shelf = shelves.pop(shape)
        batch, rest = shelf[:size], shelf[size:]
        if rest:
            shelves[shape] = rest
        shelved -= sum(one.weight for one in batch)
        yield batch
        del taken, shelf, batch  # their pixels need not wait with this generator
