"""The two banks of wordings: what training may show, and the whole registers that only the exam holds."""

from __future__ import annotations

import random
import re
from collections import Counter
from pathlib import Path

import pytest
import yaml

from training.nano.exam import Wording, read_wordings
from training.policyflip import wordings
from training.policyflip.concepts import FOLDER, Name
from training.policyflip.voices import Voices
from training.policyflip.wordings import Bank, fill, join, misspell, respell

BANK = Bank.read()
HELDOUT_FILE = FOLDER / "wordings_heldout.yaml"
HELDOUT = read_wordings()
DOGS, OWLS, SMOKE = Name("dog", "dogs"), Name("owl", "owls"), Name("smoke", "smoke")

SLOTS = {  # kind → what each phrase speaks of, and the least number of phrases
    "forbid": ("x", 250), "allow": ("x", 250), "forbid_except": ("xz", 75), "allow_except": ("xz", 75),
    "only": ("x", 100), "forbid_only": ("x", 50), "two_sided": ("xy", 140), "everything_allowed": ("", 50),
    "everything_forbidden": ("", 45), "preamble": ("", 70), "closing": ("", 40), "heading": ("", 35),
    "rendering": ("n", 35)}
PARTS = {"flip": "xy", "forbid": "x", "except_": "xz", "allow_except": "xz", "only": "x", "everything_allowed": ""}
SHARED_PHRASES = ["yes", "no"]  # no English goes without; every other held-out polarity phrase is new to training


def slots(template: str) -> set[str]:
    """The concepts that a template speaks of; {a} and {X} are {x} in another form."""
    return {"x" if slot == "a" else slot.lower() for slot in re.findall(r"\{([xXyYzZan])\}", template)}


def plain(text: str) -> str:
    return " ".join(text.lower().split())


def contains(text: str, phrase: str) -> bool:
    return re.search(rf"(?<!\w){re.escape(phrase)}(?!\w)", plain(text)) is not None


def first_is_forbidden(template: str) -> bool:
    lower = template.lower().replace("{a}", "{x}")
    return lower.index("{x}") < lower.index("{y}")


def words_of_voices() -> list[str]:
    def leaves(node) -> list[str]:
        return [leaf for one in node for leaf in leaves(one)] if isinstance(node, list) else [plain(node)]
    return [leaf for node in Voices.read(BANK).lexicon.values() for leaf in leaves(node)]


def templates(wording: Wording) -> list[str]:
    return [getattr(wording, part) for part in PARTS]


# The bank of training.

def test_the_bank_holds_every_kind_of_phrase_and_no_other():
    assert BANK.phrases.keys() == SLOTS.keys()


@pytest.mark.parametrize("kind", SLOTS)
def test_a_kind_has_enough_phrases_and_none_twice(kind):
    phrases = [plain(phrase) for phrase in BANK.phrases[kind]]
    assert len(phrases) >= SLOTS[kind][1]
    assert [phrase for phrase, count in Counter(phrases).items() if count > 1] == []


@pytest.mark.parametrize("kind", SLOTS)
def test_every_phrase_of_a_kind_speaks_of_the_same_concepts(kind):
    assert [phrase for phrase in BANK.phrases[kind] if slots(phrase) != set(SLOTS[kind][0])] == []


def test_all_files_of_a_bank_are_read_in_the_order_of_their_names(tmp_path):
    (tmp_path / "b.yaml").write_text("forbid: [\"No {x}.\"]\nonly: [\"Just {x}.\"]", encoding="utf-8")
    (tmp_path / "a.yaml").write_text("forbid: [\"Never {x}.\"]", encoding="utf-8")
    assert Bank.read(tmp_path).phrases == {"forbid": ("Never {x}.", "No {x}."), "only": ("Just {x}.",)}


