"""Labels of several annotators for the pairs of a build: kept, compared, decided, exported.

    OUT/annotations.sqlite    labels(annotator, photo, policy, label); decisions(photo, policy, label, by)

A photo and a policy are one question. Annotators do not see each other's labels. A question is settled if all who
answered agree on "safe" or "unsafe", two of them at least, or if an adjudicator decided it; nothing is settled by
majority.
"""

from __future__ import annotations

import sqlite3
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path

import krippendorff
import numpy as np

from benchmarks.errors import BenchmarkError
from benchmarks.safeeditbench.build import Pair, read_pairs
from benchmarks.safeeditbench.rows import Row, write_rows
from safeguard_sdk.policy import Policy

ANSWERS = ("safe", "unsafe", "unsure")
MIN_ANNOTATORS = 2
LEVELS = {f"Policy {level}": level for level in ("L1", "L2", "L3", "L4", "L5")}  # name in the table → packaged policy

Question = tuple[str, str]  # (file name of the photo, name of the policy)

_SCHEMA = """
CREATE TABLE IF NOT EXISTS labels (
    annotator TEXT, photo TEXT, policy TEXT, label TEXT, at TEXT DEFAULT CURRENT_TIMESTAMP,
    PRIMARY KEY (annotator, photo, policy));
CREATE TABLE IF NOT EXISTS decisions (
    photo TEXT, policy TEXT, label TEXT, "by" TEXT, at TEXT DEFAULT CURRENT_TIMESTAMP,
    PRIMARY KEY (photo, policy));
"""


@dataclass(frozen=True, slots=True)
class Agreement:
    """How far annotators agree on the questions that two or more have answered; an "unsure" is no answer here."""

    questions: int
    alpha: float | None    # Krippendorff's, nominal; None where all labels are one and the same
    same: float | None     # share of these questions on which all agree
    unsure: float | None   # share of all labels


