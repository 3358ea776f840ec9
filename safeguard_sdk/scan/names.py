"""What a file is, judged by its name and first bytes: an image, an archive, a table, or nothing to scan."""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field

from PIL import Image

from safeguard_sdk.image.header import FORMATS

HEAD_BYTES = 32  # what the signatures of all formats need

# Also those that are not read here: a photo that cannot be judged is a failure, not something to pass over.
IMAGES = frozenset((
    ".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".apng", ".webp", ".gif", ".bmp", ".dib", ".tif", ".tiff", ".avif",
    ".heic", ".heif", ".hif", ".mpo", ".jxl", ".jp2", ".j2k", ".psd", ".ico", ".tga", ".svg", ".dng", ".cr2", ".cr3",
    ".nef", ".arw", ".orf", ".rw2", ".raf"))
ZIPS = (".zip", ".cbz")
TARS = (".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tbz2", ".tar.xz", ".txz")
OTHER_ARCHIVES = (".rar", ".cbr", ".7z", ".tar.zst", ".tzst", ".tar.lz4")
VIDEOS = (".mp4", ".m4v", ".mov", ".mkv", ".webm", ".avi", ".mpg", ".mpeg")
PARQUETS = (".parquet",)
TABLES = (".csv", ".tsv", ".jsonl", ".ndjson")
LISTS = (".txt", ".list", ".lst")
KINDS = {"zip": ZIPS, "tar": TARS, "other archive": OTHER_ARCHIVES, "parquet": PARQUETS, "video": VIDEOS,
         "table": TABLES, "list": LISTS}


@dataclass
class Sieve:
    """Decides on files that nobody has named; counts, by suffix, those that are passed over."""

    videos: bool = False
    passed: Counter[str] = field(default_factory=Counter)

    def takes(self, name: str, head: Callable[[], bytes]) -> bool:
        """Whether a file is to be judged. head  gives its first HEAD_BYTES, if the name does not tell"""
        kind = kind_of_name(name)
        if kind == "image" or kind == "video" and self.videos or kind is None and looks_like_image(head()):
            return True
        self.passed[suffix_of(name)] += 1
        return False


def kind_of_name(name: str) -> str | None:
    """ "image", a key of KINDS, or None if the name tells nothing."""
    lower = name.lower()
    for kind, suffixes in KINDS.items():
        if lower.endswith(suffixes):
            return kind
    return "image" if suffix_of(lower) in IMAGES else None


def suffix_of(name: str) -> str:
    """ ".jpg" for "a/B.JPG", "" for a name without one."""
    return os.path.splitext(re.split(r"[/\\]", name)[-1].lower())[1]


def looks_like_image(head: bytes) -> bool:
    """Whether the first HEAD_BYTES of a file are those of a format that is read here."""
    Image.init()
    accepts = (Image.OPEN[name][1] for name in FORMATS if name in Image.OPEN)
    return any(accept is not None and accept(head) is True for accept in accepts)
