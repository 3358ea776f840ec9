"""What labels of photos say about a rule: broken, not broken, or nothing."""

from __future__ import annotations

from pathlib import Path

import pytest
import tiny_world
from test_photos import write_folder

from safeguard_sdk import Policy
from safeguard_sdk.policy import Rule
from training.calibration.truth import PhraseReader, breaks, rows_of_photos
from training.errors import TrainingError
from training.photos import Photo


@pytest.fixture(scope="module")
def concepts():
    return tiny_world.concepts()


def truth(concepts, rule: Rule, *labels: str, sources_of: dict | None = None) -> bool | None:
    photo = Photo(Path("photo.jpg"), "zoo", frozenset(labels), (), "00")
    return breaks(concepts, photo, *PhraseReader(concepts, sources_of or {}).sides(rule))


@pytest.mark.parametrize("labels, broken", [
    (["eagle"], True), (["bird"], True), (["dog"], False), (["dog", "owl"], True),
    ([], None)])  # nobody has labelled it
def test_a_rule_is_broken_by_any_kind_of_what_it_forbids(concepts, labels, broken):
    assert truth(concepts, Rule("birds", forbids="birds"), *labels) is broken


@pytest.mark.parametrize("labels, broken", [
    (["bird"], None),               # perhaps an eagle
    (["eagle"], True), (["owl"], False), (["bird", "eagle"], True)])
def test_what_the_labels_leave_open_is_no_row(concepts, labels, broken):
    assert truth(concepts, Rule("eagles", forbids="eagles"), *labels) is broken


@pytest.mark.parametrize("labels, broken", [
    (["owl"], True), (["eagle"], False), (["eagle", "owl"], True),  # an eagle excuses itself and no owl
    (["bird"], None), (["dog"], False), (["bird", "owl"], True)])
def test_an_exception_excuses_itself_only(concepts, labels, broken):
    assert truth(concepts, Rule("birds", forbids="birds", allows="eagles"), *labels) is broken


def test_a_rule_that_forbids_nothing_is_never_broken(concepts):
    assert truth(concepts, Rule("calm", allows="birds"), "eagle", "gun") is False


@pytest.mark.parametrize("phrase, labels, broken", [
    ("weapons", ["gun"], True), ("Weapon", ["sword"], True), ("arms", ["dog"], False), ("weapons", ["knife"], None)])
def test_a_written_concept_goes_before_a_noun(concepts, phrase, labels, broken):
    assert truth(concepts, Rule("weapons", forbids=phrase), *labels) is broken


def test_a_label_of_the_photos_may_be_named_word_for_word(concepts):
    rule = Rule("x", forbids="person smoking")
    assert truth(concepts, rule, "person smoking", sources_of={"person smoking": {"zoo"}}) is True
    assert truth(concepts, rule, "dog", sources_of={"person smoking": {"zoo"}}) is False
    assert truth(concepts, rule, "dog", sources_of={"person smoking": {"elsewhere"}}) is None  # nobody looked


@pytest.mark.parametrize("phrase", ["a person with a gun", "beauty of the heart", "gunn"])
def test_a_phrase_that_labels_cannot_decide_is_an_error_and_no_guess(concepts, phrase):
    with pytest.raises(TrainingError, match=f"rule 'x': '{phrase}' is no noun") as caught:
        truth(concepts, Rule("x", forbids=phrase), "gun")
    assert "\n" not in str(caught.value)


def test_a_rule_in_free_words_is_an_error(concepts):
    with pytest.raises(TrainingError, match="rule 'x' is in free words"):
        truth(concepts, Rule("x", text="No guns."), "gun")


@pytest.fixture
def folder(tmp_path) -> Path:
    """150 photos; the split of each is fixed by its bytes."""
    rows = [{"path": f"{number}.jpg", "source": "zoo", "labels": "eagle" if number % 2 else "bird"}
            for number in range(150)]
    return write_folder(tmp_path / "photos", rows, {row["path"]: row["path"].encode() for row in rows})


def test_a_row_is_made_of_each_photo_of_the_split_and_each_rule_that_its_labels_decide(concepts, folder):
    policy = Policy("zoo", "1", (Rule("birds", forbids="birds"), Rule("eagles", forbids="eagles")))
    rows = rows_of_photos(folder, [policy], concepts, "all")
    assert len(rows) == 150 + 75  # 75 photos leave the second rule open
    assert all(row.broken and row.policy is policy and len(row.rules) == 1 for row in rows)
    counts = [len(rows_of_photos(folder, [policy], concepts, split)) for split in ("train", "validation", "test")]
    assert sum(counts) == len(rows) and min(counts) > 0


def test_copies_of_a_photo_and_rules_that_policies_share_make_one_row(concepts, tmp_path):
    rows = [{"path": name, "source": "zoo", "labels": "eagle"} for name in ("one.jpg", "copy.jpg")]
    folder = write_folder(tmp_path / "photos", rows, {row["path"]: b"the same" for row in rows})
    policies = [Policy(name, "1", (Rule("birds", forbids="birds"),)) for name in ("zoo", "park")]
    (row,) = rows_of_photos(folder, policies, concepts, "all")
    assert row.photo.name == "one.jpg"


def test_a_split_without_rows_is_an_error(concepts, folder):
    policy = Policy("zoo", "1", (Rule("eagles", forbids="flamingos"),))
    (folder / "index.csv").write_text("path,source,labels\n0.jpg,zoo,bird\n", encoding="utf-8")
    with pytest.raises(TrainingError, match="no photo of the split 'all' has labels that decide"):
        rows_of_photos(folder, [policy], concepts, "all")


def test_a_folder_without_an_index_is_one_clear_line(concepts, tmp_path):
    with pytest.raises(TrainingError, match=r"index\.csv: no such file"):
        rows_of_photos(tmp_path, [], concepts, "all")
