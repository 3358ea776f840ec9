"""Policies composed from words and frames: both sides in every voice, in the order of the entries."""

from __future__ import annotations

import random
from collections import Counter

import pytest

from training.policyflip.voices import Entry, Voices, layout
from training.policyflip.wordings import Bank

VOICES = Voices.read(Bank.read())
DOGS, OWLS = Entry("dogs", True), Entry("owls", False)
LABELS = {side: {pair[side].lower() for pair in VOICES.lexicon["labels"]} for side in (0, 1)}


def said(entries: list[Entry], times: int = 400) -> list[str]:
    rng = random.Random(0)
    return [VOICES.say(entries, rng) for _ in range(times)]


@pytest.mark.parametrize("entries", [[DOGS, OWLS], [OWLS, DOGS]])
def test_a_policy_names_its_subjects_in_the_order_of_the_entries(entries):
    for text in said(entries):
        places = [text.lower().index(entry.subject) for entry in entries]
        assert places == sorted(places), text


def test_no_slot_is_left_open():
    texts = said([DOGS, OWLS]) + said([DOGS]) + said([Entry("everything else", False, whole=True), DOGS])
    assert [text for text in texts if any(slot in text for slot in ("{s}", "{S}", "{w}", "{W}", "{x}", "{act}"))] == []


def test_wordings_hardly_ever_repeat():
    assert len(set(said([DOGS, OWLS]))) > 380


def test_the_reverse_policy_differs_in_nothing_but_its_words_of_polarity():
    forward, reverse = (VOICES.labels([Entry("dogs", side), Entry("owls", not side)], random.Random(3))
                        for side in (True, False))
    assert forward != reverse
    assert Counter(forward.lower().replace("dogs", "owls")) == Counter(reverse.lower().replace("dogs", "owls"))


def test_no_label_stands_on_both_sides():
    assert LABELS[0] & LABELS[1] == set()


@pytest.mark.parametrize("name", ["actions", "answers"])
def test_forbidding_and_allowing_have_equally_many_words_and_share_none(name):
    forbidden, allowed = VOICES.lexicon[f"{name}_forbidden"], VOICES.lexicon[f"{name}_allowed"]
    assert len(forbidden) == pytest.approx(len(allowed), rel=0.1)
    assert set(forbidden) & set(allowed) == set()


def test_an_answer_turns_with_its_question():
    yes, no = set(VOICES.lexicon["answers_yes"]), set(VOICES.lexicon["answers_no"])
    assert yes & no == set()
    rng = random.Random(0)
    for kind, forbidden, short in (("ask_allowed", False, yes), ("ask_allowed", True, no),
                                   ("ask_forbidden", True, yes), ("ask_forbidden", False, no)):
        replies = {VOICES._answer(kind, forbidden, rng) for _ in range(200)}
        assert replies & short and not replies & ((yes | no) - short)


def test_a_class_is_defined_in_one_place_and_judged_in_another():
    names = {name for series in VOICES.lexicon["class_names"] for name in series}
    rng = random.Random(0)
    for _ in range(200):
        text = VOICES._definitions([DOGS, OWLS], rng)
        assert all(text.lower().count(subject) == 1 for subject in ("dogs", "owls"))
        assert sum(text.lower().count(name.lower()) >= 2 for name in names) >= 2, text


def test_the_name_of_a_class_is_no_label():
    words = {word for side in LABELS.values() for word in side}
    assert [name for series in VOICES.lexicon["class_names"] for name in series if name.lower() in words] == []


def test_sentences_about_everything_never_hold_a_not():
    rng = random.Random(0)
    for forbidden in (True, False):
        templates = {VOICES._template(Entry("all pictures", forbidden, whole=True), rng) for _ in range(300)}
        assert len(templates) > 50
        assert [template for template in templates if " not " in template or "n't" in template] == []


def test_sentences_stand_as_prose_lists_or_clauses():
    rng = random.Random(0)
    layouts = {layout(["No dogs", "Owls are fine."], rng) for _ in range(60)}
    assert {"No dogs. Owls are fine.", "- No dogs\n- Owls are fine.", "1. No dogs\n2. Owls are fine.",
            "(a) No dogs\n(b) Owls are fine."} <= layouts
