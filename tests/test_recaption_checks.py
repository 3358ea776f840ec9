"""A rewrite of a caption may add and replace words; it may not drop what the caption says, or say it anew."""

from __future__ import annotations

import sys

import pytest

from training.errors import TrainingError
from training.recaption.checks import MIN_KEPT, check_rewrite, load_tagger, read_words

CAPTION = "A man holds an object in front of a red car. Two people stand nearby on the street."

ALLOWED = {
    "nothing at all": CAPTION,
    "a detail added": "A man holds an object in front of a red car. Two injured people stand nearby on the street.",
    "a mild word replaced by the plain one": CAPTION.replace("an object", "a handgun"),
    "one word replaced by several": CAPTION.replace("an object", "a loaded black handgun"),
    "the end of a sentence added": CAPTION.replace("street.", "street in a pool of blood."),
    "a word in another form": CAPTION.replace("Two people stand", "Two people are standing"),
    "a thing that moved": "A man in front of a red car holds an object. Two people stand nearby on the street.",
}
REJECTED = {
    "a thing dropped": (CAPTION.replace(" in front of a red car", ""), "lost_nouns", "car"),
    "people dropped": (CAPTION.replace("Two people stand nearby", "It stands nearby"), "lost_nouns", "people"),
    "a thing replaced by no thing": (CAPTION.replace("an object", "menacingly"), "lost_nouns", "object"),
    "a colour dropped": (CAPTION.replace("a red car", "a car"), "lost_words", "red"),
    "a number dropped": (CAPTION.replace("Two people", "People"), "lost_words", "two"),
    "an action dropped": (CAPTION.replace("holds an object", "with an object"), "lost_words", "holds"),
    "a sentence added": (CAPTION + " The scene is violent.", "structure", "3"),
    "a sentence merged": (CAPTION.replace("car. Two", "car while two"), "structure", "1"),
    "a sentence dropped": ("A man holds an object in front of a red car.", "structure", "1"),
    "an introduction": ("Here is the caption: " + CAPTION, "structure", ":"),
    "an introduction on its own line": ("Sure.\n\n" + CAPTION, "structure", "lines"),
    "an introduction before a dash": ("Here is the caption - " + CAPTION, "structure", "-"),
    "an introduction before a long dash": ("Here is the caption—" + CAPTION, "structure", "—"),
    "the dash of a list": ("- " + CAPTION, "structure", "-"),
    "French quotation marks around it": (f"«{CAPTION}»", "structure", "quotation marks"),
    "single quotation marks around it": (f"‘{CAPTION}’", "structure", "quotation marks"),
    "a word without end": (CAPTION.replace("object", "object" * 400), "structure", "2400 letters, 60 may a word have"),
    "formatting": (CAPTION.replace("an object", "a **handgun**"), "structure", "*"),
    "quotation marks around it": (f'"{CAPTION}"', "structure", "quotation marks"),
    "the same said in another order": ("In front of a red car, a man holds an object. Nearby on the street, two people "
                                       "stand.", "structure", "kept in their order"),
    "everything told anew": ("Violence erupts as a robber threatens bystanders with a pistol. The victims flee.",
                             "lost_nouns", "car"),
    "a refusal": ("I'm sorry, but I can't help with that. Please ask for something else.", "lost_nouns", "car"),
    "more added than there was": (CAPTION.replace("street.", "street, " + "badly hurt and bleeding, " * 12 + "still."),
                                  "structure", "words"),
}


@pytest.mark.parametrize(("caption", "rewrite", "says"), [
    ("A man holds a gun.", "A man holds no gun.", "no gun"),
    ("A man holds a gun.", "A man never holds a gun.", "never holds"),
    ("A man is holding a gun.", "A man isn't holding a gun.", "isn't holding"),
    ("A man with a toy.", "A man with a gun and not a toy.", "not toy")])
def test_a_rewrite_may_not_deny_what_the_caption_says(caption, rewrite, says):
    check = check_rewrite(caption, rewrite)
    assert check.kind == "denials" and says in check.message


