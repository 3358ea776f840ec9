"""Policies composed from words and frames: each subject gets the word, action or answer of its side.

The bank (wordings.py) holds whole phrases; here a voice is drawn, such as lines with one of 490 pairs of labels,
or questions with answers, or classes that are defined first, and says of every subject in turn whether it is allowed.
Both sides and both orders come equally often, and word and frame meet anew each time: what decides the verdict can only
be read.
"""

from __future__ import annotations

import random
import re
from dataclasses import dataclass
from pathlib import Path

import yaml

from training.policyflip.concepts import FOLDER
from training.policyflip.wordings import Bank, fill

_SLOT = re.compile(r"\{([sSwWnNqa]|act|Act)\}")
# A ban on "all pictures" inside a sentence with one of these words may mean a ban on the whole set or on any of it.
_SCOPE = re.compile(r"\b(no|not|never|none|nothing|nobody|any|all|every|only|single|one)\b|n't", re.IGNORECASE)


@dataclass(frozen=True)
class Entry:
    """What a policy says of one subject."""

    subject: str  # a noun phrase in the plural, or a mass noun
    forbidden: bool
    whole: bool = False  # the subject is everything, the rest or nothing: sentences with a "not" would be ambiguous


@dataclass(frozen=True)
class Voices:
    lexicon: dict[str, list]
    bank: Bank

    @classmethod
    def read(cls, bank: Bank, path: Path = FOLDER / "voices.yaml") -> Voices:
        return cls(yaml.safe_load(path.read_text(encoding="utf-8")), bank)

    def say(self, entries: list[Entry], rng: random.Random) -> str:
        """The entries in their order, all in one voice."""
        voices = (self.labels, self._actions, self._answers, self._sentences, self._definitions)
        return rng.choices(voices, (5, 2, 3, 3, 2))[0](entries, rng)

    def subject(self, kind: str, rng: random.Random, x: str = "", z: str = "") -> str:
        """A subject that is no concept: everything_else, everything_but (x), others_of (x, besides z), …"""
        return fill(rng.choice(self.lexicon[kind]), {"x": x, "z": z})

    def labels(self, entries: list[Entry], rng: random.Random) -> str:
        """The entries as a list, a table or lines of code with one pair of labels."""
        pairs, frame = self.lexicon["labels"], rng.choice(self.lexicon["label_frames"])
        pair = rng.choice(pairs)
        if rng.random() < 0.2:
            pair = (pair[0], rng.choice(pairs)[1])
        if rng.random() < 0.1:  # as in chats: a sign and a cry
            pair = tuple(" ".join(both) for both in zip(pair, rng.choice(pairs), strict=True))
        change = rng.choice((str, str, str, str.upper, str.capitalize))
        lines = [_put(frame, s=entry.subject, w=change(pair[0 if entry.forbidden else 1])) for entry in entries]
        if frame.startswith("|") and rng.random() < 0.6:
            head = rng.choice(self.lexicon["table_heads"])
            head = head if frame.index("{s}") < frame.index("{w}") else head[::-1]
            lines = [f"| {head[0]} | {head[1]} |", "|---|---|", *lines]
        if "\n" in frame or frame.startswith(("|", "<", "{\"", "case", "\"")) or "\t" in frame or rng.random() < 0.6:
            return "\n".join(lines)
        return (" " if frame.endswith(".") else rng.choice((". ", "; ", ", ", " / "))).join(lines)

    def _actions(self, entries: list[Entry], rng: random.Random) -> str:
        frame = rng.choice(self.lexicon["action_frames"])
        sentences = []
        for entry in entries:
            negated = not entry.whole and rng.random() < 0.15
            actions = "actions_forbidden" if entry.forbidden != negated else "actions_allowed"
            own = rng.choice(self.lexicon["action_frames_negated"]) if negated else frame
            sentences.append(_put(own, s=entry.subject, act=rng.choice(self.lexicon[actions])))
        return _join(sentences, rng)

    def _answers(self, entries: list[Entry], rng: random.Random) -> str:
        frame = rng.choice(self.lexicon["question_frames"])
        exchanges = []
        for place, entry in enumerate(entries):
            shares = (4, 0 if entry.whole else 2, 6 if place else 2)
            kind = rng.choices(("ask_allowed", "ask_forbidden", "ask_open"), shares)[0]
            question = _put(rng.choice(self.lexicon[kind]), s=entry.subject)
            if place and rng.random() < 0.15:
                question = "And " + question[:1].lower() + question[1:]
            exchanges.append(_put(frame, q=question, a=self._answer(kind, entry.forbidden, rng)))
        apart = rng.choice(("\n", "\n\n")) if "\n" in frame or rng.random() < 0.6 else " "
        return apart.join(exchanges)

    def _answer(self, kind: str, forbidden: bool, rng: random.Random) -> str:
        verdict = rng.choice(self.lexicon["answers_forbidden" if forbidden else "answers_allowed"])
        short = "answers_yes" if forbidden == (kind == "ask_forbidden") else "answers_no"
        if kind == "ask_open" or rng.random() < 0.3:
            return verdict
        reply = rng.choice(self.lexicon[short])
        return reply if rng.random() < 0.5 else f"{reply} {verdict}"

    def _sentences(self, entries: list[Entry], rng: random.Random) -> str:
        return _join([fill(self._template(entry, rng), {"x": entry.subject}) for entry in entries], rng)

    def _definitions(self, entries: list[Entry], rng: random.Random) -> str:
        """What belongs to class A, to class B, …; then what holds for each class, in an order of its own."""
        names = rng.choice(self.lexicon["class_names"])
        first = rng.randrange(len(names) - len(entries) + 1)
        called = [names[first + place] for place in range(len(entries))]
        frame = rng.choice(self.lexicon["definition_frames"])
        defined = [_put(frame, s=entry.subject, n=name) for entry, name in zip(entries, called, strict=True)]
        judged = [Entry(name, entry.forbidden) for entry, name in zip(entries, called, strict=True)]
        voice = rng.choice((self.labels, self.labels, self._actions, self._sentences))
        verdicts = voice(rng.sample(judged, len(judged)), rng)
        parts = (verdicts, layout(defined, rng)) if rng.random() < 0.25 else (layout(defined, rng), verdicts)
        return rng.choice(("\n", "\n\n", " ") if "\n" not in "".join(parts) else ("\n", "\n\n")).join(parts)

    def _template(self, entry: Entry, rng: random.Random) -> str:
        while True:
            template = rng.choice(self.bank.phrases["forbid" if entry.forbidden else "allow"])
            if "{a}" not in template and not (entry.whole and _SCOPE.search(template)):
                return template


