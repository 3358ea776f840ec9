"""One thing to judge, as a source finds it: a file, a member of an archive, a row of a table, or a failure."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable
from dataclasses import dataclass

from safeguard_sdk.errors import ImageError
from safeguard_sdk.image.files import printable
from safeguard_sdk.scan.names import kind_of_name

INSIDE = "!/"  # between an archive and its member, in messages
URL = "://"    # in what fsspec opens


@dataclass(frozen=True, slots=True)
class Item:
    """At most one of `data`, `load` and `failure` is set; with none of them, `path` is a local file, read where it is
    decoded.

    Names are text as `os.fsdecode` gives it: bytes that are not UTF-8 stand as lone surrogates.
    """

    path: str                                  # a file, an archive, a table or a URL, as the source names it
    member: str | None = None                  # within an archive or a table
    data: bytes | None = None                  # an archive's reader has them already
    load: Callable[[], bytes] | None = None    # fetches them from afar; raises ImageError
    failure: ImageError | None = None          # why there is nothing to read
    opening: int = 0                           # of its archive or table: another number each time one is read

    @property
    def name(self) -> str:
        """What messages call it, in one line."""
        return printable(self.path if self.member is None else self.path + INSIDE + self.member)

    @property
    def kind(self) -> str | None:
        """As kind_of_name tells it. Not by `name`, in which the end may be escaped."""
        return kind_of_name(self.path if self.member is None else self.member)

    def identity(self, occurrence: int = 1) -> bytes:
        """16 bytes that stand for path and member; an archive may hold a name several times, so these are counted."""
        parts = [raw_name(self.path), *([] if self.member is None else [raw_name(self.member)]), b"%d" % occurrence]
        key = b"".join(b"%d:%b," % (len(part), part) for part in parts)  # lengths: no two keys run together
        return hashlib.blake2b(key, digest_size=16).digest()


def raw_name(name: str) -> bytes:
    """The bytes of a name. Where it holds what no file name can, as strings in tables do, they are still its own."""
    try:
        return os.fsencode(name)
    except UnicodeEncodeError:
        return name.encode("utf-8", "surrogatepass")


def failed(path: str, member: str | None, problem: str, kind: str) -> Item:
    """An item of which only the failure is known. problem: "is …; do …" """
    name = Item(path, member).name
    return Item(path, member, failure=ImageError(f"{name}: {problem}", kind))
