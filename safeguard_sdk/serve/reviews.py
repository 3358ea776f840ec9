"""What reviewers have decided, kept so that neither a crash nor a power failure loses a decision that was answered.

    OUT_DIR/review/reviews.jsonl     one line for each decision, the last about the file that the scan has read counts
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path

from safeguard_sdk.durable import sync_folder, write_durably
from safeguard_sdk.errors import ScanError
from safeguard_sdk.image.files import printable
from safeguard_sdk.scan.output import LOCK, Lock
from safeguard_sdk.scan.rows import Row

FOLDER, REVIEWS = "review", "reviews.jsonl"
DECISIONS = ("agree", "disagree", "unsure")


@dataclass(frozen=True, slots=True)
class Review:
    """One decision about one image of a scan."""

    id: str                    # of its row
    decision: str | None       # of DECISIONS; None takes an earlier one back
    broken: list[str] | None   # ids of all rules that the image does break; None if nobody can tell
    at: str                    # when, ISO 8601, UTC
    sha256: str | None = None  # of the file that was looked at; lines without it do not count

    @classmethod
    def now(cls, row: Row, decision: str | None, broken: list[str] | None) -> Review:
        return cls(row["id"], decision, broken, datetime.now(UTC).isoformat(timespec="seconds"), row["sha256"])


class Reviews:
    """The file of decisions, for one process at a time. Raises ScanError if another has it, or it cannot be read."""

    def __init__(self, scan: Path) -> None:
        self.folder = scan / FOLDER
        self._path = self.folder / REVIEWS
        try:
            self.folder.mkdir(exist_ok=True)
            sync_folder(scan)
            self._lock = _lock(self.folder)
        except OSError as error:
            raise ScanError(f"{printable(self.folder)}: cannot be written ({error.strerror}); reviews are kept there, "
                            "see to its permissions and the disk") from error
        try:
            self._mend()
        except BaseException:
            self._lock.release()
            raise

    def close(self) -> None:
        self._lock.release()

    def __iter__(self) -> Iterator[Review]:
        """In the order in which they were made. Raises ScanError naming the line that is none."""
        with open(self._path, encoding="utf-8") as file:
            for number, line in enumerate(file, start=1):
                try:
                    yield Review(**json.loads(line))
                except (ValueError, TypeError) as error:
                    raise ScanError(f"{printable(self._path)}, line {number}: is no review ({error}); mend or delete "
                                    "the line") from error

    def add(self, review: Review) -> None:
        """When this returns the review outlives a power failure. Raises OSError; then it is not kept. One at a time."""
        with open(self._path, "r+b") as file:
            end = file.seek(0, os.SEEK_END)
            try:
                file.write(json.dumps(asdict(review)).encode() + b"\n")
                file.flush()
                os.fsync(file.fileno())
            except OSError:
                os.ftruncate(file.fileno(), end)  # half a line would spoil the next
                raise

    def _mend(self) -> None:
        """A line that a power failure has cut off was never answered; it goes, so that the next begins a line."""
        if not self._path.exists():
            write_durably(self._path, b"")
            return
        with open(self._path, "r+b") as file:
            content = file.read()
            whole = content.rfind(b"\n") + 1
            if whole < len(content):
                file.truncate(whole)
                os.fsync(file.fileno())


def _lock(folder: Path) -> Lock:
    try:
        return Lock(folder / LOCK)
    except ScanError as error:
        raise ScanError(f"{printable(folder)}: another `safeguard serve --review` has these reviews open; end it, or "
                        "use its page") from error
