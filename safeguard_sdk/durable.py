"""Files that survive a power failure: there whole or not at all."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO


def write_durably(path: Path, data: bytes) -> None:
    """Write a file that is there whole or not at all, and is on the disk when this returns."""
    with open_durably(path) as file:
        file.write(data)


@contextmanager
def open_durably(path: Path) -> Iterator[BinaryIO]:
    """A file to write, which is there, whole and on the disk, when the context ends without an error."""
    new = path.with_name(f"{path.name}.new")
    try:
        with open(new, "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(new, path)
    except BaseException:
        new.unlink(missing_ok=True)  # on a full disk, half a file takes the space that mending it needs
        raise
    sync_folder(path.parent)


def sync_folder(path: Path) -> None:
    """Bring names to the disk; the content is another matter."""
    if os.name == "nt":  # which cannot open folders, and orders these writes itself
        return
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
