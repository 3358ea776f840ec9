"""What is done and what is known, on the disk beside the parts, so that memory does not grow with the archive.

The ledger holds nothing of its own: it is made anew from the parts whenever a scan begins, and thrown away at its end.
"""

from __future__ import annotations

import json
import sqlite3
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Generic, TypeVar

from safeguard_sdk.errors import ScanError
from safeguard_sdk.scan.item import Item
from safeguard_sdk.scan.pdq import Pdq
from safeguard_sdk.scan.rows import Row

CACHE_KIB = 16 << 10
Job = TypeVar("Job")


@dataclass(frozen=True, slots=True)
class Outcome:
    """What came of one content, whichever files hold it: a verdict's parts or a failure."""

    label: str | None
    score: float | None = None
    rule: str | None = None
    rules: dict[str, float] | None = None
    frame: int | None = None
    thumbnail: bytes | None = None
    failure_kind: str | None = None
    failure: str | None = None  # without the name that the message begins with
    pdq: Pdq | None = None


class Ledger(Generic[Job]):
    """For several threads."""

    def __init__(self, path: Path) -> None:
        for name in (path, path.with_name(path.name + "-journal")):
            name.unlink(missing_ok=True)
        self._lock = threading.Lock()
        self._path = path
        self._occurrences: Counter[tuple[int, str]] = Counter()  # (opening, member) that is repeated in it → how often
        self._waiting: dict[str, list[Job]] = {}                 # sha256 of what is being judged → who else has it
        with self._readable_errors():
            self._base = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
            self._base.executescript(f"""
                PRAGMA journal_mode = OFF; PRAGMA synchronous = OFF; PRAGMA cache_size = -{CACHE_KIB};
                PRAGMA locking_mode = EXCLUSIVE;
                CREATE TABLE done (id BLOB PRIMARY KEY, opening INTEGER) WITHOUT ROWID;
                CREATE TABLE outcome (sha256 BLOB PRIMARY KEY, facts TEXT, thumbnail BLOB) WITHOUT ROWID;
            """)

    def load(self, row: Row, outcome: Outcome | None) -> None:
        """Take notice of a finished row."""
        with self._lock, self._readable_errors():
            self._base.execute("INSERT OR IGNORE INTO done VALUES (?, 0)", (bytes.fromhex(row["id"]),))
            if outcome is not None and row["sha256"] is not None:
                self._store(row["sha256"], outcome)

    def claim(self, item: Item) -> bytes | None:
        """The identity of an item that is to be judged now, or None if it has its row or is claimed already.

        A name that an archive repeats is another item each time; an archive that is opened again has the same ones.
        """
        with self._lock, self._readable_errors():
            key = (item.opening, item.member)
            while True:
                identity = item.identity(self._occurrences[key] + 1)
                found = self._base.execute("SELECT opening FROM done WHERE id = ?", (identity,)).fetchone()
                if found is None:
                    self._base.execute("INSERT INTO done VALUES (?, ?)", (identity, item.opening))
                    return identity
                if item.member is None:
                    return None
                if found != (item.opening,):  # met in an earlier run or an earlier opening, and now in this one
                    self._base.execute("UPDATE done SET opening = ? WHERE id = ?", (item.opening, identity))
                    return None
                self._occurrences[key] += 1

    def claim_again(self, identity: bytes) -> bool:
        """Claim an identity that another scan has given; False if it has its row."""
        with self._lock, self._readable_errors():
            return self._base.execute("INSERT OR IGNORE INTO done VALUES (?, 0)", (identity,)).rowcount == 1

    def known(self, sha256: str, job: Job) -> Outcome | bool:
        """The outcome of this content; or True if it is being judged, and `job` now waits for it; or False, and then
        whoever asked has to `settle` it."""
        with self._lock, self._readable_errors():
            found = self._base.execute("SELECT facts, thumbnail FROM outcome WHERE sha256 = ?",
                                       (bytes.fromhex(sha256),)).fetchone()
            if found:
                facts = json.loads(found[0])
                return Outcome(**facts | {"pdq": facts["pdq"] and Pdq(*facts["pdq"])}, thumbnail=found[1])
            if sha256 in self._waiting:
                self._waiting[sha256].append(job)
                return True
            self._waiting[sha256] = []
            return False

    def settle(self, sha256: str, outcome: Outcome) -> list[Job]:
        """Remember an outcome; those that waited for it."""
        with self._lock, self._readable_errors():
            self._store(sha256, outcome)
            return self._waiting.pop(sha256)

    def close(self) -> None:
        """Also removes it from the disk."""
        with self._lock:  # whoever reads the sources may still be at it when a scan is interrupted
            self._base.close()
        self._path.unlink(missing_ok=True)

    def _store(self, sha256: str, outcome: Outcome) -> None:
        facts = {"label": outcome.label, "score": outcome.score, "rule": outcome.rule, "rules": outcome.rules,
                 "frame": outcome.frame, "failure_kind": outcome.failure_kind, "failure": outcome.failure,
                 "pdq": outcome.pdq}
        self._base.execute("INSERT OR IGNORE INTO outcome VALUES (?, ?, ?)",
                           (bytes.fromhex(sha256), json.dumps(facts), outcome.thumbnail))

    @contextmanager
    def _readable_errors(self) -> Iterator[None]:
        """A full disk is a ScanError."""
        try:
            yield
        except sqlite3.Error as error:
            raise ScanError(f"{self._path}: cannot be written ({error}); free some space on the disk and run the same "
                            "command again, it goes on from here") from error
