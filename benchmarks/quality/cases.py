"""What a suite asks, and what a system answers."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Literal, Protocol

import numpy as np

if TYPE_CHECKING:
    from benchmarks.quality.systems.taxonomy import Taxonomy

Outcome = Literal["safe", "unsafe", "invalid", "failed"]


@dataclass(frozen=True, slots=True)
class Case:
    """One question and its answer: does this photo break this policy?"""

    id: str                # unique within its suite: "unsafebench:test:17"
    image: Path | bytes = field(repr=False)
    image_sha256: str      # of the file's bytes
    policy: str            # what a guard reads
    policy_name: str       # "UnsafeBench", "Policy L3", "v2"
    label: str             # the truth: "safe" or "unsafe"
    category: str = ""     # as the data have it; "" for none
    pair: str = ""         # cases that must all be right together share it; "" for none


@dataclass(frozen=True, slots=True)
class Judgement:
    """What a system says of one case. An answer that is neither safe nor unsafe is invalid: wrong, and shown apart."""

    label: Literal["safe", "unsafe", "invalid"]
    score: float | None = None  # that the photo breaks the policy, in [0, 1], where the system gives one
    text: str = ""              # as the system wrote it
    note: str = ""              # which categories, rules or parse led to it; why it is invalid


class CaseError(Exception):
    """A case that was not judged through no choice of the system; asking again may help."""

    def __init__(self, message: str, kind: str) -> None:
        super().__init__(message)
        self.kind = kind  # one stable word


class System(Protocol):
    facts: dict[str, object]    # what another run must share to go on with this one: weights, prompt, limits
    taxonomy: Taxonomy | None   # of its fixed categories; None for a system that reads policies
    concurrency: int            # how many cases may be judged at once, on threads

    def judge(self, case: Case, rgb: np.ndarray) -> Judgement:
        """rgb: (h, w, 3) uint8, upright. Raises CaseError; BenchmarkError where no case would be judged."""

    def close(self) -> None:
        """Free what it holds."""
