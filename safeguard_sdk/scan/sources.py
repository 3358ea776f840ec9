"""From what a person names on the command line to one item after the other: nothing is listed whole, nothing is lost.

A source is a folder, a glob, an image, a zip or tar archive, a parquet, CSV or JSONL table, a text file with a path on
each line, "-" for such a list on stdin, or a URL for fsspec. What cannot be read becomes an item with a failure.
"""

from __future__ import annotations

import glob
import os
import tarfile
import zipfile
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import BinaryIO

from safeguard_sdk.errors import ScanError
from safeguard_sdk.image.files import printable
from safeguard_sdk.scan.archives import OTHER_ARCHIVE, READ_ERRORS, broken, tar_items, zip_items
from safeguard_sdk.scan.folders import folder_files
from safeguard_sdk.scan.item import URL, Item, failed
from safeguard_sdk.scan.names import HEAD_BYTES, Sieve, kind_of_name, looks_like_image, suffix_of
from safeguard_sdk.scan.tables import list_items, parquet_items, table_items

STDIN = "-"
STDIN_FILE = 0  # its descriptor


class Sources:
    """All items of several sources, one source after the other.

    sources  as above; raises ScanError for one that does not exist
    column   of tables: which holds the image or its path; found by its name where None
    skip     a folder that is passed over wherever it is met: where the scan writes to
    videos   judge these too

    retried  paths of failures that are tried again; those that are read to their end without one are taken out
    """

    def __init__(self, sources: Sequence[str], column: str | None = None, skip: str | Path | None = None,
                 videos: bool = False) -> None:
        self.sources, self.column = tuple(map(str, sources)), column
        self.retried: set[str] = set()
        self._skip = skip
        self._sieve = Sieve(videos)
        self._openings = 0
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
                # A thread that waits in the buffer of sys.stdin holds its lock, and an interpreter that ends wants it.
                with open(os.dup(STDIN_FILE), "rb", buffering=0) as file:
                    yield from self._opened(file, "<stdin>", "list")
            elif URL in source:
                from safeguard_sdk.scan.remote import remote_items
                yield from self._gone_through(source, remote_items(source, self._opened, self._sieve))
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
        skip = None if self._skip is None else os.path.join(os.path.realpath(self._skip), "")
        for path in glob.iglob(pattern, recursive=True):
            if skip is not None and os.path.realpath(path).startswith(skip):
                continue
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
        except READ_ERRORS as error:
            yield broken(path, None, error)
            return
        if kind == "folder":
            yield from self._folder(path)
        elif kind in ("list", "table", "parquet"):
            yield from self._opened_file(path, kind)
        else:
            yield from self._of_kind(path, kind)

    def _folder(self, path: str) -> Iterator[Item]:
        for found in folder_files(path, self._skip, self.retried.discard):
            if isinstance(found, Item):
                yield found
            else:
                yield from self._found(found)

    def _found(self, path: str) -> Iterator[Item]:
        """A file that nobody has named: passed over if it is neither an image nor an archive."""
        kind = kind_of_name(path)
        if kind == "parquet":  # beside photos, most hold captions and the like
            try:
                yield from self._opened_file(path, kind, named=False)
            except ScanError:  # no column with images
                self._sieve.passed[suffix_of(path)] += 1
                self.retried.discard(path)
            return
        if kind in ("zip", "tar", "other archive"):
            yield from self._of_kind(path, kind)
            return
        try:
            if self._sieve.takes(path, lambda: _head(path)):
                yield Item(path)
            else:
                self.retried.discard(path)
        except OSError as error:
            yield _unreadable(path, error)

    def _of_kind(self, path: str, kind: str | None) -> Iterator[Item]:
        if kind in ("zip", "tar"):
            yield from self._opened_file(path, kind)
        elif kind == "other archive":
            yield failed(path, None, OTHER_ARCHIVE, "unsupported")
        else:
            yield Item(path)

    def _opened_file(self, path: str, kind: str, named: bool = True) -> Iterator[Item]:
        try:
            with open(path, "rb") as file:
                yield from self._opened(file, path, kind, named)
        except OSError as error:
            yield _unreadable(path, error)

    def _opened(self, file: BinaryIO, path: str, kind: str, named: bool = True) -> Iterator[Item]:
        """The items of an archive, a table or a list that is open, wherever it lies."""
        if kind == "zip":
            items = zip_items(file, path, self._sieve)
        elif kind == "tar":
            items = tar_items(file, path, self._sieve)
        elif kind == "list":
            items = map(reachable, list_items(file, path))
        elif kind == "table":
            items = map(reachable, table_items(file, path, self.column))
        else:
            items = parquet_items(file, path, self.column, named)
            items = map(reachable, items) if named else items
        self._openings += 1
        opening = self._openings
        for item in self._gone_through(path, items):
            yield replace(item, opening=opening)

    def _gone_through(self, path: str, items: Iterable[Item]) -> Iterator[Item]:
        """The items as they are; at their end `path` counts as read, unless one of them is a failure of its own."""
        whole = True
        for item in items:
            whole = whole and not (item.failure is not None and (item.path, item.member) == (path, None))
            yield item
        if whole:
            self.retried.discard(path)


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
