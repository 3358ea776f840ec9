"""One schema for all data: a photo, a policy in words, and whether the photo breaks it."""

from __future__ import annotations

import hashlib
import os
import random
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from safeguard_sdk.errors import ImageError
from safeguard_sdk.image import image_sha256
from training.errors import TrainingError

LABELS = ("safe", "unsafe")


@dataclass(frozen=True, slots=True)
class Row:
    """One question and its answer."""

    image: Path          # an image file, as it was published
    image_sha256: str    # of its bytes: rows of one photo share it, whatever the file is called
    policy: str          # what a model reads, to the letter
    policy_name: str     # what the rows of one policy share: "default", "Policy L3", "shop/weapons"
    label: str           # "safe" or "unsafe"
    category: str | None  # as the data have it; no sign of a violation: LlavaGuard gives one to safe photos, too
    source: str          # name in DATASETS, and the row in it: "llavaguard:smid_12_v3_a"

    def __post_init__(self) -> None:
        if self.label not in LABELS:
            raise TrainingError(f"{self.source}: its label is {self.label!r}, must be 'safe' or 'unsafe'")
        if not isinstance(self.policy, str) or not self.policy.strip():
            raise TrainingError(f"{self.source}: its policy is {self.policy!r:.40}, must be text")


def balanced(rows: Sequence[Row], seed: int) -> list[Row]:
    """As many safe rows as unsafe ones, in the order of `rows`, of which there is one at least.

    Photos that stand under policies of both kinds keep as many rows of either, so that for each of them the verdict can
    be told by the policy alone; what they have beyond that, and photos of one kind, fill up until one label runs out.
    raises  TrainingError if all rows have one label: a reward that never disagrees teaches nothing
    """
    rng = random.Random(seed)
    by_photo: dict[str, dict[str, list[int]]] = defaultdict(lambda: {label: [] for label in LABELS})
    for number, row in enumerate(rows):
        by_photo[row.image_sha256][row.label].append(number)
    kept: list[int] = []
    spare: dict[str, list[int]] = {label: [] for label in LABELS}
    for numbers in by_photo.values():
        both = min(map(len, numbers.values()))
        for label in LABELS:
            rng.shuffle(numbers[label])
            kept += numbers[label][:both]
            spare[label] += numbers[label][both:]
    for label in LABELS:
        rng.shuffle(spare[label])
        kept += spare[label][:min(map(len, spare.values()))]
    if not kept:
        raise TrainingError(f"all {len(rows)} rows are {rows[0].label}; add photos or policies with the other verdict")
    return [rows[number] for number in sorted(kept)]


def photo_sha256(path: Path, source: str) -> str:
    """Of the bytes of an image file. Raises TrainingError naming the row if there is no such file."""
    try:
        return image_sha256(path)
    except ImageError as error:
        raise TrainingError(f"{source}: {error}") from error


def stored_photo(data: object, folder: Path, place: str) -> tuple[Path, str]:
    """Keep a photo that a table embeds as a file of its own, named by its hash, in `folder`; each photo once.

    data  of the column `image` in the row `place`. Raises TrainingError if it is not the bytes of a file
    """
    if not isinstance(data, bytes):
        raise TrainingError(f"{place}: its image is {data!r:.40}, must be the bytes of a file; fetch the table again")
    digest = hashlib.sha256(data).hexdigest()
    path = folder / digest
    try:
        if not path.is_file():
            folder.mkdir(parents=True, exist_ok=True)
            beside = folder / f"{digest}.{os.getpid()}.partial"
            beside.write_bytes(data)
            beside.replace(path)
    except OSError as error:
        raise TrainingError(f"{path}: cannot be written ({error.strerror}); the photos of a table are kept beside it, "
                            "so its folder must be writable") from error
    return path, digest