def test_the_plain_phrases_of_a_bank_stand_alone_where_it_has_some_of_a_kind():
    bank = BANK.plainly()
    assert bank.phrases.keys() == BANK.phrases.keys()
    own = {kind for kind, phrases in bank.phrases.items() if phrases != BANK.phrases[kind]}
    assert own == SLOTS.keys() - {"preamble", "closing", "heading", "rendering"}
    for kind in own:
        assert len(bank.phrases[kind]) >= 30 and set(bank.phrases[kind]) < set(BANK.phrases[kind])
    assert len(bank.phrases["forbid"]) == pytest.approx(len(bank.phrases["allow"]), rel=0.05)
    assert len(bank.phrases["forbid_except"]) == len(bank.phrases["allow_except"])
    assert sum(map(first_is_forbidden, bank.phrases["two_sided"])) == len(bank.phrases["two_sided"]) / 2


def test_no_phrase_forbids_in_one_place_and_allows_in_another():
    both = set(BANK.phrases["forbid"]) & set(BANK.phrases["allow"])
    both |= set(BANK.phrases["forbid_except"]) & set(BANK.phrases["allow_except"])
    both |= set(BANK.phrases["everything_forbidden"]) & set(BANK.phrases["everything_allowed"])
    assert both == set()


def test_forbidding_and_allowing_have_equally_many_phrases():
    count = {kind: len(phrases) for kind, phrases in BANK.phrases.items()}
    assert count["forbid"] == pytest.approx(count["allow"], rel=0.05)
    assert count["forbid_except"] == pytest.approx(count["allow_except"], rel=0.05)


def test_either_side_comes_first_equally_often():
    forbidden_first = sum(map(first_is_forbidden, BANK.phrases["two_sided"]))
    assert forbidden_first == pytest.approx(len(BANK.phrases["two_sided"]) / 2, rel=0.1)


@pytest.mark.parametrize("kind", ["forbid", "allow", "two_sided", "only", "forbid_except", "allow_except"])
def test_every_phrase_fills_without_leaving_a_slot(kind):
    bank = Bank({kind: BANK.phrases[kind], "rendering": BANK.phrases["rendering"]})
    rng = random.Random(0)
    for _ in range(300):
        text = bank.phrase(kind, rng, x=[DOGS], y=[OWLS], z=[SMOKE])
        assert re.search(r"\{[xXyYzZan]\}", text) is None and re.search("dog", text, re.IGNORECASE)


# Filling.

def test_a_capital_slot_takes_a_capital_and_other_braces_stay():
    assert fill('{X} are out; {"deny": "{x}"}', {"x": "dogs"}) == 'Dogs are out; {"deny": "dogs"}'
    assert fill("{a} is out", {"x": "owls"}, article="an owl") == "an owl is out"


def test_a_noun_is_not_taken_for_a_slot():
    assert fill("{x} and {y}", {"x": "{y}", "y": "owls"}) == "{y} and owls"


def test_a_template_in_the_singular_is_not_used_for_two_concepts():
    bank = Bank({"forbid": ("Never {a}.", "No {x}."), "rendering": ("{n}",)})
    rng = random.Random(0)
    assert {bank.phrase("forbid", rng, x=[DOGS]) for _ in range(50)} == {"Never a dog.", "No dogs."}
    assert all("dogs" in bank.phrase("forbid", rng, x=[DOGS, OWLS]) for _ in range(50))


def test_code_and_tables_take_the_bare_noun():
    bank = Bank({"rendering": ("pictures of {n}",)})
    rng = random.Random(0)
    assert {bank.noun_phrase([DOGS], 'deny = "{x}"', rng) for _ in range(50)} == {"dogs"}
    assert {bank.noun_phrase([DOGS], "Keep {x} out.", rng) for _ in range(50)} == {"dogs", "pictures of dogs"}


def test_several_nouns_are_joined_as_people_do():
    rng = random.Random(0)
    assert join(["dogs"], rng) == "dogs"
    joined = {join(["dogs", "owls", "smoke"], rng) for _ in range(100)}
    assert {"dogs, owls and smoke", "dogs, owls or smoke", "dogs, owls, smoke"} <= joined


def test_no_may_be_said_of_each_of_several_nouns():
    bank = Bank({"rendering": ("{n}",)})
    rng = random.Random(0)
    said = {fill("No {x}.", {"x": bank.noun_phrase([DOGS, OWLS], "No {x}.", rng)}) for _ in range(100)}
    assert {"No dogs and owls.", "No dogs and no owls.", "No dogs, no owls."} <= said
    assert "no" not in " ".join(bank.noun_phrase([DOGS, OWLS], "Never {x}.", rng) for _ in range(50)).split()


