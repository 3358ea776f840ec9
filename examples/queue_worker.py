"""A worker that judges the photos named in a table, until none is left. Any number may work on one table.

    sqlite3 jobs.db "CREATE TABLE photos (path TEXT PRIMARY KEY, label TEXT, rule TEXT, score REAL, failure TEXT,
                                          taken REAL NOT NULL DEFAULT 0)"
    sqlite3 jobs.db "INSERT INTO photos (path) VALUES ('upload.jpg')"
    python examples/queue_worker.py jobs.db general

A row is done once it has a label or a failure. One that a worker took and did not finish is free again after a while,
so a worker may be killed at any time.
"""

import sqlite3
import sys
import time

from safeguard_sdk import Guard, ImageError, Policy

AT_A_TIME = 16   # rows
ABANDONED = 600  # seconds after which a row that was taken and is not done is free

FREE = "label IS NULL AND failure IS NULL AND taken < :now - :abandoned"
TAKE = f"""UPDATE photos SET taken = :now WHERE path IN (SELECT path FROM photos WHERE {FREE} LIMIT :count)
           RETURNING path"""
KEEP = "UPDATE photos SET label = ?, rule = ?, score = ?, failure = ? WHERE path = ?"


def work(jobs: str, guard: Guard) -> int:
    """How many photos it judged, those that cannot be judged included."""
    done = 0
    table = sqlite3.connect(jobs, timeout=60)
    try:
        while True:
            with table:  # a transaction: no two workers take the same row
                taken = table.execute(TAKE, {"now": time.time(), "abandoned": ABANDONED, "count": AT_A_TIME}).fetchall()
            if not taken:
                return done
            for (path,) in taken:
                with table:
                    table.execute(KEEP, (*judge(path, guard), path))
                done += 1
    finally:
        table.close()


def judge(path: str, guard: Guard) -> tuple[str | None, str | None, float | None, str | None]:
    """Label, rule, score and failure of a photo."""
    try:
        verdict = guard.check(path)
    except ImageError as error:  # without a label, so that nothing takes it for safe
        return None, None, None, f"{error.kind}: {error}"
    return verdict.label, verdict.rule, verdict.score, None


if __name__ == "__main__":
    print(work(sys.argv[1], Guard(Policy.load(sys.argv[2]))), "photos judged")
