"""Joining the shares of a scan that several machines did: their parts are copied, nothing is judged."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from safeguard_sdk.errors import ScanError
from safeguard_sdk.image.files import printable
from safeguard_sdk.scan.finish import finish
from safeguard_sdk.scan.options import Progress
from safeguard_sdk.scan.output import PARTS, ScanFolder, read_summary


def merge_shards(out: Path, shards: Sequence[Path]) -> dict:
    """Write all rows of finished shares into a new folder; returns its summary.

    raises  ScanError if shares are missing, unfinished, or of different scans, or if `out` holds a scan already
    """
    folders = [ScanFolder.open_finished(shard) for shard in shards]
    _expect_all_shares(folders)
    facts = {**folders[0].facts, "settings": {**folders[0].facts["settings"], "shard": "1/1"},
             "merged": [str(shard) for shard in shards]}
    progress, skipped = Progress(), Counter()
    with ScanFolder.begin(out, facts, must_be_new=True) as merged:
        for folder in folders:
            skipped |= Counter(read_summary(folder.path)["skipped"])  # each share has passed over the same files
            for part in folder.parts:
                file = folder.embeddings_file(part)
                merged.add(list(folder.format.read(folder.path / PARTS / part.file)),
                           file.read_bytes() if part.embeddings_sha256 else None)
        return finish(merged, progress, skipped)


def _expect_all_shares(folders: list[ScanFolder]) -> None:
    first = folders[0]
    for folder in folders:
        if folder.hashes != first.hashes or _without_share(folder) != _without_share(first):
            raise ScanError(f"{printable(folder.path)}: has another policy, bundle, prompt or setting than "
                            f"{printable(first.path)}; merge shares of one scan")
    of = {folder.facts["settings"]["shard"].partition("/")[2] for folder in folders}
    shares = sorted(int(folder.facts["settings"]["shard"].partition("/")[0]) for folder in folders)
    if len(of) > 1 or shares != list(range(1, int(of.pop()) + 1)):
        names = ", ".join(sorted(folder.facts["settings"]["shard"] for folder in folders))
        raise ScanError(f"the shares {names} are not all of one scan, each once; name the folders of 1/N to N/N")


def _without_share(folder: ScanFolder) -> dict:
    return {name: value for name, value in folder.facts["settings"].items() if name != "shard"}
