"""Your own photos and policies: a folder with an index.csv.

    path,policy,broken                 path: the photo; policy: a policy file, both within the folder
    photos/1.jpg,shop.yaml,weapons     broken: ids of the rules that it breaks, joined by ;
    photos/1.jpg,strict.yaml,          nothing: it breaks none of that policy's rules
    photos/2.jpg,L3,violence;drugs     or a policy that comes with the SDK

A guard reads a policy rule by rule, so every line becomes one row for each rule of its policy: unsafe if it is broken.
Other columns are left alone, so an index of labelled photos (training/photos.py) can have these as well.
"""

from __future__ import annotations

from functools import cache
from pathlib import Path

from safeguard_sdk import Policy, PolicyError
from training.datasets.rows import Row, photo_sha256
from training.errors import TrainingError
from training.photos import read_csv, split_of

COLUMNS = ("path", "policy", "broken")
ADVICE = ("a folder of photos needs an index.csv with the columns path, policy, broken (see "
          "training/datasets/folder.py); for photos that have labels and no policies use the data set policyflip")


def read_folder(folder: Path, split: str) -> list[Row]:
    """Rows of a split, which a photo belongs to by the hash of its bytes (training/photos.py).

    raises  TrainingError naming the line at fault; two lines may not say the same, or the opposite, of one photo
    """
    @cache
    def policy_of(name: str) -> Policy:
        return Policy.load(name if name in Policy.packaged_names() and not (folder / name).is_file() else folder / name)

    rows: list[Row] = []
    digests: dict[Path, str] = {}  # a photo stands under several policies
    said = Said()
    for place, line in read_csv(folder / "index.csv", COLUMNS, ADVICE):
        try:
            policy = policy_of(line["policy"])
        except PolicyError as error:
            raise TrainingError(f"{place}: {error}") from error
        some = _rows(folder, line, policy, digests, place)
        said.add(line, policy, some, place)
        rows += some
    return [row for row in rows if split_of(row.image_sha256) == split]


class Said:
    """What the lines so far say of each photo, whatever the file is called."""

    def __init__(self) -> None:
        self._places: dict[tuple[str, str], str] = {}              # (photo, policy) → line
        self._labels: dict[tuple[str, str], tuple[str, str]] = {}  # (photo, words of a rule) → label, line

    def add(self, line: dict[str, str], policy: Policy, rows: list[Row], place: str) -> None:
        key = rows[0].image_sha256, policy.sha256
        if key in self._places:
            raise TrainingError(f"{place}: {line['path']} stands under {line['policy']} twice, or a copy of it does, "
                                f"see {self._places[key]}; delete one of the lines")
        self._places[key] = place
        for row in rows:
            label, before = self._labels.setdefault((row.image_sha256, row.policy), (row.label, place))
            if label != row.label:
                raise TrainingError(f"{place}: {line['path']} is {row.label} under the rule {row.policy_name}, in "
                                    f"{before} the same photo is {label} under the same words; correct one of the "
                                    "lines")


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
