"""Scans of whole archives: every image gets a row, whatever happens in between. docs/scan.md shows the output.

    from safeguard_sdk.scan import scan

    summary = scan(guard, ["photos/", "old.zip"], "out")   # run again to go on after a power failure

sources.py finds items, pipeline.py takes them through decoding.py and the guard, output.py keeps their rows,
ledger.py knows what is done; finish.py has duplicates.py, summary.py and report.py tell of it; diff.py compares two
scans and merge.py joins the shares of one.
"""

from safeguard_sdk.scan.decoding import Limits
from safeguard_sdk.scan.options import Options, Progress
from safeguard_sdk.scan.run import rescan, scan

__all__ = ["Limits", "Options", "Progress", "rescan", "scan"]
