"""The exam: which questions it asks, and its marks on answers whose marks are known."""

from __future__ import annotations

import re
from collections import Counter, defaultdict

import numpy as np
import pytest
import tiny_world

from training.nano import exam as exam_module
from training.nano.exam import (
    KNOWN,
    PLAIN,
    RULES,
    Question,
    build_exam,
    calibration_error,
    concept_exam,
    metrics,
    read_wordings,
    wording_auroc,
)

QUESTIONS = 40
PARTS = ("seen", "unseen", "exception", "only", "blanket", "single")
KINDS = ("known", "heldout", "plain", "rules")
HELDOUT = {word for word in tiny_world.HELDOUT_WORDS if word != "wading bird"}


def build(seed: int = 0) -> list[Question]:
    world = tiny_world.photo_world()
    return build_exam(world, world.concepts, world.heldout, QUESTIONS, seed)


@pytest.fixture(scope="module")
def exam() -> list[Question]:
    return build()


def flips(exam: list[Question]) -> list[list[Question]]:
    by_number = defaultdict(list)
    for question in exam:
        if question.flip >= 0:
            by_number[question.flip].append(question)
    return list(by_number.values())


def logits_of(exam: list[Question], sure: float) -> np.ndarray:
    return np.array([sure if question.broken else -sure for question in exam])


def without_nouns(question: Question) -> str:
    """The text of a question with its two nouns, and their articles, blotted out."""
    forms = [form for noun in (question.forbids, question.allows) for form in (noun + "e?s", noun[:-2] + "ves", noun)]
    return re.sub(rf"\b(an? )?({'|'.join(forms)})\b", "…", question.text.lower())


# Questions.

def test_every_part_is_asked_in_wordings_of_training_in_held_out_ones_and_as_rules(exam):
    count = Counter((question.part, question.kind) for question in exam)
    assert count.keys() == {(part, kind) for part in PARTS for kind in KINDS}
    for (part, _), number in count.items():
        wanted = QUESTIONS // 3 if part == "blanket" else QUESTIONS
        assert wanted <= number < wanted + 4  # questions come in twos and fours


def test_held_out_wordings_are_those_of_the_held_out_file(exam):
    names = {wording.name for wording in read_wordings()}
    asked = {question.wording for question in exam if question.kind == "heldout"}
    assert asked <= names and len(asked) > len(names) / 2


def test_rules_are_what_a_model_reads_of_a_policy_file(exam):
    texts = {part: [q for q in exam if q.part == part and q.wording == RULES] for part in PARTS}
    for part in ("seen", "unseen", "exception"):
        for question in texts[part]:
            _, forbidden, allowed = question.text.splitlines()
            assert forbidden.startswith("Forbidden: ") and question.forbids[:-2] in forbidden
            assert allowed.startswith("Allowed: ") and question.allows[:-2] in allowed
    assert all("\nForbidden: everything else\nAllowed: " in question.text for question in texts["only"])
    assert all(question.text.endswith("\nAllowed: everything else") for question in texts["single"])
    assert {q.text for q in texts["blanket"]} == {"Rule: anything\nForbidden: nothing\nAllowed: everything"}


def test_a_flip_is_one_photo_under_two_policies_in_one_wording_with_opposite_verdicts(exam):
    pairs = flips(exam)
    assert len(pairs) == 2 * 4 * QUESTIONS / 2  # two parts, four kinds of wording, two questions a flip
    for first, second in pairs:
        assert first.scene is second.scene and first.wording == second.wording and first.part == second.part
        assert first.broken != second.broken and first.text != second.text
        assert (first.forbids, first.allows) == (second.allows, second.forbids)
        assert without_nouns(first) == without_nouns(second)


def test_flips_are_asked_about_seen_and_unseen_concepts_only(exam):
    assert {question.part for question in exam if question.flip >= 0} == {"seen", "unseen"}


def test_every_question_is_right_about_what_its_photo_shows(exam):
    concepts = tiny_world.concepts()
    for question in (question for question in exam if question.part in ("seen", "unseen")):
        shown = {_noun(concepts, kind) for kind in question.scene.shown.kinds}
        shown |= {group.names[0].singular for group in concepts.groups.values()
                  if concepts.truth(group, question.scene.shown)}
        assert (question.forbids in shown, question.allows in shown) == (question.broken, not question.broken)


def test_seen_questions_name_no_held_out_concept_and_each_unseen_flip_names_one(exam):
    for question in exam:
        named = {question.forbids, question.allows} & HELDOUT
        assert len(named) == (1 if question.part == "unseen" else 0), question


def test_the_policy_names_what_the_question_forbids_and_allows(exam):
    for question in exam:
        for noun in filter(None, (question.forbids, question.allows)):
            assert noun[:-2] in question.text.lower(), question  # knives, a knife


def test_an_exception_is_asked_both_ways_round_over_the_same_two_photos(exam):
    questions = [question for question in exam if question.part == "exception"]
    for fours in zip(*[iter(questions)] * 4, strict=True):
        inside, outside, inside_again, outside_again = fours
        assert inside.scene is inside_again.scene and outside.scene is outside_again.scene
        assert [question.broken for question in fours] == [False, True, True, False]


def test_only_x_is_allowed_is_broken_by_everything_else_and_everything_is_allowed_by_nothing(exam):
    assert Counter(q.broken for q in exam if q.part == "only") == dict.fromkeys((True, False), QUESTIONS * 2)
    assert not any(question.broken for question in exam if question.part == "blanket")


