"""Files that are reached through fsspec: S3, GCS, HTTP and what else it knows. Needs the extra `remote`."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, BinaryIO

from safeguard_sdk.errors import ImageError, ScanError
from safeguard_sdk.image import MAX_FILE_BYTES
from safeguard_sdk.image.files import one_line, printable
from safeguard_sdk.scan.archives import OTHER_ARCHIVE
from safeguard_sdk.scan.item import Item, failed
from safeguard_sdk.scan.names import Sieve, kind_of_name

if TYPE_CHECKING:
    from fsspec import AbstractFileSystem

OpenArchive = Callable[[BinaryIO, str, str], Iterator[Item]]  # (file, its URL, its kind) → items


def remote_items(url: str, opened: OpenArchive, sieve: Sieve) -> Iterator[Item]:
    """Items under a URL: a file, an archive, a folder or a glob. Raises ScanError if there is nothing to open it with.

    A file's bytes are fetched where it is decoded, several at a time; an archive is read as a stream.
    """
    system, path = _system(url)
    named = kind_of_name(path)
    try:
        if any(sign in path for sign in "*?["):
            files = iter(system.glob(path))
        elif named is None and system.isdir(path):
            files = (entry["name"] for _, _, entries in system.walk(path, detail=True) for entry in entries.values())
        else:
            files = iter([path])
        for file in files:
            yield from _file_items(system, file, opened, sieve, found=file != path)
    except ScanError:
        raise
    except Exception as error:  # each file system of fsspec raises its own
        yield failed(url, None, f"cannot be listed ({one_line(error)}); check the address and credentials",
                     "unreadable")


def remote_item(url: str) -> Item:
    """One file by its URL, as a list names it."""
    system, path = _system(url)
    return Item(url, load=lambda: _fetch(system, path, url))


def _file_items(system: AbstractFileSystem, path: str, opened: OpenArchive, sieve: Sieve,
                found: bool) -> Iterator[Item]:
    url, kind = system.unstrip_protocol(path), kind_of_name(path)
    if kind in ("zip", "tar", "parquet"):
        try:
            with system.open(path, "rb") as file:
                yield from opened(file, url, kind)
        except ScanError:
            raise
        except Exception as error:
            yield failed(url, None, f"cannot be read ({one_line(error)}); try again with --retry-failed", "unreadable")
    elif kind == "other archive":
        yield failed(url, None, OTHER_ARCHIVE, "unsupported")
    elif not found or sieve.takes(path, bytes):  # by its name: reading the beginning of each costs too much
        yield Item(url, load=lambda: _fetch(system, path, url))


def _fetch(system: AbstractFileSystem, path: str, url: str) -> bytes:
    name = printable(url)
    try:
        with system.open(path, "rb") as file:
            data = file.read(MAX_FILE_BYTES + 1)
    except Exception as error:
        reason = error.__cause__ or error  # fsspec has "no such file" for a server that does not answer, too
        if isinstance(reason, FileNotFoundError) or getattr(reason, "status", None) == 404:
            raise ImageError(f"{name}: no such file; check the address", "not_found") from error
        raise ImageError(f"{name}: cannot be fetched ({one_line(reason)}); try again with --retry-failed",
                         "unreadable") from error
    if len(data) > MAX_FILE_BYTES:
        raise ImageError(f"{name}: has over {MAX_FILE_BYTES} bytes; make it smaller", "too_large")
    return data


def _system(url: str) -> tuple[AbstractFileSystem, str]:
    try:
        import fsspec
    except ImportError as error:
        raise ScanError(f"{printable(url)}: URLs need fsspec; install it: pip install 'safeguard[remote]'") from error
    try:
        return fsspec.core.url_to_fs(url)
    except (ImportError, ValueError) as error:  # a protocol of its own package, or an unknown one
        raise ScanError(f"{printable(url)}: cannot be opened ({one_line(error)}); check the address, or install what "
                        "its protocol needs") from error
