"""The bank of wordings: phrases in which people forbid and allow, with slots for the concepts.

Slots: {x} {y} {z} noun phrases, {X} {Y} {Z} the same with a capital, {a} singular with article, {n} the bare noun.
"""

from __future__ import annotations

import random
import re
from dataclasses import dataclass
from pathlib import Path

import yaml

from training.policyflip.concepts import FOLDER, Name

_SLOT = re.compile(r"\{([xXyYzZan])\}")
_CLASH = re.compile(r"\b(no|any|all|every|only|pictures?|photos?|images?|anything|nothing)\b", re.IGNORECASE)
_PLAIN = re.compile(r"[\"'=|_`{}\[\]]")  # code and tables take bare nouns


@dataclass(frozen=True)
class Bank:
    phrases: dict[str, tuple[str, ...]]  # kind of phrase → phrases

    @classmethod
    def read(cls, path: Path = FOLDER / "wordings_train.yaml") -> Bank:
        document = yaml.safe_load(path.read_text(encoding="utf-8"))
        return cls({kind: tuple(phrases) for kind, phrases in document.items()})

    def phrase(self, kind: str, rng: random.Random, **slots: list[Name]) -> str:
        """A phrase of a kind with its slots filled; each slot is a list of names, joined as people do."""
        template = rng.choice(self.phrases[kind])
        if "{a}" in template and len(slots["x"]) > 1:
            return self.phrase(kind, rng, **slots)
        return fill(template, {slot: self.noun_phrase(names, template, rng) for slot, names in slots.items()},
                    article=slots["x"][0].with_article if "x" in slots else "")

    def noun_phrase(self, names: list[Name], template: str, rng: random.Random) -> str:
        nouns = join([name.plural for name in names], rng)
        if len(names) > 1 or _PLAIN.search(_SLOT.sub("", template)) or rng.random() < 0.55:
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
