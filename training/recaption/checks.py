"""Whether a rewrite only added or replaced words. What it may not do: drop what the caption says, or write it anew.

The caption and its rewrite are compared word by word (difflib). A word that was taken out must occur elsewhere in the
rewrite, or new words of its kind must stand in its place: a noun for a noun, anything that carries meaning for a
number, a verb or an adjective; where a noun is replaced, its adjectives may go with it ("red liquid", "blood"). A word
that turns what it stands with ("no", "without", "nearly") stays in its place, or another of its kind does. HanTa, a
tagger that brings its model along, tells the kinds of words apart.
"""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass
from difflib import SequenceMatcher
from functools import cache
from threading import Lock
from typing import TYPE_CHECKING

from training.errors import TrainingError

if TYPE_CHECKING:
    from HanTa.HanoverTagger import HanoverTagger

REJECTION_KINDS = (
    "structure",   # other sentences, another layout, too few words kept or too many added, a word without end
    "lost_nouns",  # things that the caption names are gone
    "lost_words",  # colours, numbers, actions, negations and other facts are gone
    "denials",     # a "not" or the like came to stand before what the caption says
)
MIN_KEPT = 0.6        # share of the caption's words that stay, in their order; a minimal edit keeps most
MAX_GROWTH = 2.0      # times the caption's words …
GROWTH_ALLOWANCE = 10  # … and so many more, for captions of a few words
MAX_WORD = 60         # letters; the tagger's time grows steeply with them, some 100 take minutes
# Marks that a plain sentence gains only by an introduction ("Here it is: …") or by formatting; a hyphen within a word
# is none.
LAYOUT_MARK = re.compile(r"[:*#`|<>\[\]{}_=•–—]|(?<!\w)-|-(?!\w)")
QUOTES = ("\"", "“", "”", "„", "'", "‘", "’", "‚", "«", "»", "‹", "›")
# Words that turn what they stand with, and those that can take their place.
TURNS = {"not": ("no", "not", "without", "never", "none", "nobody", "nothing", "nowhere", "neither", "nor", "cannot"),
         "nearly": ("nearly", "almost")}

# Tags of the British National Corpus (C5), in which the English model of HanTa speaks.
NOUNS = ("NN", "NP")
ADJECTIVES = "AJ"
FACTS = (*NOUNS, ADJECTIVES, "CRD", "ORD", "VV")  # numbers, and verbs but for be, do, have and modals
ARTICLES = frozenset({"a", "an"})   # one word: the noun behind it decides

_TOKEN = re.compile(r"[^\W_]+(?:['’-][^\W_]+)*|[^\w\s]|_")
_SENTENCE_END = re.compile(r"(?<=[.!?])[\"'”’)]*\s+")
_reading = Lock()  # HanTa keeps caches that are not made for threads


@dataclass(frozen=True)
class Check:
    """What a rewrite did to a caption. `kind` is None if it may be trained on."""

    kind: str | None
    message: str | None
    kept: float              # share of the caption's words, in order
    lost: tuple[str, ...]    # words of the caption that nothing stands for
    added: tuple[str, ...]   # words with a meaning that the caption has not, or not so often


@dataclass(frozen=True)
class Word:
    text: str   # lower case
    lemma: str  # lower case: "guns" → "gun"
    tag: str

    @property
    def is_noun(self) -> bool:
        return self.tag.startswith(NOUNS) and self.turn is None

    @property
    def is_fact(self) -> bool:
        return self.tag.startswith(FACTS) or self.turn is not None

    @property
    def turn(self) -> str | None:
        """A key of TURNS for a word of that kind."""
        if self.text.endswith(("n't", "n’t")):
            return "not"
        return next((turn for turn, words in TURNS.items() if self.text in words), None)

    def may_stand_for(self, gone: Word) -> bool:
        return self.turn == gone.turn and (self.is_noun or not gone.is_noun)


def check_rewrite(caption: str, rewrite: str) -> Check:
    """Compare a caption and its rewrite, both stripped and not empty; English."""
    if word := endless_word(caption) or endless_word(rewrite):
        message = f"{word[:MAX_WORD]}… has {len(word)} letters, {MAX_WORD} may a word have"
        return Check("structure", message, 0.0, (), ())
    before, after = read_words(caption), read_words(rewrite)
    edits = SequenceMatcher(None, [word.text for word in before], [word.text for word in after],
                            autojunk=False).get_opcodes()
    kept = sum(end - start for edit, start, end, *_ in edits if edit == "equal") / max(len(before), 1)
    lost = _lost(before, after, edits)
    added = Counter(word.text for word in after if word.is_fact) - Counter(word.text for word in before)
    kind, message = _judge(caption, rewrite, before, after, kept, lost, _denied(before, after, edits))
    return Check(kind, message, kept, tuple(word.text for word in lost), tuple(added))


def endless_word(text: str) -> str | None:
    """The first word that is longer than MAX_WORD, which no text in a language has."""
    return next((token for token in _TOKEN.findall(text) if len(token) > MAX_WORD), None)


