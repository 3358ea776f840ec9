"""The five levels, and which photos break them."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import yaml

from training.policyflip.concepts import Concept, Concepts, Shown
from training.policyflip.policies import Pack
from training.policyflip.scenes import PhotoWorld, Scene

LEVELS = Path(__file__).with_name("levels.yaml")


@dataclass(frozen=True)
class Level:
    name: str
    text: str
    forbids: tuple[Concept, ...]

    def broken_by(self, shown: Shown, concepts: Concepts) -> bool | None:
        """Whether a photo that shows this breaks the level; None where its labels leave that open."""
        truths = [concepts.truth(concept, shown) for concept in self.forbids]
        return True if any(truths) else None if None in truths else False


@dataclass(frozen=True)
class Judged:
    """Scenes that every level has a verdict on."""

    scenes: tuple[Scene, ...]
    broken: dict[str, tuple[bool, ...]]  # by level, in the order of the scenes


def read_levels(concepts: Concepts, path: Path = LEVELS) -> list[Level]:
    """The levels in order. Raises KeyError for a group that concepts.yaml lacks."""
    document = yaml.safe_load(path.read_text(encoding="utf-8"))
    return [Level(entry["name"], entry["text"].strip(), tuple(concepts.groups[name] for name in entry["forbids"]))
            for entry in document["levels"]]


def judged_photos(levels: Sequence[Level], world: PhotoWorld, most: int, seed: int) -> Judged:
    """Up to `most` photos of a world, the same for the same seed; those that any level leaves open are not used."""
    known = [scene for scene in world.scenes
             if all(level.broken_by(scene.shown, world.concepts) is not None for level in levels)]
    scenes = tuple(random.Random(seed).sample(known, min(most, len(known))))
    return Judged(scenes, {level.name: tuple(bool(level.broken_by(scene.shown, world.concepts)) for scene in scenes)
                           for level in levels})


def draw(level: str, judged: Judged, packs: int, scenes: int, rng: random.Random, text: str) -> list[Pack]:
    """Packs of one level, half of their scenes broken where the level is broken at all."""
    sides = {side: [scene for scene, broken in zip(judged.scenes, judged.broken[level], strict=True) if broken is side]
             for side in (True, False)}
    drawn = []
    for _ in range(packs):
        chosen = [rng.choice([side for side in (True, False) if sides[side]]) for _ in range(scenes)]
        drawn.append(Pack(text, tuple(rng.choice(sides[side]) for side in chosen), tuple(chosen), level))
    return drawn