def layout(sentences: list[str], rng: random.Random) -> str:
    """Sentences as prose, lines, bullets, numbers or clauses."""
    style = rng.randrange(6)
    if style < 2:
        return " ".join(sentence if sentence[-1:] in ".!?" else sentence + "." for sentence in sentences)
    marks = (["- "] * 99, ["* "] * 99, [f"{n}. " for n in range(1, 100)], [f"({chr(96 + n)}) " for n in range(1, 27)])
    return "\n".join(mark + sentence for mark, sentence in zip(marks[style - 2], sentences, strict=False))


def _join(sentences: list[str], rng: random.Random) -> str:
    """As layout does, or two clauses tied by a word."""
    if len(sentences) == 2 and "\n" not in "".join(sentences) and rng.random() < 0.3:
        first, second = (sentence.rstrip(".") for sentence in sentences)
        return first + rng.choice((", but ", "; ", " and ", ", whereas ", ", while ", ". On the other hand, ", " | ",
                                   ". But ", ", though ")) + second[:1].lower() + second[1:] + "."
    return layout(sentences, rng)


def _put(frame: str, **slots: str) -> str:
    def put(match: re.Match) -> str:
        text = slots[match[1].lower()]
        return text[:1].upper() + text[1:] if match[1][0].isupper() else text
    return _SLOT.sub(put, frame)
