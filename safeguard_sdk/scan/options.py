"""How a scan is done, and how far it is."""

from __future__ import annotations

import os
import time
from dataclasses import dataclass, field

from safeguard_sdk.scan.decoding import Limits
from safeguard_sdk.scan.rows import FORMATS
from safeguard_sdk.verdict import LABELS


@dataclass(frozen=True, slots=True)
class Options:
    """Of these, `settings` belong to the rows, and a scan that goes on must have the same."""

    format: str = "parquet"            # or "jsonl"
    frames: int = 1                    # of an animation, at most: evenly spaced, the first among them
    shard: tuple[int, int] = (1, 1)    # (i, n): the i-th of n shares of the items, by the hash of their names
    thumbnails: bool = True            # of what is flagged, kept in the rows for the report
    cache_embeddings: bool = False     # for --rescan
    near_duplicates: bool = False      # also look for images that are nearly the same
    batch_size: int = 16
    workers: int = 0                   # decoding processes; 0 for one a core
    actors: int = 0                    # with Ray: guards, each in its own process; 0 for one a core, all but one
    limits: Limits = field(default_factory=Limits)
    max_rate: float | None = None      # images read a second, at most, by all workers together
    part_rows: int = 4096              # a part is written when it has this many rows …
    part_seconds: float = 60.0         # … or is this old: what a power failure can cost

    def __post_init__(self) -> None:
        share, of = self.shard
        if not 1 <= share <= of:
            raise ValueError(f"shard is {share}/{of}, must be from 1/{of} to {of}/{of}")
        if self.format not in FORMATS:
            raise ValueError(f"format is {self.format!r}, must be one of {', '.join(FORMATS)}")
        for name in ("frames", "batch_size", "part_rows"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}, must be at least 1")
        if not self.workers:
            object.__setattr__(self, "workers", usable_cores())

    @property
    def settings(self) -> dict:
        return {"format": self.format, "frames": self.frames, "shard": f"{self.shard[0]}/{self.shard[1]}",
                "thumbnails": self.thumbnails, "cache_embeddings": self.cache_embeddings,
                "near_duplicates": self.near_duplicates}


@dataclass
class Progress:
    """Counted while a scan runs; other threads may read it at any time."""

    total: int | None = None         # items, once it is known
    found: int = 0
    before: int = 0                  # rows of earlier runs
    labels: dict[str, int] = field(default_factory=lambda: dict.fromkeys((*LABELS, "failed"), 0))
    duplicates: int = 0              # judged by the verdict of an equal file
    engine_seconds: float = 0.0
    started: float = field(default_factory=time.monotonic)

    @property
    def rows(self) -> int:
        """Made in this run."""
        return sum(self.labels.values())

    @property
    def seconds(self) -> float:
        return time.monotonic() - self.started

    def add(self, label: str | None) -> None:
        self.labels[label or "failed"] += 1


def usable_cores() -> int:
    """That this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
