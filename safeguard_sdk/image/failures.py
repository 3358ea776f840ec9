"""However Pillow fails, the outcome is an ImageError with a stable kind; and what it warns of stays here."""

import re
import struct
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from safeguard_sdk.errors import ImageError
from safeguard_sdk.image.files import one_line

_REASONS = (  # what Pillow's messages give away; the first match wins
    (r"truncated|incomplete checksum|cannot load this image|broken PNG file \(chunk b'\w{0,3}'\)", "truncated"),
    (r"end of file|outside of file bounds|insufficient input data|cannot read full", "truncated"),  # libheif
    (r"exceeds limit", "too_large"),
    (r"unsupported|not supported|not implemented|cannot handle|unknown pixel mode|illegal conversion", "unsupported"),
    (r"closed image", "unreadable"),
)
_MENDS = {"truncated": "fetch the file again", "unsupported": "convert it to 8-bit JPEG or PNG",
          "too_large": "make it smaller", "unreadable": "pass an open image"}
_IGNORE_PILLOW = ("ignore", None, Warning, re.compile(r"PIL\."), 0)  # an entry of warnings.filters


@contextmanager
def as_image_error(name: str, what: str, kind: str) -> Iterator[None]:
    """Whatever is raised within comes out as an ImageError about the image `name`.

    what  could not be done: "its pixels cannot be decoded"
    kind  of the error, unless the exception says more
    Pillow documents no list of its exceptions; a dozen types have been seen on hostile files.
    """
    try:
        yield
    except ImageError:
        raise
    except Exception as error:
        raise _image_error(error, name, what, kind) from error


@contextmanager
def pillow_not_warning() -> Iterator[None]:
    """Pillow warns about broken metadata and large headers; here the outcome is an array or an ImageError.

    warnings.catch_warnings swaps the process-wide list of filters, which threads undo for each other; adding and taking
    away one entry is safe among threads.
    """
    filters = warnings.filters
    filters.insert(0, _IGNORE_PILLOW)
    try:
        yield
    finally:
        with suppress(ValueError):  # somebody reset the list meanwhile
            filters.remove(_IGNORE_PILLOW)


def _image_error(error: Exception, name: str, what: str, kind: str) -> ImageError:
    text = one_line(error)
    ends_early = (EOFError, IndexError, struct.error)
    if isinstance(error, MemoryError):
        text, kind = "not enough memory", "too_large"
    elif isinstance(error, ends_early) or isinstance(error.__cause__, ends_early):
        text, kind = "the data end too early", "truncated"
    else:
        kind = next((reason for pattern, reason in _REASONS if re.search(pattern, text, re.IGNORECASE)), kind)
    return ImageError(f"{name}: {what} ({text}); {_MENDS.get(kind, 'open it in an editor and save it again')}", kind)
