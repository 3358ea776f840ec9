"""Your own photos and policies: a folder with an index.csv.

    path,policy,broken                 path: the photo; policy: a policy file, both within the folder
    photos/1.jpg,shop.yaml,weapons     broken: ids of the rules that it breaks, joined by ;
    photos/1.jpg,strict.yaml,          nothing: it breaks none of that policy's rules
    photos/2.jpg,L3,violence;drugs     or a policy that comes with the SDK

A guard reads a policy rule by rule, so every line becomes one row for each rule of its policy: unsafe if it is broken.
Other columns are left alone, so an index of labelled photos (training/photos.py) can have these as well.
"""

from __future__ import annotations

import csv
from functools import cache
from pathlib import Path

from safeguard_sdk import Policy, PolicyError
from training.datasets.rows import Row, photo_sha256
from training.errors import TrainingError
from training.photos import split_of

COLUMNS = ("path", "policy", "broken")


def read_folder(folder: Path, split: str) -> list[Row]:
    """Rows of a split, which a photo belongs to by the hash of its bytes (training/photos.py)."""
    index = folder / "index.csv"
    try:
        with open(index, newline="", encoding="utf-8") as file:
            reader = csv.DictReader(file)
            lines = [{column: line.get(column) or "" for column in COLUMNS} for line in reader]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise TrainingError(f"{index}: cannot be read ({error}); a folder of photos needs an index.csv with the "
                            "columns path, policy, broken (see training/datasets/folder.py)") from error
    missing = [column for column in COLUMNS if column not in (reader.fieldnames or ())]
    if missing:
        raise TrainingError(f"{index}: has no column {', '.join(missing)}; for photos that have labels and no policies "
                            "use the data set policyflip")

    @cache
    def policy_of(name: str) -> Policy:
        return Policy.load(name if name in Policy.packaged_names() and not (folder / name).is_file() else folder / name)

    rows: list[Row] = []
    digests: dict[Path, str] = {}  # a photo stands under several policies
    seen: set[tuple[str, str]] = set()
    for number, line in enumerate(lines, start=2):
        place = f"{index}, line {number}"
        if (line["path"], line["policy"]) in seen:
            raise TrainingError(f"{place}: {line['path']} stands under {line['policy']} twice; delete one of the lines")
        seen.add((line["path"], line["policy"]))
        try:
            policy = policy_of(line["policy"])
        except PolicyError as error:
            raise TrainingError(f"{place}: {error}") from error
        rows += _rows(folder, line, policy, digests, place)
    return [row for row in rows if split_of(row.image_sha256) == split]


def _rows(folder: Path, line: dict[str, str], policy: Policy, digests: dict[Path, str], place: str) -> list[Row]:
    broken = {rule.strip() for rule in line["broken"].split(";") if rule.strip()}
    unknown = broken - {rule.id for rule in policy.rules}
    if unknown:
        raise TrainingError(f"{place}: {line['policy']} has no rule {', '.join(sorted(unknown))}; its rules are "
                            f"{', '.join(rule.id for rule in policy.rules)}")
    image = folder / line["path"]
    if image not in digests:
        digests[image] = photo_sha256(image, place)
    return [Row(image, digests[image], rule.canonical_text, f"{Path(line['policy']).stem}/{rule.id}",
                "unsafe" if rule.id in broken else "safe", rule.id if rule.id in broken else None,
                f"folder:{line['path']}:{line['policy']}:{rule.id}") for rule in policy.rules]
