"""How a picture reaches a small language model: as the names of what is seen, each with its probability.

The vision graph of a tag bundle gives one probability per tag. Here the tags worth reading are chosen and turned into
tokens; a token carries the probability of its tag as a mixture of learnt embeddings. Training uses this same code.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np

# What is read of each kind of tag: how many at most, from which probability on.
LIMITS = {"class": (4, 0.03), "group": (3, 0.20), "head": (4, 0.10)}
GROUP_STEP = 2.5    # a second group must be this much wider or narrower than the first, or it says the same again
IMAGE_TOKENS = 48   # tokens a picture has at most
KNOTS = np.linspace(-4, 5, 10)  # logits of probability between which the learnt embeddings are mixed

Encode = Callable[[str], list[int]]  # text → token ids


@dataclass(frozen=True)
class TagTable:
    """The columns of the vision graph's output.

    names    what the language model reads: "acoustic guitar"
    kinds    "class" (ImageNet), "group" (a hypernym with the summed probability of its classes), "head" (learnt here)
    breadth  how many classes a group sums; 1 for the others
    """

    names: tuple[str, ...]
    kinds: tuple[str, ...]
    breadth: tuple[int, ...]

    @classmethod
    def read(cls, path: Path) -> TagTable:
        columns = json.loads(path.read_text(encoding="utf-8"))
        return cls(*(tuple(columns[key]) for key in ("names", "kinds", "breadth")))

    def write(self, path: Path) -> None:
        columns = {"names": self.names, "kinds": self.kinds, "breadth": self.breadth}
        path.write_text(json.dumps(columns, ensure_ascii=False), encoding="utf-8")

    def select(self, probabilities: np.ndarray) -> list[tuple[str, float]]:
        """(tags,) float in [0, 1] → the tags to read, the most probable first; a name is read once.

        Ties keep the order of the table, so the choice is the same on every machine.
        """
        chosen: dict[str, float] = {}
        for kind in LIMITS:
            for column in self._best(kind, probabilities):
                name, probability = self.names[column], float(probabilities[column])
                chosen[name] = max(probability, chosen.get(name, 0.0))
        return sorted(chosen.items(), key=lambda tag: -tag[1])

    def _best(self, kind: str, probabilities: np.ndarray) -> list[int]:
        most, least = LIMITS[kind]
        columns = self._columns[kind]
        columns = columns[probabilities[columns] >= least]
        worth = probabilities[columns] * self._information[columns]
        ranked = columns[np.argsort(-worth, kind="stable")]
        return self._spread(ranked, most) if kind == "group" else ranked[:most].tolist()

    def _spread(self, ranked: np.ndarray, most: int) -> list[int]:
        chosen: list[int] = []
        for column in ranked:
            widths = [self.breadth[column] / self.breadth[other] for other in chosen]
            if all(width >= GROUP_STEP or width <= 1 / GROUP_STEP for width in widths):
                chosen.append(int(column))
        return chosen[:most]

    @cached_property
    def _columns(self) -> dict[str, np.ndarray]:
        return {kind: np.array([i for i, k in enumerate(self.kinds) if k == kind], dtype=int) for kind in LIMITS}

    @cached_property
    def _information(self) -> np.ndarray:
        """(tags,) what a tag tells if true: a group of 3 classes says more than one of 300."""
        return np.log(1000 / np.array(self.breadth, dtype=float))


def image_tokens(tags: Sequence[tuple[str, float]], encode: Encode) -> tuple[np.ndarray, np.ndarray]:
    """Tags → token ids (n,) int64 and the probability of each token's tag (n,) float32, n <= IMAGE_TOKENS.

    " name," for each tag; a tag that does not fit whole is left out, so no name is cut to another one.
    """
    ids: list[int] = []
    probabilities: list[float] = []
    for _, probability, tokens in read_tags(tags, encode):
        ids += tokens
        probabilities += [probability] * len(tokens)
    return np.array(ids, dtype=np.int64), np.array(probabilities, dtype=np.float32)


def read_tags(tags: Sequence[tuple[str, float]], encode: Encode) -> Iterator[tuple[str, float, list[int]]]:
    """Name, probability and tokens of each tag that fits into IMAGE_TOKENS, in the order in which they are read."""
    taken = 0
    for name, probability in tags:
        tokens = encode(f" {name},")
        if taken + len(tokens) <= IMAGE_TOKENS:
            taken += len(tokens)
            yield name, probability, tokens


def knot_weights(probabilities: np.ndarray) -> np.ndarray:
    """(n,) probabilities → (n, knots) float32 weights, linear between the two nearest knots; each row sums to 1."""
    clipped = np.clip(probabilities.astype(np.float64), 1e-6, 1 - 1e-6)
    place = np.interp(np.log(clipped / (1 - clipped)), KNOTS, np.arange(len(KNOTS)))
    below = np.minimum(place.astype(int), len(KNOTS) - 2)
    weights = np.zeros((len(place), len(KNOTS)), dtype=np.float32)
    rows = np.arange(len(place))
    weights[rows, below], weights[rows, below + 1] = 1 - (place - below), place - below
    return weights
