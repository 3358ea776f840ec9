"""A world of two dozen nouns and photos of them, small enough to know every answer by heart.

    animal: bird (eagle, owl, duck, flamingo), dog (poodle, beagle, dalmatian)      fruit: apple, pear, banana
    vehicle: car, bus, truck      furniture: table, desk, seating (chair, sofa)        weapon: gun, sword, knife
    tool: hammer, saw             held out: flamingo, dalmatian, banana, and the word "seating"
"""

from __future__ import annotations

import hashlib
import random
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from training.policyflip.concepts import Concepts, Heldout
from training.policyflip.policies import Pack, PolicyFlip
from training.policyflip.scenes import PhotoWorld, WordWorld
from training.policyflip.voices import Voices
from training.policyflip.wordings import Bank
from training.wordnet import Synset, WordNet

Read = TypeVar("Read")

TREE = {  # lexicographer file, hypernym, nouns
    "entity": (3, None), "animal": (5, "entity"), "bird": (5, "animal"), "dog": (5, "animal"), "fruit": (13, "entity"),
    "vehicle": (6, "entity"), "furniture": (6, "entity"), "seating": (6, "furniture"), "weapon": (6, "entity"),
    "tool": (6, "entity"),
    **{leaf: (file, parent) for file, parent, leaves in (
        (5, "bird", "eagle owl duck flamingo"), (5, "dog", "poodle beagle dalmatian"),
        (13, "fruit", "apple pear banana"), (6, "vehicle", "car bus truck"), (6, "furniture", "table desk"),
        (6, "seating", "chair sofa"), (6, "weapon", "gun sword knife"), (6, "tool", "hammer saw"))
       for leaf in leaves.split()},
}
CONCEPTS = """
groups:
  weapon: {names: [weapon | weapons, arms], labels: [gun], kinds: [gun, sword], maybe: [knife]}
  blade: {names: [blade | blades], kinds: [sword, saw]}
  pet: {names: [pet | pets], labels: [poodle, beagle]}
  wading_bird: {names: [wading bird | wading birds], labels: [flamingo]}
synsets: {pistol: [gun]}
"""
HELDOUT = "{leaves: [flamingo, dalmatian, banana], groups: [seating]}"
HELDOUT_WORDS = ("flamingo", "dalmatian", "banana", "seating", "wading bird")
PHOTOS = (  # the labels of each
    "eagle", "owl", "duck", "flamingo", "bird", "poodle", "beagle", "dalmatian", "dog", "apple", "pear", "banana",
    "car", "bus", "truck", "table", "desk", "chair", "sofa", "gun", "sword", "knife", "pistol", "hammer", "saw",
    "dog,car", "poodle,sofa", "apple,table")


def offset(noun: str) -> str:
    return f"{list(TREE).index(noun):08d}"


def wordnet() -> WordNet:
    synsets = {offset(noun): Synset(offset(noun), file, (noun,), (offset(parent),) if parent else (), False)
               for noun, (file, parent) in TREE.items()}
    return WordNet(synsets, {noun: (offset(noun),) for noun in TREE}, frozenset(TREE))


def concepts() -> Concepts:
    return _read(CONCEPTS, lambda path: Concepts.read(wordnet(), path))


def heldout(concepts: Concepts) -> Heldout:
    return _read(HELDOUT, lambda path: Heldout.read(concepts, path))


def photo_world(name_heldout: bool = False) -> PhotoWorld:
    """One photo for each entry of PHOTOS; the eye names all of its labels."""
    known = concepts()
    labels = [frozenset(entry.split(",")) for entry in PHOTOS]
    held = Heldout(frozenset(), frozenset(), frozenset()) if name_heldout else heldout(known)
    return PhotoWorld(known, held, [known.shown(some, "zoo") for some in labels],
                      lambda row, rng: [(label, rng.uniform(0.5, 1)) for label in sorted(labels[row])])


def word_world() -> WordWorld:
    known = concepts()
    return WordWorld(known, heldout(known), ["gun", "poodle", "apple"])


def draws(world: PhotoWorld | WordWorld, count: int, seed: int = 0, easy: bool = False,
          bank: Bank | None = None) -> list[list[Pack]]:
    """`count` families of packs in the wordings of training, or in nothing but the phrases of `bank`."""
    whole = Bank.read()
    flip = PolicyFlip(world, bank) if bank else PolicyFlip(world, whole, Voices.read(whole))
    rng = random.Random(seed)
    return [flip.family(rng, easy=easy) for _ in range(count)]


def digest(families: list[list[Pack]]) -> str:
    """Of everything that training sees of them: texts, verdicts, tags."""
    seen = [(pack.text, pack.broken, [scene.tags(random.Random(1)) for scene in pack.scenes])
            for packs in families for pack in packs]
    return hashlib.sha256(repr(seen).encode()).hexdigest()


def _read(text: str, read: Callable[[Path], Read]) -> Read:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "world.yaml"
        path.write_text(text, encoding="utf-8")
        return read(path)


if __name__ == "__main__":  # for a test that compares processes
    print(digest(draws(photo_world(), 40)), digest(draws(word_world(), 40)))
