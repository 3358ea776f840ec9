"""Files as bytes, and names of files as one line of text."""

import errno
import os
import stat
from pathlib import Path

from safeguard_sdk.errors import ImageError

MAX_FILE_BYTES = 1 << 30  # 6 bytes (16-bit RGB, uncompressed) for each of MAX_PIXELS


def read_bytes(path: str | os.PathLike) -> bytes:
    """A whole file. Raises ImageError: not_found, unreadable (permissions, pipes, devices), too_large, empty."""
    name = printable(path)
    try:
        status = os.stat(path)
        if stat.S_ISDIR(status.st_mode):
            raise ImageError(f"{name}: is a folder; name a file in it", "not_found")
        if not stat.S_ISREG(status.st_mode):  # reading a pipe or /dev/zero may never end
            raise ImageError(f"{name}: is no regular file; copy its content into one", "unreadable")
        if status.st_size > MAX_FILE_BYTES:
            raise ImageError(f"{name}: has {status.st_size} bytes, over {MAX_FILE_BYTES}; make it smaller", "too_large")
        data = Path(os.fsdecode(path)).read_bytes()
    except OSError as error:
        if error.errno in (errno.ENOENT, errno.ENOTDIR, errno.ENAMETOOLONG):
            raise ImageError(f"{name}: no such file; check the path", "not_found") from error
        raise ImageError(f"{name}: cannot be read ({error.strerror}); see to its permissions", "unreadable") from error
    except ValueError as error:  # a NUL in the path
        raise ImageError(f"{name}: is no path ({error}); check it", "not_found") from error
    if not data:
        raise ImageError(f"{name}: has zero bytes; fetch the file again", "empty")
    return data


def one_line(error: BaseException) -> str:
    """What an error says, in one line; its type where it says nothing."""
    return " ".join(str(error).split()) or type(error).__name__


def printable(path: str | os.PathLike) -> str:
    """The path in one line: a name that is no text or holds line breaks is escaped."""
    text = os.fsdecode(path)
    return text if text.isprintable() else ascii(text)
