"""Groups of hashes that differ in few bits, found exactly and without comparing each with each.

Multi-index hashing (Norouzi, Punjani and Fleet 2013, arXiv:1307.2982): of two hashes that differ in at most 31 of 256
bits, at least one of the 16 words of 16 bits differs in at most 1 bit; were it 2 in each, it would be 32 in all. So a
hash is compared with those alone that have one of its words, or that word with one bit turned. Of random hashes that is
one pair in 240: 16 words, in each 1 + 16 of the 2^16 there are. Each takes some nanoseconds, with no Python in between.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from safeguard_sdk.scan.pdq import BITS, MOST_DISTANCE

WORD = 16                 # bits
WORDS = BITS // WORD      # MOST_DISTANCE < 2 · WORDS is what the search rests on
PAIRS_AT_ONCE = 1 << 16   # are compared, in arrays that fit into the cache of a core


def groups_of(hashes: np.ndarray) -> np.ndarray:
    """Which hashes belong together: those that a chain of near ones connects, however the hashes are ordered.

    hashes   (n, 4) uint64
    returns  (n,) int32: for each the index of the first hash of its group
    """
    parents = np.arange(len(hashes), dtype=np.int32)
    for left, right in near_pairs(hashes):
        _join(parents, left, right)
    return _roots(parents, parents.copy())


def near_pairs(hashes: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """All pairs of hashes that differ in at most MOST_DISTANCE bits, some at a time and some of them repeatedly.

    hashes  (n, 4) uint64
    yields  two arrays of indices, (k,) int32
    """
    for word in range(WORDS):
        words = hashes.view(np.uint16)[:, word].astype(np.int32)
        order = np.argsort(words, kind="stable").astype(np.int32)
        words, lanes = words[order], [np.ascontiguousarray(hashes[order, lane]) for lane in range(4)]
        starts = np.searchsorted(words, np.arange((1 << WORD) + 1)).astype(np.int32)  # of each word's hashes here
        for left, right in _candidates(words, starts):
            near = _are_near(lanes, left, right)
            yield order[left[near]], order[right[near]]


def _candidates(words: np.ndarray, starts: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Pairs of places whose words are the same or differ in one bit, each pair once."""
    places = np.arange(len(words), dtype=np.int32)
    yield from _pairs(places, places + 1, starts[words + 1])
    for bit in range(WORD):
        lower = places[words & 1 << bit == 0]
        others = words[lower] | 1 << bit
        yield from _pairs(lower, starts[others], starts[others + 1])


def _pairs(places: np.ndarray, first: np.ndarray, end: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Each of `places` with each from its `first` up to its `end`."""
    counts = end - first
    ends = counts.cumsum(dtype=np.int64)
    row = done = 0
    while row < len(places):
        last = max(row + 1, int(np.searchsorted(ends, done + PAIRS_AT_ONCE, "right")))
        some = counts[row:last]
        offsets = (first[row:last] - (ends[row:last] - some - done)).astype(np.int32)  # from the number of a pair on
        yield np.repeat(places[row:last], some), np.repeat(offsets, some) + np.arange(some.sum(), dtype=np.int32)
        row, done = last, int(ends[last - 1])


def _are_near(lanes: list[np.ndarray], left: np.ndarray, right: np.ndarray) -> np.ndarray:
    """Indices of the pairs that differ in few bits; half of the bits rule out nearly all others."""
    first = np.bitwise_count(lanes[0][left] ^ lanes[0][right]) + np.bitwise_count(lanes[1][left] ^ lanes[1][right])
    near = np.flatnonzero(first <= MOST_DISTANCE)
    left, right = left[near], right[near]
    rest = np.bitwise_count(lanes[2][left] ^ lanes[2][right]) + np.bitwise_count(lanes[3][left] ^ lanes[3][right])
    return near[first[near] + rest <= MOST_DISTANCE]


def _join(parents: np.ndarray, left: np.ndarray, right: np.ndarray) -> None:
    """Make one group of the two of each pair: union-find, for many pairs at a time."""
    while len(left):
        left, right = _roots(parents, left), _roots(parents, right)
        apart = left != right
        left, right = left[apart], right[apart]
        parents[np.maximum(left, right)] = np.minimum(left, right)  # of several for one root the last; the others again


def _roots(parents: np.ndarray, members: np.ndarray) -> np.ndarray:
    """The root above each member, which stands right above it from now on."""
    roots = parents[members]
    while (parents[roots] != roots).any():
        roots = parents[roots]
    parents[members] = roots
    return roots
