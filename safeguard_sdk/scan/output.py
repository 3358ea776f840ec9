"""The output folder: parts that are whole or absent, and a manifest that names them, whenever the power fails.

    scan.json        what the scan is: hashes, settings; written first
    manifest.jsonl   one line for each finished part, with its sha256; a part without a line does not count
    parts/           part-00000001.parquet …
    embeddings/      likewise, with --cache-embeddings
    summary.json  report.html    written at the end
    duplicates.parquet           likewise, with --near-duplicates
    retried.parquet              failures from before, while --retry-failed tries them again

A part is written under another name, brought to the disk, renamed; then its line is written and brought to the disk.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import sqlite3
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from itertools import chain
from pathlib import Path

from safeguard_sdk.bundle import file_sha256
from safeguard_sdk.durable import sync_folder, write_durably
from safeguard_sdk.errors import ScanError
from safeguard_sdk.image.files import printable
from safeguard_sdk.scan.rows import FORMATS, Hashes, Row, record_of, schema

FORMAT = 1
SCAN, MANIFEST, LOCK, SUMMARY, REPORT = "scan.json", "manifest.jsonl", "lock", "summary.json", "report.html"
PARTS, EMBEDDINGS, DUPLICATES, RETRIED = "parts", "embeddings", "duplicates", "retried"
ADDED_SETTINGS = {"near_duplicates": False}  # and what goes for a scan that an older version has begun without them


@dataclass(frozen=True)
class Part:
    """One line of the manifest."""

    file: str                # within parts/
    rows: int
    sha256: str
    policy_sha256: str
    bundle_sha256: str
    prompt_sha256: str
    embeddings_sha256: str | None = None  # of the file of the same number within embeddings/


class ScanFolder:
    """A folder that one scan writes to at a time. Use as a context; raises ScanError for whatever is wrong with it."""

    def __init__(self, path: Path, parts: list[Part], facts: dict, lock: Lock | None) -> None:
        self.path, self.parts, self.facts = path, parts, facts
        self.hashes = Hashes(**facts["hashes"])
        self.format = FORMATS[facts["settings"]["format"]]
        self._lock = lock

    @classmethod
    def begin(cls, path: Path, facts: dict, must_be_new: bool = False) -> ScanFolder:
        """Make the folder, or take up the scan in it, if it is the same one. A folder that is refused stays as it is;
        any other is an unfinished scan from here on, so whatever else may be refused comes before.

        facts        {"hashes": …, "settings": …, …}; hashes and settings must equal those that are there. Parts that
                     are damaged are put aside, and what no manifest names is removed, so that their rows are made again
        must_be_new  whether a folder with rows is refused too
        """
        with disk_errors(path):
            path.mkdir(parents=True, exist_ok=True)
            if not (path / SCAN).exists() and any(entry.name not in (LOCK, f"{SCAN}.new") for entry in path.iterdir()):
                raise ScanError(f"{printable(path)}: holds files of something else; name a new or an empty folder")
            lock = Lock(path / LOCK)
            try:
                facts = {"format": FORMAT, **facts}
                if (path / SCAN).exists():
                    _expect_same(path, _read_facts(path), facts)
                else:
                    write_durably(path / SCAN, json.dumps(facts, indent=1).encode())
                for name in (PARTS, EMBEDDINGS):
                    (path / name).mkdir(exist_ok=True)
                sync_folder(path)
                folder = cls(path, _read_manifest(path), facts, lock)
                if must_be_new and folder.parts:
                    raise ScanError(f"{printable(path)}: holds rows already; name a new folder")
                for file in (path / SUMMARY, folder.duplicates_file):  # they tell of a finished scan
                    file.unlink(missing_ok=True)
                folder._put_damaged_aside()
                folder._remove_strays()
                folder.put_failures_back()
            except BaseException:
                lock.release()
                raise
            return folder

    @classmethod
    def open(cls, path: Path) -> ScanFolder:
        """Open a folder to read it; nothing in it is changed."""
        if not (path / SCAN).is_file():
            raise ScanError(f"{printable(path)}: is not the output of a scan, it has no {SCAN}; name a folder that "
                            "`safeguard scan --out` has written")
        with disk_errors(path):
            return cls(path, _read_manifest(path), _read_facts(path), None)

    @classmethod
    def open_finished(cls, path: Path) -> ScanFolder:
        """Open a folder to read all rows of a scan. Raises ScanError where some are still to come, or a part is not
        what its line says."""
        folder = cls.open(path)
        if read_summary(path) is None:
            raise ScanError(f"{printable(path)}: is not finished, it has no {SUMMARY}; run its scan again first")
        with disk_errors(path):
            for part in folder.parts:
                if not folder._is_whole(part):
                    raise ScanError(f"{printable(path / PARTS / part.file)}: is damaged or missing; run its scan "
                                    "again, which makes its rows anew")
        return folder

    def __enter__(self) -> ScanFolder:
        return self

    def __exit__(self, *_: object) -> None:
        if self._lock is not None:
            self._lock.release()

    def rows(self, columns: Sequence[str] | None = None) -> Iterator[Row]:
        """All rows, part by part; a few at a time in memory."""
        for part in self.parts:
            yield from self.format.read(self.path / PARTS / part.file, columns)

    def add(self, rows: list[Row], embeddings: bytes | None = None) -> None:
        """Write rows as one part; when this returns they outlive a power failure."""
        with disk_errors(self.path):
            part = self._write_part(rows, embeddings)
            with open(self.path / MANIFEST, "ab") as manifest:
                manifest.write(_line(part))
                manifest.flush()
                os.fsync(manifest.fileno())
            sync_folder(self.path)
            self.parts.append(part)

    def take_failures_out(self) -> set[str]:
        """Take all failure rows out of the parts, so that they are tried again; returns the paths in them.

        `put_failures_back` knows the rows still, even if the power fails meanwhile.
        """
        with disk_errors(self.path):
            failures = [list(filter(_failed, self._rows_of(part))) for part in self.parts]
            rows = list(chain.from_iterable(failures))
            write_durably(self._retried_file, self._table(rows))
            for number, part in enumerate(self.parts):
                if not failures[number]:
                    continue
                embeddings = self.embeddings_file(part).read_bytes() if part.embeddings_sha256 else None
                kept = [row for row in self._rows_of(part) if not _failed(row)]
                self.parts[number] = self._write_part(kept, embeddings)
                self.write_manifest()
            self._remove_strays()
            return {record_of(row).path for row in rows}

    def put_failures_back(self, paths: Collection[str] | None = None) -> None:
        """Failures that were taken out and that nobody has tried again are failures still.

        paths  of these alone, as the others have been gone through and are whole now; None for all
        """
        with disk_errors(self.path):
            if not self._retried_file.exists():
                return
            retried = {row["id"]: row for row in self.format.read(self._retried_file)}
            for row in self.rows(["id"]):
                retried.pop(row["id"], None)
            still = [row for row in retried.values() if paths is None or record_of(row).path in paths]
            if still:
                self.add(still)
            self._retried_file.unlink()

    def write_manifest(self) -> None:
        write_durably(self.path / MANIFEST, b"".join(map(_line, self.parts)))

    def embeddings_file(self, part: Part) -> Path:
        return self.path / EMBEDDINGS / f"{Path(part.file).stem}.parquet"

    @property
    def duplicates_file(self) -> Path:
        return self.path / f"{DUPLICATES}{self.format.suffix}"

    @property
    def _retried_file(self) -> Path:
        return self.path / f"{RETRIED}{self.format.suffix}"

    def _rows_of(self, part: Part) -> list[Row]:
        return list(self.format.read(self.path / PARTS / part.file))

    def _table(self, rows: list[Row]) -> bytes:
        buffer = io.BytesIO()
        self.format.write(buffer, rows, schema())
        return buffer.getvalue()

    def _write_part(self, rows: list[Row], embeddings: bytes | None) -> Part:
        numbers = [int(Path(part.file).stem.rpartition("-")[2]) for part in self.parts]
        file = f"part-{max(numbers, default=0) + 1:08}{self.format.suffix}"
        data = self._table(rows)
        part = Part(file, len(rows), hashlib.sha256(data).hexdigest(), **asdict(self.hashes),
                    embeddings_sha256=embeddings and hashlib.sha256(embeddings).hexdigest())
        if embeddings is not None:
            write_durably(self.embeddings_file(part), embeddings)
        write_durably(self.path / PARTS / file, data)
        return part

    def _files_of(self, part: Part) -> list[tuple[Path, str]]:
        """The files of a part, each with its sha256."""
        files = [(self.path / PARTS / part.file, part.sha256)]
        if part.embeddings_sha256:
            files.append((self.embeddings_file(part), part.embeddings_sha256))
        return files

    def _is_whole(self, part: Part) -> bool:
        return all(file.is_file() and file_sha256(file) == sha256 for file, sha256 in self._files_of(part))

    def _put_damaged_aside(self) -> None:
        """What the disk has lost or changed: such a part keeps its content under another name and counts no more."""
        whole = []
        for part in self.parts:
            if self._is_whole(part):
                whole.append(part)
                continue
            for file, _ in self._files_of(part):
                if file.is_file():
                    os.replace(file, file.with_name(f"{file.name}.damaged"))
        self.parts = whole
        manifest = self.path / MANIFEST
        if not manifest.exists() or manifest.read_bytes() != b"".join(map(_line, whole)):  # or half a line at its end
            self.write_manifest()

    def _remove_strays(self) -> None:
        """Parts whose line was never written, and half of a part."""
        named = {part.file for part in self.parts}
        embedded = {self.embeddings_file(part).name for part in self.parts if part.embeddings_sha256}
        for folder, kept in ((self.path / PARTS, named), (self.path / EMBEDDINGS, embedded)):
            for file in folder.iterdir():
                if file.name not in kept and not file.name.endswith(".damaged"):
                    file.unlink()


def read_summary(path: Path) -> dict | None:
    """What summary.json holds, or None while the scan is not finished."""
    try:
        return json.loads((path / SUMMARY).read_bytes())
    except FileNotFoundError:
        return None


class Lock:
    """Held until it is released or the process ends, however it ends. Raises ScanError if another holds it."""

    def __init__(self, path: Path) -> None:
        self._file = open(path, "ab")  # noqa: SIM115 — open for as long as it is held
        try:
            if os.name == "nt":
                import msvcrt
                msvcrt.locking(self._file.fileno(), msvcrt.LK_NBLCK, 1)
            else:
                import fcntl
                fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            self._file.close()
            raise ScanError(f"{printable(path.parent)}: another scan writes to this folder; wait for its end, or name "
                            "another --out") from error

    def release(self) -> None:
        self._file.close()


@contextmanager
def disk_errors(path: Path) -> Iterator[None]:
    """An error of the disk becomes a ScanError that says how to go on."""
    try:
        yield
    except (OSError, sqlite3.Error) as error:
        reason = getattr(error, "strerror", None) or error
        raise ScanError(f"{printable(path)}: cannot be written or read ({reason}); see to the disk and run the same "
                        "command again, it goes on from here") from error


def _failed(row: Row) -> bool:
    return row["failure_kind"] is not None


def _line(part: Part) -> bytes:
    return json.dumps(asdict(part)).encode() + b"\n"


def _read_manifest(path: Path) -> list[Part]:
    """A line that was cut off by a power failure is none, and neither is what follows it."""
    parts: list[Part] = []
    manifest = path / MANIFEST
    if not manifest.exists():
        return parts
    for line in manifest.read_bytes().splitlines(keepends=True):
        try:
            if not line.endswith(b"\n"):
                break
            parts.append(Part(**json.loads(line)))
        except (ValueError, TypeError):
            break
    return parts


def _read_facts(path: Path) -> dict:
    try:
        facts = json.loads((path / SCAN).read_bytes())
        facts["settings"] = ADDED_SETTINGS | facts["settings"]
        if facts["format"] == FORMAT and facts["settings"]["format"] in FORMATS and facts["hashes"]:
            return facts
    except (ValueError, KeyError, TypeError) as error:
        raise ScanError(f"{printable(path / SCAN)}: cannot be read ({error}); name another --out") from error
    raise ScanError(f"{printable(path / SCAN)}: was written by another version of safeguard; use that one, or name "
                    "another --out")


def _expect_same(path: Path, there: dict, here: dict) -> None:
    """Raises ScanError for another policy, bundle, prompt or setting than the scan was begun with."""
    for kind, words in (("hashes", "was begun with another"), ("settings", "was begun with another setting of")):
        for name, old in there[kind].items():
            new = here[kind].get(name)
            if new != old:
                what = name.removesuffix("_sha256")
                advice = "; --rescan judges again without decoding" if what == "policy" else ""
                raise ScanError(f"{printable(path)}: {words} {what}, {old!s:.12}, this is {new!s:.12}; take the old "
                                f"one to go on, or name another --out{advice}")
