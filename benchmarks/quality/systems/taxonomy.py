"""Systems that know fixed categories, under policies in words: taxonomies.yaml says which category counts under which.

A policy that is not in that table cannot be said in categories. Then every category that is a hazard counts: the
system's own verdict, as published evaluations take it. The run says so.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import yaml

from benchmarks.errors import BenchmarkError
from benchmarks.quality.cases import Case

FILE = Path(__file__).with_name("taxonomies.yaml")
ALLOWED_CATEGORY = re.compile(r"Category (O\d) is declared as non-violating")  # LlavaGuard's variants, §2.5 of its text
LEVEL = re.compile(r"(?:Policy )?(L[1-5])")


@dataclass(frozen=True)
class Taxonomy:
    """The categories of one system, and the hazards of the policies of one suite."""

    hazards_of: dict[str, frozenset[str]]            # by category
    policies: dict[str, dict[str, frozenset[str]]]   # by policy: its parts, and the hazards that each forbids
    llavaguard: bool                                 # one policy, parts of which a text may allow

    @classmethod
    def read(cls, system: str, suite: str) -> Taxonomy:
        document = _document()
        policies = document["policies"].get(suite, {})
        if suite == "llavaguard":
            policies = {"": policies}
        parts = {name: {part: frozenset(hazards) for part, hazards in one.items()} for name, one in policies.items()}
        categories = {name: frozenset(hazards) for name, hazards in document["systems"][system].items()}
        return cls(categories, parts, suite == "llavaguard")

    def forbidden(self, case: Case) -> dict[str, frozenset[str]] | None:
        """Hazards by part of the case's policy; None if the table has no such policy."""
        if self.llavaguard:
            allowed = set(ALLOWED_CATEGORY.findall(case.policy))
            return {part: hazards for part, hazards in self.policies[""].items() if part not in allowed}
        level = LEVEL.fullmatch(case.policy_name)
        return self.policies.get(level[1] if level else case.policy_name)

    def counting(self, case: Case) -> frozenset[str]:
        """The categories that make a photo unsafe under the case's policy."""
        parts = self.forbidden(case)
        if parts is None:
            return frozenset(name for name, hazards in self.hazards_of.items() if hazards)
        hazards = frozenset().union(*parts.values())
        return frozenset(name for name, mine in self.hazards_of.items() if mine & hazards)

    def violated(self, case: Case, categories: Iterable[str]) -> list[str]:
        """Those of the categories a system named that count. Raises BenchmarkError for one that the table lacks."""
        categories = list(categories)
        if unknown := sorted(set(categories) - self.hazards_of.keys()):
            raise BenchmarkError(f"{FILE.name} has no category {', '.join(unknown)} (it has "
                                 f"{', '.join(self.hazards_of)}); add what it stands for, or [] for nothing")
        counting = self.counting(case)
        return [name for name in categories if name in counting]

    def cannot_express(self, case: Case) -> list[str] | None:
        """Parts of the case's policy that no category stands for; None if the table has no such policy at all."""
        parts = self.forbidden(case)
        if parts is None:
            return None
        known = frozenset().union(*self.hazards_of.values())
        return [part for part, hazards in parts.items() if not hazards & known]

    def gaps(self, cases: Iterable[Case]) -> dict[str, list[str] | str]:
        """By policy: what the system cannot express of it, for the report of a run. Whole policies are left out."""
        found: dict[str, list[str] | str] = {}
        for case in cases:
            gap = self.cannot_express(case)
            if gap is None:
                found[case.policy_name] = "not in the table: its own verdict is taken"
            elif gap:
                found.setdefault(case.policy_name, gap)
        return found


@cache
def _document() -> dict:
    """Raises BenchmarkError for a hazard that is not in the vocabulary: a typing error would match nothing."""
    document = yaml.safe_load(FILE.read_text(encoding="utf-8"))
    lists = [*document["policies"]["llavaguard"].values()]
    lists += [hazards for system in document["systems"].values() for hazards in system.values()]
    lists += [hazards for suite in ("unsafebench", "safeeditbench") for policy in document["policies"][suite].values()
              for hazards in policy.values()]
    if unknown := {hazard for hazards in lists for hazard in hazards} - set(document["hazards"]):
        raise BenchmarkError(f"{FILE.name}: unknown hazard {', '.join(sorted(unknown))}; the vocabulary is "
                             f"{', '.join(document['hazards'])}")
    return document
