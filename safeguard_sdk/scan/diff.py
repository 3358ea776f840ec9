"""Which verdicts changed between two scans of the same images, such as under an old and a new policy."""

from __future__ import annotations

import json
import sqlite3
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from html import escape
from pathlib import Path
from string import Template

from safeguard_sdk.errors import ScanError
from safeguard_sdk.image.files import printable
from safeguard_sdk.scan.output import ScanFolder
from safeguard_sdk.scan.rows import NAMES, item_name

ABSENT = "absent"  # stands for the verdict of an image that only the other scan has
SHOWN = 20         # changes that the text tells one by one
TEMPLATE = Template("""<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="color-scheme" content="light"><title>$title</title><style>
body { margin: 40px auto; max-width: 1100px; padding: 0 24px; background: #f6f5f2; color: #1d1d1b; }
body { font: 16px/1.5 system-ui, sans-serif; }
table { border-collapse: collapse; background: #fff; margin: 0 0 28px; }
td, th { border: 1px solid #e4e2dc; padding: 6px 12px; text-align: left; overflow-wrap: anywhere; }
.safe { color: #1b7f4d; } .review { color: #9a6700; } .unsafe { color: #c0352b; } .failed, .absent { color: #5b5b66; }
</style></head><body><h1>$title</h1>
<table><tr><th>before</th><th>after</th><th>images</th></tr>
$counts
</table>
<table><tr><th>image</th><th>before</th><th>after</th></tr>
""")


@dataclass(frozen=True, slots=True)
class Judgement:
    """One side of a change: label "safe", "review", "unsafe", "failed" or ABSENT; score and rule if there are any."""

    label: str
    score: float | None = None
    rule: str | None = None

    def __str__(self) -> str:
        score = "" if self.score is None else f" {self.score:.2f}"
        return f"{self.label}{score} {self.rule or ''}".rstrip()


@dataclass(frozen=True, slots=True)
class Change:
    """An image whose label or rule is another one now; a score that moves within a label is no change."""

    name: str
    before: Judgement
    after: Judgement


class Changes:
    """All changes, kept on the disk in the order in which they were found."""

    def __init__(self, base: sqlite3.Connection, counts: Counter[tuple[str, str]], same: int) -> None:
        self._base, self.counts, self.same = base, counts, same

    @property
    def total(self) -> int:
        return self.counts.total()

    def __iter__(self) -> Iterator[Change]:
        for name, *sides in self._base.execute("SELECT * FROM change ORDER BY rowid"):
            yield Change(name, Judgement(*sides[:3]), Judgement(*sides[3:]))

    def as_text(self) -> Iterator[str]:
        """The counts, and the first of the changes."""
        yield f"{self.total:,} of {self.total + self.same:,} changed"
        for (before, after), count in self.counts.most_common():
            yield f"{before:>7} → {after:7} {count:,}"
        for number, change in enumerate(self):
            if number == SHOWN:
                yield f"… and {self.total - SHOWN:,} more; --json and --html tell all"
                return
            yield f"{change.name}: {change.before} → {change.after}"

    def as_json(self) -> Iterator[str]:
        """One object for each change."""
        for change in self:
            sides = {side: {"label": one.label, "score": one.score, "rule": one.rule}
                     for side, one in (("before", change.before), ("after", change.after))}
            yield json.dumps({"name": change.name, **sides})

    def write_html(self, path: Path) -> None:
        """A page with all of them. Raises ScanError."""
        rows = [f"{_cell(before, before)}{_cell(after, after)}<td>{count:,}</td>"
                for (before, after), count in self.counts.most_common()]
        title = f"{self.total:,} of {self.total + self.same:,} changed"
        try:
            with open(path, "w", encoding="utf-8") as page:
                page.write(TEMPLATE.substitute(title=title, counts="\n".join(f"<tr>{row}</tr>" for row in rows)))
                for change in self:
                    sides = "".join(_cell(str(one), one.label) for one in (change.before, change.after))
                    page.write(f"<tr><td>{escape(change.name)}</td>{sides}</tr>\n")
                page.write("</table></body></html>\n")
        except OSError as error:
            raise ScanError(f"{printable(path)}: cannot be written ({error.strerror}); name another file") from error


def compare_scans(old: Path, new: Path) -> Changes:
    """Join two finished scans by the ids of their rows. Raises ScanError for a folder that holds none."""
    before, after = ScanFolder.open_finished(old), ScanFolder.open_finished(new)
    base = sqlite3.connect("")  # a file of its own that goes away with the connection
    base.executescript("""
        CREATE TABLE old (id BLOB PRIMARY KEY, name TEXT, label TEXT, score REAL, rule TEXT) WITHOUT ROWID;
        CREATE TABLE change (name TEXT, old_label TEXT, old_score REAL, old_rule TEXT,
                             new_label TEXT, new_score REAL, new_rule TEXT);
    """)
    base.executemany("INSERT OR REPLACE INTO old VALUES (?, ?, ?, ?, ?)", _judgements(before))
    counts: Counter[tuple[str, str]] = Counter()
    same = 0
    for identity, name, *new_side in _judgements(after):
        found = base.execute("DELETE FROM old WHERE id = ? RETURNING label, score, rule", (identity,)).fetchone()
        old_side = found or (ABSENT, None, None)
        if (old_side[0], old_side[2]) == (new_side[0], new_side[2]):
            same += 1
            continue
        counts[old_side[0], new_side[0]] += 1
        base.execute("INSERT INTO change VALUES (?, ?, ?, ?, ?, ?, ?)", (name, *old_side, *new_side))
    for label, count in base.execute("SELECT label, COUNT(*) FROM old GROUP BY label"):
        counts[label, ABSENT] = count
    base.execute("INSERT INTO change SELECT name, label, score, rule, ?, NULL, NULL FROM old", (ABSENT,))
    return Changes(base, counts, same)


def _cell(text: str, label: str) -> str:
    return f'<td class="{label}">{escape(text)}</td>'


def _judgements(folder: ScanFolder) -> Iterator[tuple]:
    """(id, name, label, score, rule) of each row; failures have the label "failed"."""
    columns = ("id", *NAMES, "label", "score", "rule")
    for row in folder.rows(columns):
        yield bytes.fromhex(row["id"]), item_name(row), row["label"] or "failed", row["score"], row["rule"]
