"""The end of a scan, of its own or merged out of shares: what its rows say together."""

from __future__ import annotations

from collections import Counter

from safeguard_sdk.policy import Policy
from safeguard_sdk.scan.duplicates import write_duplicates
from safeguard_sdk.scan.options import Progress
from safeguard_sdk.scan.output import ScanFolder, disk_errors
from safeguard_sdk.scan.report import write_report
from safeguard_sdk.scan.summary import summarise


def finish(folder: ScanFolder, progress: Progress, skipped: Counter[str]) -> dict:
    """Write the groups of near duplicates, the summary and the report; returns the summary.

    skipped  files that were passed over, by suffix
    """
    policy = Policy.from_yaml(folder.facts["policy"]["yaml"])
    with disk_errors(folder.path):
        duplicates = write_duplicates(folder) if folder.facts["settings"]["near_duplicates"] else None
        summary = summarise(folder, [rule.id for rule in policy.rules], progress, skipped, duplicates)
        write_report(folder, summary)
    return summary
