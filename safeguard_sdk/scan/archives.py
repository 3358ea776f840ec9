"""Zip and tar archives, read as streams: nothing is unpacked to the disk but archives within them, one level deep."""

from __future__ import annotations

import shutil
import tarfile
import tempfile
import zipfile
import zlib
from collections.abc import Iterator
from lzma import LZMAError
from typing import BinaryIO

from safeguard_sdk.image import MAX_FILE_BYTES
from safeguard_sdk.image.files import one_line
from safeguard_sdk.scan.item import INSIDE, Item, failed
from safeguard_sdk.scan.names import HEAD_BYTES, Sieve, kind_of_name

IN_MEMORY_BYTES = 32 << 20    # an archive within an archive is kept in memory up to here, and on the disk from here on
MAX_NESTED_BYTES = 64 << 30   # such an archive is refused from here on
OTHER_ARCHIVE = "is an archive of a kind that is not read here; unpack it and scan the folder"
READ_ERRORS = (zipfile.BadZipFile, tarfile.TarError, zlib.error, LZMAError, EOFError, OSError, RuntimeError,
               NotImplementedError, ValueError, OverflowError, MemoryError)  # RuntimeError: a password is needed


def zip_items(file: BinaryIO, path: str, sieve: Sieve, within: str | None = None) -> Iterator[Item]:
    """Items of a zip archive. Its directory is read whole: about 1 kB of memory for each entry.

    path    of the outermost archive
    within  the member of it that `file` is, for one level of nesting
    """
    try:
        archive = zipfile.ZipFile(file)
    except READ_ERRORS as error:
        yield broken(path, within, error)
        return
    for entry in archive.infolist():
        if entry.is_dir():
            continue
        member = _inside(within, entry.filename)
        try:
            with archive.open(entry) as content:
                yield from _member(content, entry.file_size, path, member, within is not None, sieve)
        except READ_ERRORS as error:
            yield broken(path, member, error)


def tar_items(file: BinaryIO, path: str, sieve: Sieve, within: str | None = None) -> Iterator[Item]:
    """Items of a tar archive, compressed or not, in one pass. Links, devices and pipes in it are passed over."""
    try:
        with tarfile.open(fileobj=file, mode="r|*", errors="surrogateescape", tarinfo=_Header) as archive:
            while (entry := archive.next()) is not None:
                archive.members.clear()  # tarfile keeps all headers
                if entry.isfile():
                    content = archive.extractfile(entry)
                    yield from _member(content, entry.size, path, _inside(within, entry.name), within is not None,
                                       sieve)
                elif not entry.isdir():
                    sieve.passed["a link or a device"] += 1
    except READ_ERRORS as error:  # what follows cannot be found any more
        yield broken(path, within, error)


class _Header(tarfile.TarInfo):
    """A header that is cut or broken, or missing where the end is not marked, is an error: tarfile takes each for the
    end of the archive, and nobody would know of what follows."""

    @classmethod
    def fromtarfile(cls, archive: tarfile.TarFile) -> tarfile.TarInfo:
        try:
            return super().fromtarfile(archive)
        except (tarfile.EmptyHeaderError, tarfile.TruncatedHeaderError, tarfile.InvalidHeaderError) as error:
            if archive.offset == 0:
                raise  # no tar at all, says tarfile
            raise tarfile.ReadError(f"the end is missing: {error}") from error


def _member(content: BinaryIO, size: int, path: str, member: str, nested: bool,
            sieve: Sieve) -> Iterator[Item]:
    """The item, or the items, of one member. `size` is what the archive says, which need not be true."""
    kind = kind_of_name(member)
    if kind in ("zip", "tar"):
        if nested:
            yield failed(path, member, "is an archive within an archive within an archive; unpack the outermost",
                         "unsupported")
        else:
            yield from _nested(content, path, member, kind, sieve)
        return
    if kind == "other archive":
        yield failed(path, member, OTHER_ARCHIVE, "unsupported")
        return
    head = content.read(HEAD_BYTES)
    if not sieve.takes(member, lambda: head):
        return
    data = head
    if size <= MAX_FILE_BYTES:
        data += content.read(MAX_FILE_BYTES + 1 - len(head))  # no more, whatever the archive says
    if max(size, len(data)) > MAX_FILE_BYTES:
        yield failed(path, member, f"has over {MAX_FILE_BYTES} bytes; make it smaller", "too_large")
    elif not data:
        yield failed(path, member, "has zero bytes; fetch the file again", "empty")
    else:
        yield Item(path, member, data)


def _nested(content: BinaryIO, path: str, member: str, kind: str, sieve: Sieve) -> Iterator[Item]:
    if kind == "tar":
        yield from tar_items(content, path, sieve, member)
        return
    with tempfile.SpooledTemporaryFile(IN_MEMORY_BYTES) as copy:  # the directory of a zip stands at its end
        shutil.copyfileobj(_Limited(content), copy)
        copy.seek(0)
        yield from zip_items(copy, path, sieve, member)


class _Limited:
    """A file that refuses to be longer than MAX_NESTED_BYTES."""

    def __init__(self, file: BinaryIO) -> None:
        self._file, self._left = file, MAX_NESTED_BYTES

    def read(self, size: int) -> bytes:
        data = self._file.read(size)
        self._left -= len(data)
        if self._left < 0:
            raise ValueError(f"it unpacks to over {MAX_NESTED_BYTES} bytes")
        return data


def _inside(within: str | None, name: str) -> str:
    return name if within is None else within + INSIDE + name


def broken(path: str, member: str | None, error: Exception) -> Item:
    """The failure of an archive, or of a member, for one of READ_ERRORS."""
    text = one_line(error)
    if isinstance(error, NotImplementedError):
        return failed(path, member, f"is packed in a way that is not read here ({text}); pack it again", "unsupported")
    if isinstance(error, RuntimeError):
        return failed(path, member, f"cannot be unpacked ({text}); unpack it and scan the folder", "unreadable")
    if isinstance(error, MemoryError):
        return failed(path, member, "does not fit into memory; unpack it", "too_large")
    ends_early = isinstance(error, EOFError) or "unexpected end" in text or "end of data" in text
    return failed(path, member, f"the archive is broken here ({text}); fetch it again",
                  "truncated" if ends_early else "corrupt")