def test_a_thing_that_is_forbidden_alone_is_asked_of_a_photo_with_it_and_of_one_without(exam):
    singles = [question for question in exam if question.part == "single"]
    assert [question.broken for question in singles] == [True, False] * (len(singles) // 2)
    assert all(question.forbids and not question.allows for question in singles)


def test_a_part_that_the_photos_show_nothing_of_is_left_out():
    world = tiny_world.photo_world()
    scenes = [scene for scene in world.scenes if not scene.shown.kinds & world.heldout.synsets]
    few = type(world)(world.concepts, world.heldout, [scene.shown for scene in scenes],
                      lambda row, rng: scenes[row].tags(rng))
    assert "unseen" not in {question.part for question in build_exam(few, few.concepts, few.heldout, 8, seed=1)}


def test_the_exam_is_the_same_for_the_same_seed():
    def text(exam: list[Question]) -> list[tuple]:
        return [(question.text, question.scene.photo, question.broken) for question in exam]
    assert text(build(seed=1)) == text(build(seed=1)) != text(build(seed=2))


# Marks.

def test_a_concept_alone_is_forbidden_in_a_known_wording_and_the_only_one_allowed_in_a_held_out_one(monkeypatch):
    monkeypatch.setattr(exam_module, "BEYOND_IMAGENET", ("weapon", "blade"))
    world = tiny_world.photo_world()
    asked = concept_exam(world, questions=2, seed=0)
    assert list(asked) == ["weapon", "blade"]
    for name, questions in asked.items():
        concept = world.concepts.groups[name]
        shown = [world.concepts.truth(concept, question.scene.shown) for question in questions]
        assert shown == [True] * 4 + [False] * 4
        assert [question.wording == KNOWN for question in questions] == [True, False] * 4
        assert [question.broken for question in questions] == [True, False] * 2 + [False, True] * 2
        assert all(concept.names[0].singular in question.text.lower() for question in questions)


def test_an_answerer_that_is_always_right_gets_full_marks(exam):
    marks = metrics(exam, logits_of(exam, sure=20.0))
    assert marks.pop("ece") == pytest.approx(0, abs=1e-6)
    assert set(marks.values()) == {1.0}
    assert {f"{part}/{kind}/accuracy" for part in PARTS for kind in KINDS} < marks.keys()
    assert {"seen/known/both_right", "unseen/heldout/both_right", "worst_wording/auroc"} < marks.keys()


def test_an_answerer_that_is_always_wrong_gets_none(exam):
    marks = metrics(exam, logits_of(exam, sure=-20.0))
    assert marks.pop("ece") == pytest.approx(1, abs=1e-6)
    assert set(marks.values()) == {0.0}


def test_an_answerer_that_calls_everything_unsafe_gets_no_flip_right_and_half_of_the_rest(exam):
    marks = metrics(exam, np.ones(len(exam)))
    assert marks["seen/known/accuracy"] == marks["seen/known/balanced"] == marks["seen/known/auroc"] == 0.5
    assert marks["seen/known/both_right"] == 0 and marks["blanket/known/accuracy"] == 0


def test_a_part_with_one_verdict_only_has_no_auroc(exam):
    marks = metrics(exam, logits_of(exam, sure=1.0))
    assert "blanket/known/auroc" not in marks and "blanket/known/balanced" not in marks


def test_a_flip_counts_only_if_both_verdicts_are_right(exam):
    logits = logits_of(exam, sure=1.0)
    seen = [row for row, q in enumerate(exam) if q.part == "seen" and q.wording == KNOWN]
    logits[seen[0]] *= -1  # one wrong answer
    marks = metrics(exam, logits)
    assert marks["seen/known/accuracy"] == pytest.approx(1 - 1 / len(seen), abs=1e-4)
    assert marks["seen/known/both_right"] == pytest.approx(1 - 1 / (len(seen) / 2), abs=1e-4)


def test_the_worst_wording_is_the_one_that_is_read_the_wrong_way_round(exam):
    logits = logits_of(exam, sure=1.0)
    worst = next(question.wording for question in exam if question.flip >= 0 and question.kind == "heldout")
    logits *= [-1 if question.wording == worst else 1 for question in exam]
    by_wording = wording_auroc(exam, logits)
    assert by_wording.pop(worst) == 0 and set(by_wording.values()) == {1.0}
    assert not {KNOWN, PLAIN, RULES} & by_wording.keys()
    assert metrics(exam, logits)["worst_wording/auroc"] == 0


@pytest.mark.parametrize("scores, broken, error", [
    ([0.0, 1.0], [False, True], 0.0),                         # sure and right; a score of 1.0 falls in the last bin
    ([0.0, 1.0], [True, False], 1.0),                         # sure and wrong
    ([0.9] * 4, [True, True, True, False], 0.15),             # says 0.9 where 0.75 is true
    ([0.1, 0.1, 0.9, 0.9], [False, False, True, True], 0.1),
    ([0.51, 0.59, 0.9], [True, False, True], 0.1),            # bins of 1/15: 0.51 and 0.59 lie in different ones
])
def test_the_calibration_error_is_the_gap_between_score_and_rate(scores, broken, error):
    found = calibration_error(np.array(scores), np.array(broken))
    expected = error if len(scores) != 3 else (0.49 + 0.59 + 0.1) / 3
    assert found == pytest.approx(expected)


def _noun(concepts, offset: str) -> str:
    return concepts.wordnet.synsets[offset].lemmas[0]
