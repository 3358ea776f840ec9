"""Rows to calibrate on: a photo, a policy, and whether the photo breaks it, or one rule of it.

A CSV or Parquet file with the columns
    path         of the photo, relative to the file
    policy       a policy file, relative to the file, or the name of a packaged policy; or in its place
    policy_text  the policy itself in free words
    label        "safe" or "unsafe"
    rule         optional: id of the rule that the label is about; empty: the label is about the policy as a whole
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from safeguard_sdk import Policy, PolicyError
from safeguard_sdk.policy import Rule
from training.errors import TrainingError
from training.photos import read_csv

LABELS = {"safe": False, "unsafe": True}  # of any case; "yes" and 1 mean the one here and the other there
REQUIRED = ("path", "label")


@dataclass(frozen=True)
class Row:
    photo: Path
    policy: Policy
    rules: tuple[Rule, ...]  # the label is about: the photo is unsafe if it breaks any of these
    broken: bool
    place: str = ""          # file and line, for messages


def read_rows(file: Path) -> list[Row]:
    """All rows of a `.csv` or `.parquet` file. Raises TrainingError naming the row at fault."""
    parquet = file.suffix.lower() == ".parquet"
    entries = _read_parquet(file) if parquet else read_csv(file, (), "give a .csv or .parquet file, or a folder of "
                                                           "labelled photos")
    if not entries:
        raise TrainingError(f"{file}: holds no rows; give it some with the columns path, policy, label and rule")
    columns = entries[0][1].keys()
    missing = [name for name in REQUIRED if name not in columns]
    if missing or ("policy" in columns) == ("policy_text" in columns):
        raise TrainingError(f"{file}: has the columns {', '.join(columns)}; it needs path, label and one of policy and "
                            "policy_text, and may have rule")
    load = lru_cache(maxsize=None)(lambda kind, value: _policy(file, kind, value))
    return [_row(file, place, entry, load) for place, entry in entries]


def _row(file: Path, place: str, entry: dict, load: Callable[[str, str], Policy]) -> Row:
    label = entry["label"]
    broken = LABELS.get(label.strip().lower()) if isinstance(label, str) else None
    if broken is None:
        raise TrainingError(f"{place}: label is {label!r:.60}, must be 'safe' or 'unsafe'")
    path = _text(entry, "path", place, "name a photo")
    kind = "policy" if "policy" in entry else "policy_text"
    try:
        policy = load(kind, _text(entry, kind, place, "name a policy file or give the text of a policy"))
    except PolicyError as error:
        raise TrainingError(f"{place}: {error}") from error
    rules = policy.rules
    if wanted := entry.get("rule"):
        rules = tuple(rule for rule in rules if rule.id == wanted)
        if not rules:
            raise TrainingError(f"{place}: the policy {policy.name} has no rule {wanted!r:.60} (it has "
                                f"{', '.join(rule.id for rule in policy.rules)})")
    return Row(file.parent / path, policy, rules, broken, place)


def _text(entry: dict, column: str, place: str, mend: str) -> str:
    value = entry[column]
    if not isinstance(value, str) or not value.strip():
        raise TrainingError(f"{place}: {column} is {value!r:.60}; {mend}")
    return value


def _policy(file: Path, kind: str, value: str) -> Policy:
    if kind == "policy_text":
        return Policy.from_text(value)
    beside = file.parent / value
    return Policy.load(beside if beside.is_file() else value)


def _read_parquet(file: Path) -> list[tuple[str, dict]]:
    import pyarrow as pa
    import pyarrow.parquet as pq
    try:
        names = pq.read_schema(file).names
        wanted = [name for name in ("path", "policy", "policy_text", "label", "rule") if name in names]
        rows = pq.read_table(file, columns=wanted).to_pylist()
    except (OSError, pa.ArrowException) as error:
        raise TrainingError(f"{file}: cannot be read as Parquet ({' '.join(str(error).split())[:200]}); write it "
                            "anew") from error
    return [(f"{file}, row {number}", row) for number, row in enumerate(rows, start=1)]
