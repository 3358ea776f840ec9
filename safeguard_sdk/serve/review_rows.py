"""The rows of a finished scan for a reviewer: filtered, in order, page by page, with their pictures.

Parts are read once, when the scan is opened, into a database in a temporary file that goes away with the process; the
thumbnails of a part follow when the first of them is asked for. So a page costs the same in a scan of any size.
"""

from __future__ import annotations

import json
import sqlite3
import threading
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

from safeguard_sdk.errors import ScanError
from safeguard_sdk.image.files import printable
from safeguard_sdk.policy import Policy
from safeguard_sdk.scan.output import PARTS, SUMMARY, ScanFolder, read_summary
from safeguard_sdk.scan.rows import NAMES, Row
from safeguard_sdk.serve.reviews import DECISIONS
from safeguard_sdk.verdict import LABELS, label_of

FACTS = ("id", *NAMES, "sha256", "bytes", "label", "score", "rule", "frame", "failure_kind", "failure")
CACHE_KIB = 64 << 10
FAILED = "failed"  # stands for the label of a row without a verdict
UNSCORED, ABOVE_ALL = -1.0, 2.0  # stand for the score of a failure, and for what no score reaches


@dataclass(frozen=True, slots=True)
class Question:
    """Which rows, and in which order. With a rule, label and score are those of this rule."""

    label: str | None = None     # of LABELS, or FAILED
    rule: str | None = None
    low: float = 0.0             # scores from here …
    high: float = 1.0            # … to here, both included. Failures have none: they are met without a rule and bounds,
                                 # or by their label
    reviewed: bool | None = None
    order: str = "gravest"       # or "mildest", by score; or "random", by the id, which is a hash of the name


@dataclass(frozen=True, slots=True)
class Page:
    rows: list[Row]     # as the scan has them, without thumbnail; beside it "decision" and "broken"
    next: str | None    # where the next page begins; None after the last
    matching: int       # rows that the question is about, on all pages
    reviewed: int       # and how many of them have a decision