def read_words(text: str) -> list[Word]:
    """The words of a text with their lemmas and tags, sentence by sentence; marks are left out."""
    words = []
    with _reading:
        for sentence in _sentences(text):
            for token, lemma, tag in load_tagger().tag_sent(_TOKEN.findall(sentence)):
                if token[0].isalnum():
                    plain = token.lower()
                    words.append(Word("a" if plain in ARTICLES else plain, lemma.lower(), tag))
    return words


@cache
def load_tagger() -> HanoverTagger:
    """The tagger, loaded once. Raises TrainingError if it is not installed."""
    try:
        from HanTa.HanoverTagger import HanoverTagger
    except ImportError as error:
        raise TrainingError(f"checking rewrites needs the package HanTa ({error}); install it: "
                            "pip install 'safeguard[train]'") from error
    return HanoverTagger("morphmodel_en.pgz")


def _judge(caption: str, rewrite: str, before: list[Word], after: list[Word], kept: float,
           lost: list[Word], denied: list[tuple[Word, Word]]) -> tuple[str | None, str | None]:
    lines = [len([line for line in text.splitlines() if line.strip()]) for text in (caption, rewrite)]
    if lines[0] != lines[1]:
        return "structure", f"the caption has {lines[0]} lines, the rewrite {lines[1]}"
    marks = [Counter(LAYOUT_MARK.findall(text)) for text in (caption, rewrite)]
    if new := marks[1] - marks[0]:
        return "structure", f"the rewrite brings in {' '.join(sorted(new))}: an introduction or formatting"
    if rewrite.startswith(QUOTES) and not caption.startswith(QUOTES):
        return "structure", "the rewrite stands in quotation marks"
    sentences = [len(_sentences(text)) for text in (caption, rewrite)]
    if sentences[0] != sentences[1]:
        return "structure", f"the caption has {sentences[0]} sentences, the rewrite {sentences[1]}"
    most = int(MAX_GROWTH * len(before) + GROWTH_ALLOWANCE)
    if len(after) > most:
        return "structure", f"the caption has {len(before)} words, the rewrite {len(after)}; at most {most} may it have"
    if nouns := [word.text for word in lost if word.is_noun]:
        return "lost_nouns", f"gone without a noun in place: {', '.join(nouns)}"
    if lost:
        return "lost_words", f"gone without anything in place: {', '.join(word.text for word in lost)}"
    if denied:
        return "denials", f"denied in the rewrite: {', '.join(f'{turn.text} {word.text}' for turn, word in denied)}"
    if kept < MIN_KEPT:
        return "structure", f"{kept:.0%} of the caption's words are kept in their order, {MIN_KEPT:.0%} must be"
    return None, None


def _lost(before: list[Word], after: list[Word], edits: list[tuple[str, int, int, int, int]]) -> list[Word]:
    """Words with a meaning that were taken out, less those that moved and those that others of their kind replace. One
    that turns others may not move: elsewhere it turns something else."""
    there = Counter(word.lemma for word in after) - Counter(word.lemma for word in _spans(before, edits, "equal"))
    known = {word.lemma for word in before}
    lost = []
    for edit, start, end, new_start, new_end in edits:
        if edit not in ("delete", "replace"):
            continue
        gone = [word for word in before[start:end] if word.is_fact and (word.turn or not _take(there, word.lemma))]
        new = [word for word in after[new_start:new_end] if word.is_fact and (word.turn or word.lemma not in known)]
        replaced = False  # a noun of this span
        for word in sorted(gone, key=lambda word: not word.is_noun):  # nouns have the first choice
            stand_in = next((one for one in new if one.may_stand_for(word)), None)
            if stand_in is not None:
                new.remove(stand_in)
                replaced |= word.is_noun
            elif word.turn or not (replaced and word.tag.startswith(ADJECTIVES)):
                lost.append(word)
    return lost


def _denied(before: list[Word], after: list[Word],
            edits: list[tuple[str, int, int, int, int]]) -> list[tuple[Word, Word]]:
    """New negations, each with the word of the caption that it turns: the next one with a meaning. One before a new
    word ("without clothes") says something more, and denies nothing."""
    kept = {place for edit, *_, start, end in edits if edit == "equal" for place in range(start, end)}
    facts = [place for place, word in enumerate(after) if word.is_fact and word.turn is None]
    denied = []
    for _, start, end, new_start, new_end in edits:
        old = sum(word.turn == "not" for word in before[start:end])
        turns = [place for place in range(new_start, new_end) if after[place].turn == "not"][old:]
        for turn in turns:
            fact = next((place for place in facts if place > turn), None)
            if fact in kept:
                denied.append((after[turn], after[fact]))
    return denied


def _take(there: Counter, lemma: str) -> bool:
    """Whether a word that was taken out stands elsewhere, moved or in another form; each place serves once."""
    found = there[lemma] > 0
    there[lemma] -= found
    return found


def _spans(words: list[Word], edits: list[tuple[str, int, int, int, int]], wanted: str) -> list[Word]:
    return [word for edit, start, end, *_ in edits if edit == wanted for word in words[start:end]]


def _sentences(text: str) -> list[str]:
    return [sentence for line in text.splitlines() for sentence in _SENTENCE_END.split(line.strip()) if sentence]
