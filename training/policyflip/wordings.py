"""The bank of wordings: phrases in which people forbid and allow, with slots for the concepts.

Slots: {x} {y} {z} noun phrases, {X} {Y} {Z} the same with a capital, {a} singular with article, {n} the bare noun.
"""

from __future__ import annotations

import random
import re
from dataclasses import dataclass, field
from pathlib import Path

import yaml

from training.policyflip.concepts import FOLDER, Name

_SLOT = re.compile(r"\{([xXyYzZan])\}")
_CLASH = re.compile(r"\b(no|any|all|every|only|pictures?|photos?|images?|anything|nothing)\b", re.IGNORECASE)
_BARE = re.compile(r"[\"'=|_`{}\[\]]")  # code and tables take bare nouns
_NO = re.compile(r"\bno \{[xz]\}", re.IGNORECASE)  # may be said of each: "no dogs and no owls"
PLAIN = "plain.yaml"  # the file of a bank whose phrases most people write first

_WORD = re.compile(r"[A-Za-z]{4,}")
_DIGITS = {"a": "4", "e": "3", "i": "1", "o": "0", "s": "5", "t": "7"}
_CONFUSIONS = (  # what is written, and what is written for it
    (r"([bcdfglmnprstz])\1", r"\1"), (r"([aeou])([dlmnprt])(?=[aeiouy])", r"\1\2\2"), ("ph", "f"), ("ck", "k"),
    ("c(?=[aou])", "k"), ("c(?=[eiy])", "s"), ("x", "ks"), ("qu", "kw"), ("ei", "ie"), ("ie", "ei"), ("ou", "u"),
    ("ow", "ou"), ("ee", "ea"), ("ea", "ee"), ("ai", "ay"), ("tion", "shun"), ("able$", "ible"), ("ible$", "able"),
    ("ed$", "d"), ("ed$", "t"), ("er$", "a"), ("ing$", "in"), ("y$", "ie"), ("y$", "ey"), ("s$", "z"), ("th", "d"),
    ("wh", "w"), ("igh", "y"), ("ght", "t"), ("kn", "n"), ("gh", ""), ("ence", "ance"), ("ance", "ence"), ("al$", "el"),
    ("el$", "al"), ("le$", "el"), ("e$", ""), ("o", "u"), ("u", "o"), ("i", "e"), ("e", "i"), ("a", "e"), ("h", ""))


@dataclass(frozen=True)
class Bank:
    phrases: dict[str, tuple[str, ...]]  # kind of phrase → phrases
    plain: dict[str, tuple[str, ...]] = field(default_factory=dict)  # of these, the plain ones

    @classmethod
    def read(cls, folder: Path = FOLDER / "bank") -> Bank:
        """The phrases of all files of a folder, in the order of the files' names."""
        phrases: dict[str, tuple[str, ...]] = {}
        plain: dict[str, tuple[str, ...]] = {}
        for path in sorted(folder.glob("*.yaml")):
            read = {kind: tuple(some) for kind, some in yaml.safe_load(path.read_text(encoding="utf-8")).items()}
            for kind, some in read.items():
                phrases[kind] = phrases.get(kind, ()) + some
            if path.name == PLAIN:
                plain = read
        return cls(phrases, plain)

    def plainly(self) -> Bank:
        """Of each kind the plain phrases alone; all of them where there are no plain ones."""
        return Bank(self.phrases | self.plain)

    def phrase(self, kind: str, rng: random.Random, **slots: list[Name]) -> str:
        """A phrase of a kind with its slots filled; each slot is a list of names, joined as people do."""
        template = rng.choice(self.phrases[kind])
        if "{a}" in template and len(slots["x"]) > 1:
            return self.phrase(kind, rng, **slots)
        return fill(template, {slot: self.noun_phrase(names, template, rng) for slot, names in slots.items()},
                    article=slots["x"][0].with_article if "x" in slots else "")

    def noun_phrase(self, names: list[Name], template: str, rng: random.Random) -> str:
        nouns = [name.plural for name in names]
        if _NO.search(template) and rng.random() < 0.5:
            nouns[1:] = [f"no {noun}" for noun in nouns[1:]]
        nouns = join(nouns, rng)
        if len(names) > 1 or _BARE.search(_SLOT.sub("", template)) or rng.random() < 0.55:
            return nouns
        rendering = rng.choice(self.phrases["rendering"])
        if _CLASH.search(rendering) and _CLASH.search(template):
            return nouns
        return fill(rendering, {"n": nouns})


def fill(template: str, slots: dict[str, str], article: str = "") -> str:
    """Put noun phrases into the slots of a template; a capital slot gets a capital first letter."""
    def put(match: re.Match) -> str:
        slot = match[1]
        if slot == "a":
            return article
        text = slots[slot.lower()]
        return text[:1].upper() + text[1:] if slot.isupper() else text
    return _SLOT.sub(put, template)


def join(nouns: list[str], rng: random.Random) -> str:
    """"a", "a and b", "a, b or c", …"""
    if len(nouns) == 1:
        return nouns[0]
    last = rng.choice([" and ", " or ", ", ", " and also ", " & "])
    return ", ".join(nouns[:-1]) + last + nouns[-1]


def respell(text: str, rng: random.Random, share: float) -> str:
    """`share` of the longer words as people write who spell by ear, in haste or for fun; one habit for the text."""
    habit = rng.choice((_by_ear, _by_ear, _by_ear, _without_vowels, _in_digits, _stretched))
    return _WORD.sub(lambda word: habit(word[0], rng) if rng.random() < share else word[0], text)


def _by_ear(word: str, rng: random.Random) -> str:
    """Up to three of the usual confusions of spelling."""
    for pattern, written in rng.sample(_CONFUSIONS, len(_CONFUSIONS))[:rng.randrange(8, 24)]:
        word = re.sub(pattern, written, word, count=1, flags=re.IGNORECASE)
    return word


def _without_vowels(word: str, rng: random.Random) -> str:
    return word[0] + re.sub("[aeiou]", lambda vowel: "" if rng.random() < 0.7 else vowel[0], word[1:])


def _in_digits(word: str, rng: random.Random) -> str:
    return "".join(_DIGITS.get(letter, letter) if rng.random() < 0.6 else letter for letter in word)


def _stretched(word: str, rng: random.Random) -> str:
    place = rng.randrange(1, len(word))
    return word[:place] + word[place] * rng.randrange(1, 4) + word[place:]


def misspell(text: str, rng: random.Random, rate: float) -> str:
    """Slips of the keyboard: at `rate` per letter, letters swapped, dropped or doubled."""
    letters = list(text)
    for place in range(len(letters) - 1):
        if letters[place].isalpha() and rng.random() < rate:
            slip = rng.randrange(3)
            if slip == 0 and letters[place + 1].isalpha():
                letters[place], letters[place + 1] = letters[place + 1], letters[place]
            else:
                letters[place] = "" if slip == 1 else letters[place] * 2
    return "".join(letters)
