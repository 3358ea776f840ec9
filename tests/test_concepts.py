"""The concepts that ship, over the labels of photos: what a photo of a thing is a photo of."""

from __future__ import annotations

import pytest

from training.assets import fetch_wordnet
from training.errors import TrainingError
from training.policyflip.concepts import Concepts, Heldout
from training.policyflip.scenarios import Scenarios
from training.wordnet import WordNet

SENSES = {  # label of a photo → what it is, what it is not, for all that other senses of the word are
    "cup": ("crockery", "alcohol"), "cup or mug": ("crockery", "alcohol"), "toy": ("plaything", "dog"),
    "stuffed toy": ("plaything", "animal"), "robot toy": ("plaything", "dog"), "rubber duck": ("plaything", "bird"),
    "screwdriver": ("hand tool", "alcohol"), "kiwi": ("edible fruit", "bird"), "kite": ("artifact", "bird"),
    "salt or pepper shaker": ("container", "person"), "plate": ("tableware", "food"), "table": ("furniture", "food"),
    "potted plant": ("plant", "building"), "submarine": ("vessel", "food"), "hand": ("body part", "animal foot"),
    "hat with a wide brim": ("headdress", "edge"), "seal": ("mammal", "artifact"), "swine": ("mammal", "food"),
    "kitchen knife": ("edge tool", "weapon"), "red beet": ("vegetable", "plant"),
    "electric plug": ("artifact", "animal"),
}


@pytest.fixture(scope="module")
def concepts(tmp_path_factory) -> Concepts:
    try:
        return Concepts.read(WordNet.read(fetch_wordnet(tmp_path_factory.mktemp("assets"))))
    except (TrainingError, OSError) as error:
        pytest.skip(f"WordNet cannot be fetched here ({error})")


@pytest.mark.parametrize("label", SENSES)
def test_a_label_means_the_thing_in_the_photo(concepts, label):
    above = {lemma for offset in concepts.wordnet.ancestors(concepts.synset_of_label(label).offset)
             for lemma in concepts.wordnet.synsets[offset].lemmas}
    is_a, is_no = SENSES[label]
    assert is_a in above and is_no not in above


@pytest.mark.parametrize("label, group, truth", [
    ("cup", "alcohol", False), ("toy", "animal", None), ("toy", "pet", None), ("toy", "toy", True),
    ("buddha", "person", None), ("trilobite", "animal", None), ("cat", "pet", True), ("wine bottle", "alcohol", True)])
def test_what_a_photo_of_a_thing_says_of_a_group(concepts, label, group, truth):
    assert concepts.truth(concepts.groups[group], concepts.shown(frozenset({label}), "mine")) is truth


def test_every_group_is_true_of_its_own_name_alone(concepts):
    for group in concepts.groups.values():
        assert concepts.truth(group, concepts.named(group.names[0].singular)) is True


def test_no_name_of_a_group_nor_of_a_scenario_has_a_held_out_concept_in_it(concepts):
    heldout, scenarios = Heldout.read(concepts), Scenarios.read(concepts)
    names = [name for group in concepts.groups.values() for name in group.names]
    texts = [form for name in names for form in (name.singular, name.plural)]
    texts += [said for scenario in (*scenarios.harmful, *scenarios.harmless) for said in scenario.says]
    assert [text for text in texts for word in heldout.labels
            if f" {word} " in f" {text} " or f" {word}s " in f" {text} "] == []


def test_cats_are_not_held_out_with_the_big_cats(concepts):
    heldout = Heldout.read(concepts)
    assert concepts.concept_of(concepts.wordnet.find("cat")) not in heldout
    assert concepts.concept_of(concepts.wordnet.find("big cat")) in heldout


@pytest.mark.parametrize("name", ["webcam", "red admiral", "baby grand", "shears"])
def test_a_kind_of_a_held_out_leaf_is_held_out_with_it(concepts, name):
    assert concepts.concept_of(concepts.wordnet.find(name)) in Heldout.read(concepts)
