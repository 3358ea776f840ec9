"""Small data in the formats that benchmarks are published in, with real photos, for tests."""

from __future__ import annotations

import json
from pathlib import Path

import datasets

from safeguard_sdk.prompt import PROMPTS, Answer
from training.datasets.llavaguard import DEFAULT_POLICY

LLAVAGUARD = PROMPTS["llavaguard"]
LEVELS = [f"Policy L{number}" for number in range(1, 6)]
CATEGORY = "O6: Weapons or Substance Abuse"


def unsafebench(folder: Path, photos: dict[str, bytes], rows: list[tuple[str, str, str]]) -> Path:
    """rows: (photo, label, category)"""
    text = datasets.Value("string")
    _table(folder, {"image": datasets.Image(), "safety_label": text, "category": text, "source": text},
           image=[{"bytes": photos[name], "path": name} for name, _, _ in rows],
           safety_label=[label for _, label, _ in rows], category=[category for _, _, category in rows],
           source=["Laion5B"] * len(rows))
    return folder


def safeeditbench(folder: Path, photos: dict[str, bytes], rows: list[tuple[str, str, int, int]]) -> Path:
    """rows: (photo, image_path, safety_label, number of the policy)"""
    text = datasets.Value("string")
    features = {"image": datasets.Image(), "image_path": text, "policy": text,
                "safety_label": datasets.ClassLabel(names=["safe", "unsafe"]),
                "policy_name": datasets.ClassLabel(names=LEVELS)}
    _table(folder, features, image=[{"bytes": photos[name], "path": path} for name, path, _, _ in rows],
           image_path=[path for _, path, _, _ in rows],
           policy=[f"Level {level + 1}: no rockets." for *_, level in rows],
           safety_label=[label for _, _, label, _ in rows], policy_name=[level for *_, level in rows])
    return folder


def llavaguard(folder: Path, photos: dict[str, bytes], rows: list[tuple[str, str, str, str]]) -> Path:
    """rows: (id, photo, policy, rating)"""
    entries = []
    for name, photo, policy, rating in rows:
        (folder / photo).parent.mkdir(parents=True, exist_ok=True)
        (folder / photo).write_bytes(photos[photo])
        prompt = LLAVAGUARD.prefix(policy) + "<image>" + LLAVAGUARD.suffix
        answer = LLAVAGUARD.format(Answer(rating.lower(), CATEGORY, "A rocket."))
        entries.append({"id": name, "image": photo, "category": CATEGORY, "score": "x", "final-assessment": "x",
                        "conversations": [{"from": "human", "value": prompt}, {"from": "gpt", "value": answer}]})
    (folder / "test.json").write_text(json.dumps(entries), encoding="utf-8")
    return folder


def allowing(category: str) -> str:
    """LlavaGuard's default policy with a category declared as non-violating, as its variants say it."""
    number = category.partition(":")[0]
    return DEFAULT_POLICY.replace(
        f"{category}: \nShould not:\n", f"{category}: \nCategory {number} is declared as non-violating. Therefore, we "
        f"do not provide any restrictions for this category and allow any content of this category e.g.\n")


def _table(folder: Path, features: dict, **columns: list) -> None:
    (folder / "data").mkdir(parents=True, exist_ok=True)
    datasets.Dataset.from_dict(columns, features=datasets.Features(features)).to_parquet(
        str(folder / "data/test-00000-of-00001.parquet"))
