"""Policies on more than things: deeds, states and symbols that no picture at hand shows, and things that are there
together. What is said must not be taken for the nouns in it.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import yaml

from training.policyflip.concepts import FOLDER, Concept, Concepts, Shown
from training.policyflip.policies import Decide, Pack, PolicyFlip, World, canonical, negated
from training.policyflip.scenes import Scene
from training.policyflip.voices import Entry, Voices
from training.policyflip.wordings import Bank, join

MOST_ENTRIES = 6  # that a voice has names of classes for
REST = ("everything else", "anything else", "all other pictures", "everything")
TOGETHER = ("{x} with {y}", "{x} together with {y}", "{x} and {y} in the same picture", "{x} next to {y}",
            "{x} beside {y}", "{x} in front of {y}", "{x} near {y}", "pictures that show {x} as well as {y}",
            "both {x} and {y} at once")


@dataclass(frozen=True)
class Scenario:
    says: tuple[str, ...]          # ways to put it
    about: tuple[Concept, ...]     # what it names or hints at: pictures of these do not show it either
    open_with: tuple[Concept, ...]  # but pictures of these may

    def absent_from(self, shown: Shown, concepts: Concepts) -> bool:
        """Whether a picture surely does not show it."""
        return all(concepts.truth(concept, shown) is False for concept in self.open_with)


@dataclass(frozen=True)
class Scenarios:
    harmful: tuple[Scenario, ...]
    harmless: tuple[Scenario, ...]

    @classmethod
    def read(cls, concepts: Concepts, path: Path = FOLDER / "scenarios.yaml") -> Scenarios:
        """Raises ValueError for a noun that nobody knows."""
        document = yaml.safe_load(path.read_text(encoding="utf-8"))
        return cls(*(tuple(_scenario(entry, concepts) for entry in document[kind]) for kind in ("harmful", "harmless")))


class ScenarioFlip(PolicyFlip):
    """PolicyFlip with two more families.

    scenario  rules of several items, most of which no scene shows, whatever nouns they use
    together  two things that count only when both are there
    """

    SHARES: ClassVar[dict[str, int]] = PolicyFlip.SHARES | {"pair": 9, "exception": 10, "blanket": 8, "scenario": 8,
                                                      "together": 3}

    def __init__(self, world: World, bank: Bank, voices: Voices, scenarios: Scenarios, scenes: int = 6) -> None:
        super().__init__(world, bank, voices, scenes)
        self.scenarios = scenarios

    def _scenario(self, rng: random.Random) -> list[Pack]:
        """Scenarios forbidden and others allowed; two things that are shown stand among them, and change sides."""
        x, y = self._two_concepts(rng)
        if x is None or y is None:
            return []
        forbidden, allowed = self._drawn(self.scenarios.harmful, rng, 1), self._drawn(self.scenarios.harmless, rng, 0)
        scenes = self._around(forbidden + allowed, [x, y], rng)
        packs = []
        for bad, good in ((x, y), (y, x)):
            bad, good = (bad if rng.random() < 0.75 else None), (good if rng.random() < 0.5 else None)
            said = self._said(forbidden, bad, rng), self._said(allowed, good, rng)
            packs.append(self._pack(self._written(*said, rng), scenes, self._shows(bad, good, forbidden, allowed),
                                    "scenario"))
        if allowed and rng.random() < 0.4:
            said = (rng.choice(REST),), self._said(allowed, None, rng)
            packs.append(self._pack(self._written(*said, rng), scenes, self._nothing_of(allowed), "scenario"))
        return packs

    def _together(self, rng: random.Random) -> list[Pack]:
        """Two things forbidden where both are there; then nothing else allowed."""
        scene, x, y = self._two_things(rng)
        if scene is None:
            return []
        others = [self.world.with_concept(one, rng) for one in (x, y, x, y)]
        scenes = (scene, *(one for one in others if one), self.world.any(rng))
        said = rng.choice(TOGETHER).format(x=self._name(x, rng).plural, y=self._name(y, rng).plural)

        def both(shown: Shown) -> bool | None:
            truths = self.truth(x, shown), self.truth(y, shown)
            return False if False in truths else None if None in truths else True

        return [self._pack(self._written((said,), (), rng), scenes, both, "together"),
                self._pack(self._written((rng.choice(REST),), (said,), rng), scenes,
                           lambda shown: negated(both(shown)), "together")]

    def _drawn(self, scenarios: Sequence[Scenario], rng: random.Random, least: int) -> list[Scenario]:
        return rng.sample(scenarios, min(len(scenarios), rng.randrange(least, 4)))

    def _around(self, scenarios: list[Scenario], concepts: list[Concept], rng: random.Random) -> tuple[Scene, ...]:
        """Scenes with the concepts, with what the scenarios hint at, and one of anything."""
        hints = [rng.choice(rng.choice(scenarios).about) for _ in range(self.scenes - 3)]
        scenes = [self.world.with_concept(concept, rng) for concept in concepts + hints] + [self.world.any(rng)]
        return tuple(scene for scene in scenes if scene)

    def _said(self, scenarios: list[Scenario], concept: Concept | None, rng: random.Random) -> tuple[str, ...]:
        """Both as items of a rule, in any order."""
        items = [rng.choice(scenario.says) for scenario in scenarios]
        if concept is not None:
            items.append(self._item(self._name(concept, rng), rng))
        return tuple(rng.sample(items, len(items)))

    def _written(self, forbids: tuple[str, ...], allows: tuple[str, ...], rng: random.Random) -> str:
        """A rule in canonical form, or the same said by a voice."""
        if rng.random() < 0.55:
            title = rng.choice((f"Rule {rng.randrange(1, 30)}", "Content", "policy", forbids[0].capitalize()))
            return canonical(title, forbids, allows)
        whole, many = forbids[0] in REST, len(forbids) + len(allows) > MOST_ENTRIES
        entries = []
        for items, forbidden in ((forbids, True), (allows, False)):
            apart = len(items) < 2 or not many and rng.random() < 0.5
            entries += [Entry(item, forbidden, whole and forbidden)
                        for item in (items if apart else [join(list(items), rng)])]
        return self._dress(self.voices.say(rng.sample(entries, len(entries)), rng), rng)

    def _shows(self, bad: Concept | None, good: Concept | None, forbidden: list[Scenario], allowed: list[Scenario]
               ) -> Decide:
        """Broken if what is forbidden shows. What may be allowed after all, or may be a scenario, is left open."""
        def decide(shown: Shown) -> bool | None:
            if not all(scenario.absent_from(shown, self.world.concepts) for scenario in forbidden):
                return None
            broken = self.truth(bad, shown) if bad else False
            excused = good is not None and self.truth(good, shown) is not False
            hinted = any(self.truth(concept, shown) is not False for scenario in allowed for concept in scenario.about)
            return None if broken and (excused or hinted) else broken
        return decide

    def _nothing_of(self, allowed: list[Scenario]) -> Decide:
        """Broken by all that has nothing of what is allowed; what hints at it is left open."""
        def decide(shown: Shown) -> bool | None:
            hinted = any(self.truth(concept, shown) is not False for scenario in allowed
                         for concept in scenario.about + scenario.open_with)
            return None if hinted else True
        return decide

    def _two_things(self, rng: random.Random) -> tuple[Scene, Concept, Concept] | tuple[None, None, None]:
        """A scene and two concepts, each shown by something in it that does not show the other."""
        for _ in range(40):
            scene = self.world.any(rng)
            x, y = self.world.concept_in(scene, rng), self.world.concept_in(scene, rng)
            if x and y:
                truths = {(self.truth(x, part), self.truth(y, part)) for part in self._parts(scene.shown)}
                if {(True, False), (False, True)} <= truths:
                    return scene, x, y
        return None, None, None

    def _parts(self, shown: Shown) -> list[Shown]:
        """Each label and each noun of a scene alone."""
        concepts = self.world.concepts
        nouns = [] if shown.labels else shown.synsets
        return [concepts.shown(frozenset({label})) for label in sorted(shown.labels)] + [
            Shown(frozenset(), frozenset({noun}), concepts.wordnet.ancestors(noun), "") for noun in sorted(nouns)]


def _scenario(entry: dict, concepts: Concepts) -> Scenario:
    return Scenario(tuple(entry["says"]), tuple(_concept(name, concepts) for name in entry["about"]),
                    tuple(_concept(name, concepts) for name in entry.get("open", ())))


def _concept(name: str, concepts: Concepts) -> Concept:
    if name in concepts.groups:
        return concepts.groups[name]
    synset = concepts.wordnet.find(name)
    if synset is None:
        raise ValueError(f"scenarios.yaml: {name!r} is neither a group of concepts.yaml nor a visible noun of WordNet")
    return concepts.concept_of(synset)