class ScanRows:
    """All rows of a finished scan; for several threads. Raises ScanError if it is none, or cannot be read."""

    def __init__(self, path: Path) -> None:
        self.folder = ScanFolder.open(path)
        if read_summary(path) is None:
            raise ScanError(f"{printable(path)}: is not finished, it has no {SUMMARY}; run its scan again first")
        self.policy = Policy.from_yaml(self.folder.facts["policy"]["yaml"])
        self._rules = {rule.id: rule for rule in self.policy.rules}
        self._score_columns = {rule: f"score_{number}" for number, rule in enumerate(self._rules)}
        self._copied: set[int] = set()  # parts whose thumbnails are in the database
        self._labels: dict[str, int] = {}
        self._decisions: Counter[str | None] = Counter()
        self._lock = threading.Lock()
        self._base = sqlite3.connect("", isolation_level=None, check_same_thread=False)
        self._base.row_factory = sqlite3.Row
        self._base.executescript(f"""
            PRAGMA journal_mode = OFF; PRAGMA synchronous = OFF; PRAGMA cache_size = -{CACHE_KIB};
            CREATE TABLE row (number INTEGER PRIMARY KEY, id TEXT UNIQUE, {", ".join(FACTS[1:])}, part INTEGER,
                              decision TEXT, broken TEXT,
                              {", ".join(f"{column} REAL" for column in self._score_columns.values())});
            CREATE TABLE thumbnail (number INTEGER PRIMARY KEY, data BLOB);
        """)
        try:
            self._load()
        except (OSError, ValueError, KeyError) as error:  # pyarrow's errors are of these kinds
            self.close()
            raise ScanError(f"{printable(path)}: its rows cannot be read ({' '.join(str(error).split())}); run the "
                            "same scan again, it makes the rows of a damaged part anew") from error

    def close(self) -> None:
        self._base.close()

    def page(self, question: Question, after: str | None, most: int) -> Page:
        """Up to `most` rows after the place that an earlier page named as its next. Raises ValueError for no place."""
        where, values = self._where(question)
        score = self._score_of(question.rule)
        place, place_values = _place(question.order, score, after)
        direction = "DESC" if question.order == "gravest" else "ASC"
        keys = ("id",) if question.order == "random" else (score, "id")
        order = ", ".join(f"{key} {direction}" for key in keys)
        with self._lock:
            matching, reviewed = self._base.execute(f"SELECT COUNT(*), COUNT(decision) FROM row WHERE {where}",
                                                    values).fetchone()
            found = self._base.execute(f"SELECT *, {score} AS place FROM row WHERE {where} AND {place} "
                                       f"ORDER BY {order} LIMIT ?", (*values, *place_values, most + 1)).fetchall()
        shown = found[:most]
        after_these = f"{shown[-1]['place']!r}:{shown[-1]['id']}" if len(found) > most else None
        return Page([self._row(one) for one in shown], after_these, matching, reviewed)

    def row(self, identity: str) -> Row | None:
        """The row of this id, or None: whatever else an id may name, it is not of this scan."""
        with self._lock:
            found = self._base.execute("SELECT * FROM row WHERE id = ?", (identity,)).fetchone()
        return found and self._row(found)

    def decided(self) -> Iterator[Row]:
        """All rows with a decision, in the order of their ids."""
        with self._lock:
            found = self._base.execute("SELECT * FROM row WHERE decision IS NOT NULL ORDER BY id").fetchall()
        return map(self._row, found)

    def decide(self, identity: str, decision: str | None, broken: Iterable[str] | None) -> None:
        """Keep a reviewer's decision, here only: reviews.py has it on the disk."""
        coded = None if broken is None else json.dumps(list(broken))
        with self._lock:
            before = self._base.execute("SELECT decision FROM row WHERE id = ?", (identity,)).fetchone()
            if before is not None:
                self._decisions.subtract([before["decision"]])
                self._decisions.update([decision])
                self._base.execute("UPDATE row SET decision = ?, broken = ? WHERE id = ?", (decision, coded, identity))

    def counts(self) -> dict[str, dict[str, int]]:
        """How many rows have each label, and each decision."""
        with self._lock:
            made = {decision: self._decisions[decision] for decision in DECISIONS if self._decisions[decision]}
            return {"label": dict(self._labels), "decision": made}

    def thumbnail(self, row: Row) -> bytes | None:
        """The JPEG that the scan has kept of a flagged image. Raises OSError or ValueError if its part is gone."""
        with self._lock:
            if row["part"] not in self._copied:
                first, = self._base.execute("SELECT MIN(number) FROM row WHERE part = ?", (row["part"],)).fetchone()
                kept = enumerate(self._part(row["part"], ("thumbnail",)), start=first)
                self._base.executemany("INSERT OR REPLACE INTO thumbnail VALUES (?, ?)",
                                       ((number, one["thumbnail"]) for number, one in kept if one["thumbnail"]))
                self._copied.add(row["part"])
            found = self._base.execute("SELECT data FROM thumbnail WHERE number = ?", (row["number"],)).fetchone()
        return found and found["data"]

    def claimed(self, row: Row) -> list[str]:
        """The rules that the image breaks, or may break, if the verdict is right: "unsafe" and "review"."""
        return [rule for rule, score in row["rules"].items() if label_of(score, self._rules[rule]) != LABELS[0]]

    def _load(self) -> None:
        columns = (*FACTS, "part", *self._score_columns.values())
        insert = f"INSERT INTO row ({', '.join(columns)}) VALUES ({', '.join('?' * len(columns))})"
        self._base.execute("BEGIN")
        for part in range(len(self.folder.parts)):
            self._base.executemany(insert, (self._values(row, part) for row in self._part(part, (*FACTS, "rules"))))
        self._base.execute("COMMIT")
        self._labels = dict(self._base.execute("SELECT label, COUNT(*) FROM row GROUP BY label").fetchall())

    def _part(self, number: int, columns: tuple[str, ...]) -> Iterator[Row]:
        return self.folder.format.read(self.folder.path / PARTS / self.folder.parts[number].file, columns)

    def _values(self, row: Row, part: int) -> tuple:
        facts = row | {"label": row["label"] or FAILED}
        scores = row["rules"] or {}
        return (*(facts[name] for name in FACTS), part, *(scores.get(rule) for rule in self._score_columns))

    def _row(self, found: sqlite3.Row) -> Row:
        row = {name: found[name] for name in (*FACTS, "number", "part", "decision")} | asdict(self.folder.hashes)
        failed = row["label"] == FAILED
        row["label"] = None if failed else row["label"]
        row["rules"] = None if failed else {rule: found[column] for rule, column in self._score_columns.items()}
        row["broken"] = None if found["broken"] is None else json.loads(found["broken"])
        return row

    def _score_of(self, rule: str | None) -> str:
        return f"COALESCE({self._score_columns[rule] if rule else 'score'}, {UNSCORED})"

    def _where(self, question: Question) -> tuple[str, list]:
        score = self._score_of(question.rule)
        terms, values = ["1"], []
        if question.label == FAILED:
            terms.append("label = ?")
            values.append(FAILED)
        elif question.label is not None and question.rule is not None:
            rule = self._rules[question.rule]
            low, high = {"safe": (0, rule.review_at), "review": (rule.review_at, rule.unsafe_at),
                         "unsafe": (rule.unsafe_at, ABOVE_ALL)}[question.label]
            terms.append(f"{score} >= ? AND {score} < ?")
            values += [low, high]
        elif question.label is not None:
            terms.append("label = ?")
            values.append(question.label)
        if question.label != FAILED and (question.rule, question.low, question.high) != (None, 0, 1):
            terms.append(f"{score} BETWEEN ? AND ?")
            values += [question.low, question.high]
        if question.reviewed is not None:
            terms.append(f"decision IS {'NOT ' if question.reviewed else ''}NULL")
        return " AND ".join(terms), values


def _place(order: str, score: str, after: str | None) -> tuple[str, tuple]:
    """The condition for rows behind a place, which is "score:id"."""
    if after is None:
        return "1", ()
    at, _, identity = after.partition(":")
    if order == "random":
        return "id > ?", (identity,)
    return f"({score}, id) {'<' if order == 'gravest' else '>'} (?, ?)", (float(at), identity)
