"""Published taxonomies as data: their categories by key and name, each with a rule in our words, or with why no photo
can break it."""

from __future__ import annotations

import itertools
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import yaml

from safeguard_sdk.policy import Rule

FOLDER = Path(__file__).parent


@dataclass(frozen=True, slots=True)
class Category:
    key: str                              # "S1", "violence/graphic", "3.10"
    name: str                             # as the publisher writes it
    rule: dict[str, object] | None        # fields of a Rule; None where no photo can break it
    no_photo: str                         # why not
    leaves: dict[str, tuple[str, ...]]    # finer risks, with phrases where a photo can show one; empty for most

    @property
    def title(self) -> str:
        """ "S1 Violent Crimes", "violence/graphic": what messages call it."""
        return self.name if self.name == self.key else f"{self.key} {self.name}"


@dataclass(frozen=True, slots=True)
class Taxonomy:
    source: str
    categories: dict[str, Category]  # by key

    @classmethod
    def read(cls, guard: str) -> Taxonomy:
        document = yaml.safe_load((FOLDER / f"{guard}.yaml").read_text(encoding="utf-8"))
        return cls(document["source"], {key: _category(key, entry) for key, entry in document["categories"].items()})

    def rules_of(self, keys: Iterable[str]) -> tuple[list[Rule], dict[str, str]]:
        """Rules of whole categories, and what is left out of them."""
        rules, left_out = [], {}
        for key in keys:
            category = self.categories[key]
            rule, lacks = rule_of(category, category.leaves)
            rules += [rule] if rule else []
            left_out |= lacks
        return rules, left_out


def rule_of(category: Category, leaves: Iterable[str]) -> tuple[Rule | None, dict[str, str]]:
    """The rule of a category, of those of its finer risks that are named; and what is left out."""
    if category.rule is None:
        return None, {category.title: category.no_photo}
    if not category.leaves:
        return Rule(**category.rule), {}
    phrases = [phrase for leaf in leaves for phrase in category.leaves[leaf]]
    left_out = {f"{category.title}, {leaf}": "it cannot be seen" for leaf in leaves if not category.leaves[leaf]}
    return (Rule(**category.rule, forbids=tuple(dict.fromkeys(phrases))) if phrases else None), left_out


def _category(key: str, entry: dict) -> Category:
    leaves = entry.get("leaves", {})
    if "combine" in entry:
        leaves = [" - ".join(names) for names in itertools.product(*entry["combine"])]
    if isinstance(leaves, list):
        leaves = dict.fromkeys(leaves, ())
    return Category(key, entry["name"], entry.get("rule"), entry.get("no_photo", ""),
                    {leaf: tuple(phrases) for leaf, phrases in leaves.items()})