def test_slips_of_the_keyboard_are_rare_and_keep_everything_but_letters():
    text, rng = "Forbidden: 3 dogs (big)\nAllowed: owls. " * 20, random.Random(0)
    slipped = misspell(text, rng, 0.02)
    assert slipped != text and len(slipped) == pytest.approx(len(text), rel=0.02)
    assert re.sub("[A-Za-z]", "", slipped) == re.sub("[A-Za-z]", "", text)
    assert misspell(text, rng, 0.0) == text


def test_who_spells_by_ear_changes_words_and_neither_their_number_nor_what_stands_between():
    text, rng = "Forbidden: photos of weapons (any kind)\n- Permitted: 3 flowers, birthday cakes.", random.Random(0)
    written = [respell(text, rng, 0.8) for _ in range(200)]
    assert len(set(written)) > 190
    assert all(re.sub("[A-Za-z0-9]+", "", one) == re.sub("[A-Za-z0-9]+", "", text) for one in written)
    assert all(one[0] == "F" for one in written)
    assert respell(text, rng, 0.0) == text


def test_each_habit_of_spelling_comes():
    written = " ".join(respell("forbidden", random.Random(seed), 1.0) for seed in range(300)).split()
    assert {"forbiden", "frbddn", "f0rb1dd3n"} <= set(written)
    assert any("ooo" in word or "rrr" in word for word in written)


# The held-out wordings.

def test_the_held_out_wordings_are_whole_policies_in_registers_of_their_own():
    assert len(HELDOUT) >= 24
    assert len({wording.name for wording in HELDOUT}) == len({wording.register for wording in HELDOUT}) == len(HELDOUT)


@pytest.mark.parametrize("wording", HELDOUT, ids=lambda wording: wording.name)
def test_a_held_out_wording_says_everything_that_the_exam_asks(wording):
    assert {part: slots(getattr(wording, part)) for part in PARTS} == {part: set(s) for part, s in PARTS.items()}
    assert first_is_forbidden(wording.flip) != wording.flip_allowed_first


def test_the_held_out_wordings_name_either_side_first_equally_often():
    allowed_first = sum(bool(wording.flip_allowed_first) for wording in HELDOUT)
    assert allowed_first == pytest.approx(len(HELDOUT) / 2, rel=0.1)


def test_no_held_out_template_stands_in_the_bank_of_training():
    def bare(template: str) -> str:
        return plain(re.sub(r"\{[xXyYzZa]\}", "{}", template))
    known = {bare(phrase) for phrases in BANK.phrases.values() for phrase in phrases}
    assert [template for wording in HELDOUT for template in templates(wording) if bare(template) in known] == []


def test_the_bank_of_training_reads_nothing_of_the_held_out_file():
    assert HELDOUT_FILE.name not in Path(wordings.__file__).read_text(encoding="utf-8")
    assert "Training never reads this file" in HELDOUT_FILE.read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def polarity() -> dict[str, bool]:
    """Held-out polarity phrase → whether it occurs in the bank of training or in the words that voices compose from."""
    phrases = yaml.safe_load(HELDOUT_FILE.read_text(encoding="utf-8"))["polarity_phrases"]
    training = " \n ".join([plain(phrase) for some in BANK.phrases.values() for phrase in some] + words_of_voices())
    return {phrase: contains(training, phrase) for phrase in phrases}


def test_training_shows_no_held_out_polarity_phrase_but_yes_and_no(polarity):
    assert len(polarity) >= 85
    assert [phrase for phrase, known in polarity.items() if known] == SHARED_PHRASES


def test_every_flip_has_its_polarity_listed(polarity):
    assert [w.name for w in HELDOUT if not any(contains(w.flip, phrase) for phrase in polarity)] == []
    texts = [text for wording in HELDOUT for text in templates(wording)]
    assert [phrase for phrase in polarity if not any(contains(text, phrase) for text in texts)] == []


def test_most_flips_turn_on_nothing_but_phrases_that_training_never_shows():
    assert sum(wording.fresh for wording in HELDOUT) >= 20
