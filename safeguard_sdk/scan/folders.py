"""The files of a folder tree, found while they are read: a folder with millions of entries is never listed whole."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path

from safeguard_sdk.scan.item import Item, failed


def folder_files(root: str, skip: str | Path | None = None,
                 read: Callable[[str], None] = lambda folder: None) -> Iterator[str | Item]:
    """Paths of all files under `root`, in the order of the file system, and an item for each folder that fails.
    The folder `skip` is passed over. `read` is told of each folder that could be read to its end.

    Links are followed. Each real folder is read once, whichever way leads there, so links in circles end.
    """
    seen: set[tuple[int, int]] = set()  # device and inode of folders only
    if skip is not None and os.path.exists(skip):
        status = os.stat(skip)
        seen.add((status.st_dev, status.st_ino))
    pending = [root]
    while pending:
        folder = pending.pop()
        try:
            status = os.stat(folder)
            if (status.st_dev, status.st_ino) not in seen:
                seen.add((status.st_dev, status.st_ino))
                with os.scandir(folder) as entries:
                    for entry in entries:
                        if _is_folder(entry):
                            pending.append(entry.path)
                        else:
                            yield entry.path
            read(folder)
        except OSError as error:
            yield failed(folder, None, f"is a folder that cannot be read ({error.strerror}); see to its permissions",
                         "unreadable")


def _is_folder(entry: os.DirEntry) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link to itself: a file that cannot be read, which its reader will say
        return False