class Annotations:
    """The labels of one build. Each call opens the database anew: annotators may work at once, in any thread."""

    def __init__(self, out: Path) -> None:
        self.out = out
        self.pairs: list[Pair] = [pair for pair in read_pairs(out) if pair.status == "kept"]
        if not self.pairs:
            raise BenchmarkError(f"{out}: has no kept pair; see the reasons in {out / 'pairs.jsonl'}")
        self.policies = {name: Policy.packaged(level) for name, level in LEVELS.items()}
        self.photos = {Path(file).name: out / file for pair in self.pairs for file in (pair.original, pair.edited)}
        with self._database() as connection:
            connection.executescript(_SCHEMA)

    @property
    def questions(self) -> list[Question]:
        return [(photo, policy) for photo in self.photos for policy in self.policies]

    def answer(self, annotator: str, question: Question, label: str) -> None:
        """Keep an annotator's label; an earlier one is replaced. Raises BenchmarkError for what is no question."""
        self._check(annotator, question, label, ANSWERS)
        self._write("INSERT OR REPLACE INTO labels (annotator, photo, policy, label) VALUES (?, ?, ?, ?)",
                    annotator, *question, label)

    def decide(self, adjudicator: str, question: Question, label: str) -> None:
        """Settle a question. Raises BenchmarkError; "unsure" is no decision."""
        self._check(adjudicator, question, label, ANSWERS[:2])
        self._write('INSERT OR REPLACE INTO decisions (photo, policy, label, "by") VALUES (?, ?, ?, ?)',
                    *question, label, adjudicator)

    def labels(self) -> dict[Question, dict[str, str]]:
        """Of each question that anyone has answered: label by annotator."""
        found: dict[Question, dict[str, str]] = defaultdict(dict)
        for annotator, photo, policy, label in self._read("SELECT annotator, photo, policy, label FROM labels "
                                                          "ORDER BY annotator"):
            found[photo, policy][annotator] = label
        return dict(found)

    def decisions(self) -> dict[Question, str]:
        found = self._read("SELECT photo, policy, label FROM decisions")
        return {(photo, policy): label for photo, policy, label in found}

    def settled(self) -> dict[Question, str]:
        agreed = {question: next(iter(labels.values())) for question, labels in self.labels().items()
                  if len(labels) >= MIN_ANNOTATORS and len(set(labels.values())) == 1}
        return {question: label for question, label in agreed.items() if label != "unsure"} | self.decisions()

    def disputed(self) -> list[Question]:
        """Questions that enough have answered without agreeing; an adjudicator sees these, decided or not."""
        labels = self.labels()
        return [question for question in self.questions if len(mine := labels.get(question, {})) >= MIN_ANNOTATORS
                and (len(set(mine.values())) > 1 or "unsure" in mine.values())]

    def agreement(self) -> dict[str, Agreement]:
        """By policy, and for "all"."""
        labels = self.labels()
        by_policy = {name: [mine for (_, policy), mine in labels.items() if policy == name] for name in self.policies}
        return {"all": agreement(list(labels.values()))} | {name: agreement(mine) for name, mine in by_policy.items()}

    def export(self) -> tuple[Path, Counter]:
        """Write the settled questions as OUT/data/test-….parquet in the published schema, and count those left out.

        raises  BenchmarkError if none is settled
        """
        settled = self.settled()
        rows = [self._row(pair, file, policy, settled[Path(file).name, policy])
                for policy in self.policies for pair in self.pairs for file in (pair.original, pair.edited)
                if (Path(file).name, policy) in settled]
        if not rows:
            raise BenchmarkError(f"{self.out}: no question is settled; it takes {MIN_ANNOTATORS} annotators who agree, "
                                 "or an adjudicator")
        disputed = set(self.disputed()) - settled.keys()
        counts = Counter(settled=len(rows), disputed=len(disputed),
                         unanswered=len(self.questions) - len(rows) - len(disputed))
        return write_rows(rows, self.out), counts

    def _row(self, pair: Pair, file: str, policy: str, label: str) -> Row:
        return Row((self.out / file).read_bytes(), Path(file).name, label, policy, self.policies[policy].canonical_text,
                   pair.category)

    def _check(self, who: str, question: Question, label: str, allowed: Sequence[str]) -> None:
        if not who.strip():
            raise BenchmarkError("a label without a name; say who you are")
        if question[0] not in self.photos or question[1] not in self.policies:
            raise BenchmarkError(f"{question[0]!r} under {question[1]!r} is no question of {self.out}")
        if label not in allowed:
            raise BenchmarkError(f"the label is {label!r}, must be one of {', '.join(allowed)}")

    @contextmanager
    def _database(self) -> Iterator[sqlite3.Connection]:
        path = self.out / "annotations.sqlite"
        try:
            with closing(sqlite3.connect(path, timeout=30, isolation_level=None)) as connection:
                yield connection
        except sqlite3.Error as error:
            raise BenchmarkError(f"{path}: cannot be read or written ({error}); see to its permissions") from error

    def _read(self, query: str) -> list[tuple]:
        with self._database() as connection:
            return connection.execute(query).fetchall()

    def _write(self, statement: str, *values: str) -> None:
        with self._database() as connection:
            connection.execute(statement, values)


def agreement(labels: Sequence[dict[str, str]]) -> Agreement:
    """Of questions, each with a label by annotator. Krippendorff 2011, nominal data; what an annotator has not answered
    or was unsure about is missing."""
    given = [label for mine in labels for label in mine.values()]
    unsure = round(given.count("unsure") / len(given), 4) if given else None
    answered = [{who: label for who, label in mine.items() if label != "unsure"} for mine in labels]
    answered = [mine for mine in answered if len(mine) >= MIN_ANNOTATORS]
    if not answered:
        return Agreement(0, None, None, unsure)
    same = sum(len(set(mine.values())) == 1 for mine in answered) / len(answered)
    alpha = None
    if len({label for mine in answered for label in mine.values()}) > 1:  # else chance agrees fully, too: 0/0
        annotators = sorted({who for mine in answered for who in mine})
        table = np.full((len(annotators), len(answered)), np.nan)
        for column, mine in enumerate(answered):
            for who, label in mine.items():
                table[annotators.index(who), column] = ANSWERS.index(label)
        alpha = round(float(krippendorff.alpha(reliability_data=table, level_of_measurement="nominal")), 4)
    return Agreement(len(answered), alpha, round(same, 4), unsure)