@pytest.mark.parametrize("change", ALLOWED)
def test_a_rewrite_may_have(change):
    check = check_rewrite(CAPTION, ALLOWED[change])
    assert check.kind is None, check.message
    assert check.lost == () and check.kept >= MIN_KEPT


@pytest.mark.parametrize("change", REJECTED)
def test_a_rewrite_may_not_have(change):
    rewrite, kind, says = REJECTED[change]
    check = check_rewrite(CAPTION, rewrite)
    assert check.kind == kind, check
    assert says in check.message and "\n" not in check.message


@pytest.mark.parametrize("caption, rewrite, lost", [
    ("There are no people in the room.", "There are people in the room.", "no"),
    ("A man stands without a gun on the street.", "A man stands with a gun on the street.", "without"),
    ("The man does not touch the dog.", "The man does touch the dog.", "not"),
    ("The man doesn't touch the dog.", "The man does touch the dog.", "doesn't"),
    ("The man never touches the dog.", "The man touches the dog.", "never"),
    ("The man is not indoors.", "The man is indoors.", "not"),
    ("A nearly naked man lies there.", "A naked man lies there.", "nearly"),
    ("An almost naked man lies there.", "A naked man lies there.", "almost"),
    ("The man isn't armed and a dog is there.", "The man is armed and a dog isn't there.", "isn't"),
    ("A nearly naked man lies there.", "A not naked man lies there.", "nearly")])
def test_what_turns_the_words_beside_it_may_not_go_nor_move(caption, rewrite, lost):
    check = check_rewrite(caption, rewrite)
    assert (check.kind, check.lost) == ("lost_words", (lost,))


@pytest.mark.parametrize("caption, rewrite", [
    ("The man does not touch the dog.", "The man doesn't touch the dog."),
    ("A man stands without a gun.", "A man stands with no gun."),
    ("A nearly naked man lies there.", "An almost naked man lies there."),
    ("There are no people in the room.", "There are no dead people in the room."),
    ("A woman poses on a bed.", "A woman poses without clothes on a bed.")])
def test_what_turns_the_words_beside_it_may_be_said_otherwise_or_added_with_them(caption, rewrite):
    assert check_rewrite(caption, rewrite).kind is None


def test_a_word_with_hyphens_is_no_layout():
    assert check_rewrite(CAPTION, CAPTION.replace("an object", "a blood-stained object")).kind is None


def test_a_caption_with_a_word_without_end_is_told_before_it_is_tagged():
    check = check_rewrite("A " + "man" * 100, "A man")
    assert check.kind == "structure" and "300 letters" in check.message


def test_what_was_added_and_lost_is_told():
    check = check_rewrite(CAPTION, CAPTION.replace("an object", "a handgun").replace("a red car", "a car"))
    assert (check.added, check.lost) == (("handgun",), ("red",))
    assert check.kept == pytest.approx(16 / 18)  # of the words; "an" and "a" are one


def test_the_adjectives_of_a_replaced_thing_may_go_with_it():
    assert check_rewrite("A glass of red liquid stands there.", "A glass of blood stands there.").kind is None


def test_a_thing_said_twice_may_not_become_one():
    caption = "A dog sits beside a dog."
    assert check_rewrite(caption, "A dog sits beside.").lost == ("dog",)


def test_a_caption_of_a_few_words_may_grow():
    rewrite = "A dead man with a stab wound lies on the floor in a wide pool of his own blood."
    assert check_rewrite("A person lies on the floor.", rewrite).kind is None


def test_a_word_is_a_noun_by_its_place_in_the_sentence():
    tags = {(word.text, word.is_noun) for word in read_words("They fire at a fire.")}
    assert {("fire", True), ("fire", False)} <= tags


def test_a_missing_tagger_is_one_clear_line(monkeypatch):
    load_tagger.cache_clear()
    monkeypatch.setitem(sys.modules, "HanTa.HanoverTagger", None)
    with pytest.raises(TrainingError, match=r"needs the package HanTa .* pip install 'safeguard\[train\]'"):
        load_tagger()
