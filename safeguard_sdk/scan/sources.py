"""From what a person names on the command line to one item after the other: nothing is listed whole, nothing is lost.

A source is a folder, a glob, an image, a zip or tar archive, a parquet, CSV or JSONL table, a text file with a path on
each line, "-" for such a list on stdin, or a URL for fsspec. What cannot be read becomes an item with a failure.
"""

from __future__ import annotations

import glob
import os
import sys
import tarfile
import zipfile
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import BinaryIO

from safeguard_sdk.errors import ScanError
from safeguard_sdk.image.files import printable
from safeguard_sdk.scan.archives import tar_items, zip_items
from safeguard_sdk.scan.folders import folder_files
from safeguard_sdk.scan.item import URL, Item, failed
from safeguard_sdk.scan.names import HEAD_BYTES, Sieve, kind_of_name, looks_like_image, suffix_of
from safeguard_sdk.scan.tables import list_items, parquet_items, table_items

STDIN = "-"
OTHER_ARCHIVE = "is an archive of a kind that is not read here; unpack it and scan the folder"


class Sources:
    """All items of several sources, one source after the other.

    sources  as above; raises ScanError for one that does not exist
    column   of tables: which holds the image or its path; found by its name where None
    skip     a folder that is passed over wherever it is met: where the scan writes to
    videos   judge these too
    """

    def __init__(self, sources: Sequence[str], column: str | None = None, skip: str | Path | None = None,
                 videos: bool = False) -> None:
        self.sources, self.column = tuple(map(str, sources)), column
        self._skip = skip
        self._sieve = Sieve(videos)
        if not self.sources:
            raise ScanError("nothing to scan; name a folder, an archive or a list")
        for source in self.sources:
            if source == STDIN or URL in source or os.path.lexists(source):
                continue
            if not glob.has_magic(source):
                raise ScanError(f"{printable(source)}: no such file or folder; check the path, and quote a glob")
            if next(glob.iglob(source, recursive=True), None) is None:
                raise ScanError(f"{printable(source)}: no file or folder fits this glob; check the path")

    @property
    def skipped(self) -> Counter[str]:
        """How many files in folders and archives were passed over, by suffix; grows while items are read."""
        return self._sieve.passed

    def __iter__(self) -> Iterator[Item]:
        for source in self.sources:
            if source == STDIN:
                yield from map(reachable, list_items(sys.stdin.buffer, "<stdin>"))
            elif URL in source:
                from safeguard_sdk.scan.remote import remote_items
                yield from remote_items(source, self._opened, self._sieve)
            elif os.path.lexists(source):  # a name with a * in it may be a file's
                yield from self._named(source)
            else:
                yield from self._globbed(source)

    def count(self) -> int | None:
        """How many files there are, or None where only reading everything would tell."""
        kinds = [_kind_of_file(source) if source != STDIN and URL not in source and os.path.lexists(source) else None
                 for source in self.sources]
        if not all(kind in ("folder", "image") for kind in kinds):
            return None
        total = kinds.count("image")
        for source, kind in zip(self.sources, kinds, strict=True):
            for file in folder_files(source, self._skip) if kind == "folder" else ():
                found = kind_of_name(file) if isinstance(file, str) else "image"
                if found in ("zip", "tar", "parquet"):
                    return None
                total += found == "image"
        return total

    def _globbed(self, pattern: str) -> Iterator[Item]:
        for path in glob.iglob(pattern, recursive=True):
            if not os.path.isdir(path):
                yield from self._found(path)
            elif not pattern.endswith("**"):  # which names what is inside as well
                yield from self._folder(path)

    def _named(self, path: str) -> Iterator[Item]:
        """What a person has named is scanned, whatever it is called."""
        try:
            kind = _kind_of_file(path)
        except OSError as error:
            yield _unreadable(path, error)
            return
        if kind == "folder":
            yield from self._folder(path)
        elif kind == "list":
            yield from self._opened_file(path, lambda file: map(reachable, list_items(file, path)))
        elif kind == "table":
            yield from self._opened_file(path, lambda file: map(reachable, table_items(file, path, self.column)))
        else:
            yield from self._of_kind(path, kind)

    def _folder(self, path: str) -> Iterator[Item]:
        for found in folder_files(path, self._skip):
            if isinstance(found, Item):
                yield found
            else:
                yield from self._found(found)

    def _found(self, path: str) -> Iterator[Item]:
        """A file that nobody has named: passed over if it is neither an image nor an archive."""
        kind = kind_of_name(path)
        if kind == "parquet":  # beside photos, most hold captions and the like
            try:
                yield from self._opened_file(path, lambda file: parquet_items(file, path, self.column, named=False))
            except ScanError:  # no column with images
                self._sieve.passed[suffix_of(path)] += 1
            return
        if kind in ("zip", "tar", "other archive"):
            yield from self._of_kind(path, kind)
            return
        try:
            if self._sieve.takes(path, lambda: _head(path)):
                yield Item(path)
        except OSError as error:
            yield _unreadable(path, error)

    def _of_kind(self, path: str, kind: str | None) -> Iterator[Item]:
        if kind in ("zip", "tar", "parquet"):
            yield from self._opened_file(path, lambda file: self._opened(file, path, kind))
        elif kind == "other archive":
            yield failed(path, None, OTHER_ARCHIVE, "unsupported")
        else:
            yield Item(path)

    def _opened_file(self, path: str, items: Callable[[BinaryIO], Iterator[Item]]) -> Iterator[Item]:
        try:
            with open(path, "rb") as file:
                yield from items(file)
        except OSError as error:
            yield _unreadable(path, error)

    def _opened(self, file: BinaryIO, path: str, kind: str) -> Iterator[Item]:
        """The items of an archive or a parquet file that is open, wherever it lies."""
        if kind == "zip":
            yield from zip_items(file, path, self._sieve)
        elif kind == "tar":
            yield from tar_items(file, path, self._sieve)
        else:
            yield from map(reachable, parquet_items(file, path, self.column, named=True))


def reachable(item: Item) -> Item:
    """A list or a table may name files by URL."""
    if URL in item.path and item.data is None and item.failure is None:
        from safeguard_sdk.scan.remote import remote_item
        return remote_item(item.path)
    return item


def _unreadable(path: str, error: OSError) -> Item:
    return failed(path, None, f"cannot be read ({error.strerror}); see to its permissions", "unreadable")


def _kind_of_file(path: str) -> str:
    """ "folder", or as kind_of_name has it; for a name that tells nothing by the content, "image" being the rest."""
    if os.path.isdir(path):
        return "folder"
    if kind := kind_of_name(path):
        return kind
    if not os.path.isfile(path) or looks_like_image(_head(path)):
        return "image"
    if zipfile.is_zipfile(path):
        return "zip"
    return "tar" if tarfile.is_tarfile(path) else "image"


def _head(path: str) -> bytes:
    """The beginning of a file; of pipes and the like, where reading may never end, nothing."""
    if not os.path.isfile(path):
        return b""
    with open(path, "rb") as file:
        return file.read(HEAD_BYTES)
