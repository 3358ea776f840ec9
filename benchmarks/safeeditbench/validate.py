"""Whether a table of the benchmark can be trusted: pairs, labels, duplicates, leakage from training data.

What makes a score wrong is an error; what people should look at is a note. Near duplicates are found by PDQ, a
perceptual hash of 256 bits (Meta 2019); two photos are near if their hashes differ in at most 31 bits, the threshold
that its authors recommend, and if both are of a quality that can be compared.
"""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np
import pdqhash

from benchmarks.errors import BenchmarkError
from benchmarks.safeeditbench.rows import Row
from safeguard_sdk.image import decode_image, read_bytes
from training.datasets.safeedit import LEVELS

NEAR_BITS = 31      # of 256
MIN_QUALITY = 50    # of 0 to 100: below it a photo has too little structure for its hash to mean anything
SHOWN = 5           # examples in a message
SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".gif", ".bmp", ".tif", ".tiff")


@dataclass(frozen=True, slots=True)
class Finding:
    kind: str       # a stable word for programs
    error: bool     # a score on these rows would be wrong; otherwise a note
    count: int
    message: str


@dataclass(frozen=True, slots=True)
class Report:
    rows: dict[str, int]        # by policy
    unsafe: dict[str, float]    # by policy: share of its rows
    findings: tuple[Finding, ...]

    @property
    def sound(self) -> bool:
        return not any(finding.error for finding in self.findings)


@dataclass(frozen=True, slots=True)
class Prints:
    """Fingerprints of photos."""

    names: list[str]
    sha256: list[str]
    bits: np.ndarray     # (photos, 256) float32, -1 or 1
    clear: np.ndarray    # (photos,) bool: of a quality that can be compared


def validate(rows: Sequence[Row], training: Path | None = None) -> Report:
    """Look for everything that makes scores on these rows wrong or doubtful. Raises BenchmarkError, ImageError.

    training  a folder of photos that guards were trained on; copies and near copies of them are leakage
    """
    photos = {row.photo: row.image for row in rows}
    pair_of = {row.photo: row.pair for row in rows}
    prints = fingerprints(photos)
    found = [*_bytes(rows), *_questions(rows), *_halves(rows), *_worse(rows), *_strictness(rows),
             *_copies(prints, pair_of)]
    if training is not None:
        found += _leaks(prints, fingerprints(_files(training)))
    names = sorted({row.policy_name for row in rows})
    of = {name: [row.label for row in rows if row.policy_name == name] for name in names}
    return Report({name: len(labels) for name, labels in of.items()},
                  {name: round(labels.count("unsafe") / len(labels), 4) for name, labels in of.items()}, tuple(found))


def fingerprints(photos: dict[str, bytes] | dict[str, Path]) -> Prints:
    """Of photos by name. Raises ImageError for one that cannot be decoded: no guard could judge it, either."""
    sha256, bits, quality = [], [], []
    for name, source in photos.items():
        data = source if isinstance(source, bytes) else read_bytes(source)
        hashed, quality_of = pdqhash.compute(decode_image(data, name=name))
        sha256.append(hashlib.sha256(data).hexdigest())
        bits.append(hashed)
        quality.append(quality_of)
    return Prints(list(photos), sha256, np.array(bits, np.float32).reshape(-1, 256) * 2 - 1,
                  np.array(quality) >= MIN_QUALITY)


def near(one: Prints, other: Prints) -> list[tuple[int, int, int]]:
    """(row of one, row of other, bits that differ) of all that are near."""
    if not (one.names and other.names):
        return []
    distance = ((256 - one.bits @ other.bits.T) / 2).round().astype(int)
    close = (distance <= NEAR_BITS) & one.clear[:, None] & other.clear[None]
    return [(int(row), int(column), int(distance[row, column])) for row, column in zip(*np.nonzero(close), strict=True)]


def _bytes(rows: Sequence[Row]) -> list[Finding]:
    versions: dict[str, set[bytes]] = defaultdict(set)
    texts: dict[str, set[str]] = defaultdict(set)
    for row in rows:
        versions[row.photo].add(row.image)
        texts[row.policy_name].add(row.policy)
    return [*_finding("photo_differs", True, [name for name, data in versions.items() if len(data) > 1],
                      "names stand for several photos"),
            *_finding("policy_differs", True, [name for name, text in texts.items() if len(text) > 1],
                      "policies have several texts")]


