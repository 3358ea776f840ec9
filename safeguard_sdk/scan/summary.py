"""What a scan has found: summary.json, and the rows that its report shows."""

from __future__ import annotations

import heapq
import json
from collections import Counter
from dataclasses import asdict

from safeguard_sdk.durable import write_durably
from safeguard_sdk.scan.options import Progress
from safeguard_sdk.scan.output import SUMMARY, ScanFolder
from safeguard_sdk.scan.rows import NAMES
from safeguard_sdk.verdict import LABELS

BINS = 20
COUNTED = ("label", "score", "rule", "failure_kind")              # columns that a summary needs
SHOWN = ("id", "sha256", "label", "score", "rule", "thumbnail", *NAMES)  # and those of a row in the report


def summarise(folder: ScanFolder, rules: list[str], progress: Progress, skipped: Counter[str],
              duplicates: dict | None) -> dict:
    """Count the rows, write summary.json, return what it holds.

    rules       ids of the policy's rules, in their order
    duplicates  what write_duplicates tells, if it was asked for
    """
    labels, kinds = Counter(dict.fromkeys(LABELS, 0)), Counter()
    decided = {rule: Counter({"review": 0, "unsafe": 0}) for rule in rules}
    histogram = [0] * BINS
    for row in folder.rows(COUNTED):
        if row["label"] is None:
            kinds[row["failure_kind"]] += 1
            continue
        labels[row["label"]] += 1
        histogram[min(int(row["score"] * BINS), BINS - 1)] += 1
        if row["rule"] is not None:
            decided[row["rule"]][row["label"]] += 1
    failed = kinds.total()
    summary = {
        "complete": True, "rows": labels.total() + failed, **labels, "failed": failed,
        "failure_kinds": dict(sorted(kinds.items())), "rules": {rule: dict(count) for rule, count in decided.items()},
        "scores": {"bins": BINS, "counts": histogram},
        "skipped": dict(sorted(skipped.items())), "near_duplicates": duplicates,
        "hashes": asdict(folder.hashes), "settings": folder.facts["settings"], "policy": folder.facts["policy"],
        "bundle": folder.facts["bundle"],
        "last_run": {"rows": progress.rows, "duplicates": progress.duplicates, "seconds": round(progress.seconds, 3),
                     "engine_seconds": round(progress.engine_seconds, 3),
                     "images_per_second": round(progress.rows / progress.seconds, 2)},
    }
    write_durably(folder.path / SUMMARY, json.dumps(summary, indent=1).encode())
    return summary


def gravest(folder: ScanFolder, most: int) -> list[dict]:
    """The flagged rows with the highest scores, unsafe before review, and of equal files only one; columns SHOWN."""
    best: list[tuple] = []
    contents: set[str] = set()
    for row in folder.rows(SHOWN):
        if row["label"] not in ("review", "unsafe") or row["sha256"] in contents:
            continue
        key = (row["label"] == "unsafe", row["score"], row["id"])
        if len(best) < most:
            heapq.heappush(best, (key, row))
        elif key > best[0][0]:
            contents.discard(heapq.heapreplace(best, (key, row))[1]["sha256"])
        else:
            continue
        contents.add(row["sha256"])
    return [row for _, row in sorted(best, key=lambda one: one[0], reverse=True)]