def _questions(rows: Sequence[Row]) -> list[Finding]:
    labels: dict[tuple[str, str], list[str]] = defaultdict(list)
    for row in rows:
        labels[row.photo, row.policy_name].append(row.label)
    twice = {f"{photo} under {policy}": given for (photo, policy), given in labels.items() if len(given) > 1}
    return [*_finding("contradiction", True, [name for name, given in twice.items() if len(set(given)) > 1],
                      "questions are answered with safe and with unsafe"),
            *_finding("repeated", False, [name for name, given in twice.items() if len(set(given)) == 1],
                      "questions stand there more than once and count more than once")]


def _halves(rows: Sequence[Row]) -> list[Finding]:
    roles: dict[tuple[str, str], set[str]] = defaultdict(set)
    for row in rows:
        roles[row.pair, row.policy_name].add(row.role)
    return _finding("half_a_pair", False, [f"{pair} under {policy} (no {'edit' if 'original' in found else 'original'})"
                                           for (pair, policy), found in roles.items() if len(found) < 2],
                    "pairs lack a half; pair accuracy leaves them out")


def _worse(rows: Sequence[Row]) -> list[Finding]:
    labels = {(row.pair, row.policy_name, row.role): row.label for row in rows}
    return _finding("edit_is_worse", False,
                    [f"{pair} under {policy}" for (pair, policy, role), label in labels.items()
                     if role == "edited" and label == "unsafe" and labels.get((pair, policy, "original")) == "safe"],
                    "edits are unsafe where their photos are safe; were the labels swapped?")


def _strictness(rows: Sequence[Row]) -> list[Finding]:
    """A photo that is unsafe at a level should be so at every stricter one, L1 being the mildest. Policies need not be
    nested, so it is a note."""
    labels: dict[str, dict[str, str]] = defaultdict(dict)
    for row in rows:
        if row.policy_name in LEVELS:
            labels[row.photo][row.policy_name] = row.label
    broken = []
    for photo, by_level in labels.items():
        for (level, label), (stricter, next_label) in pairwise(sorted(by_level.items())):
            if (label, next_label) == ("unsafe", "safe"):
                broken.append(f"{photo} is unsafe under {level} and safe under {stricter}")
    return _finding("not_monotone", False, broken, "times a stricter policy allows what a milder one forbids")


def _copies(prints: Prints, pair_of: dict[str, str]) -> list[Finding]:
    """Copies within the table. A photo and its edit are near by design; if they are the same, nothing was edited."""
    by_hash: dict[str, list[str]] = defaultdict(list)
    for name, digest in zip(prints.names, prints.sha256, strict=True):
        by_hash[digest].append(name)
    same = [" = ".join(names) for names in by_hash.values() if len(names) > 1]
    alike = [f"{prints.names[one]} ~ {prints.names[other]} ({bits} bits)" for one, other, bits in near(prints, prints)
             if one < other and pair_of[prints.names[one]] != pair_of[prints.names[other]]
             and prints.sha256[one] != prints.sha256[other]]
    return [*_finding("same_photo", True, same, "photos stand under several names"),
            *_finding("near_duplicate", False, alike, "photos of different pairs are nearly the same")]


def _leaks(prints: Prints, training: Prints) -> list[Finding]:
    known = dict(zip(training.sha256, training.names, strict=True))
    copies = {name: known[digest] for name, digest in zip(prints.names, prints.sha256, strict=True) if digest in known}
    alike = {prints.names[one]: f"{prints.names[one]} ~ {training.names[other]} ({bits} bits)"
             for one, other, bits in near(prints, training) if prints.names[one] not in copies}
    return [*_finding("leak", True, [f"{name} = {file}" for name, file in copies.items()],
                      "photos are among the training data"),
            *_finding("near_leak", True, list(alike.values()), "photos are nearly the same as a training photo")]


def _files(folder: Path) -> dict[str, Path]:
    files = {str(path.relative_to(folder)): path for path in sorted(folder.rglob("*"))
             if path.suffix.lower() in SUFFIXES and path.is_file()}
    if not files:
        raise BenchmarkError(f"{folder}: holds no photos ({', '.join(SUFFIXES)}); name the folder of the training data")
    return files


def _finding(kind: str, error: bool, examples: Sequence[str], what: str) -> list[Finding]:
    if not examples:
        return []
    more = f", and {len(examples) - SHOWN} more" if len(examples) > SHOWN else ""
    return [Finding(kind, error, len(examples), f"{len(examples)} {what}: {', '.join(examples[:SHOWN])}{more}")]
