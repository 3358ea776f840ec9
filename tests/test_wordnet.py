"""WordNet as training reads it: a small `dict` folder in the format of wndb(5WN), written by hand."""

from __future__ import annotations

from pathlib import Path

import pytest

from training.wordnet import WordNet

# offset, lexicographer file (05 animal, 06 artifact, 13 food, 18 person), type, number of words (hexadecimal), words
# with their sense ids, number of pointers (decimal), pointers (symbol, offset, type, source and target), gloss.
DATA = """\
  1 This software and database is being provided to you, the LICENSEE, by
  2 Princeton University under the following license.
00000010 03 n 01 entity 0 001 ~ 00000020 n 0000 | that which is
00000020 05 n 03 animal 0 beast 0 creature 0 002 @ 00000010 n 0000 ~ 00000030 n 0000 | a living thing that moves
00000030 05 n 01 bird 0 001 @ 00000020 n 0000 | feathers and wings
00000040 05 n 01 crane 0 001 @ 00000030 n 0000 | a large wading bird
00000050 06 n 02 crane 1 derrick 0 001 @ 00000010 n 0000 | lifts and moves heavy objects
00000060 05 n 02 dog 0 domestic_dog 0 001 @ 00000020 n 0000 | it barks
00000070 05 n 01 Lassie 0 001 @i 00000060 n 0000 | a dog in films
00000080 20 n 02 apple 0 orchard_apple_tree 0 001 @ 00000010 n 0000 | a tree
00000090 13 n 01 apple 1 001 @ 00000010 n 0000 | its fruit
00000100 11 n 01 fire 0 001 @ 00000010 n 0000 | the event of something burning
00000110 06 n 01 fire 1 001 @ 00000010 n 0000 | a fireplace in which something burns
00000120 04 n 01 smoking 0 001 @ 00000010 n 0000 | the act of smoking
00000130 07 n 01 justice 0 001 @ 00000010 n 0000 | a quality
00000140 13 n 01 bell_pepper 0 001 @ 00000010 n 0000 | a large mild pepper
00000150 06 n 0b knife 0 b 0 c 0 d 0 e 0 f 0 g 0 h 0 i 0 j 0 k 0 002 @ 00000010 n 0000 ~ 00000160 n 0000 | it cuts
00000160 06 n 01 bank 0 001 @ 00000150 n 0000 | commonest sense, under an artifact for the test
00000170 17 n 01 bank 1 001 @ 00000010 n 0000 | sloping land
00000180 18 n 02 fireman 0 firefighter 0 002 @ 00000010 n 0000 @ 00000020 n 0000 | two hypernyms
00000190 06 n 01 scarf 0 001 @ 00000010 n 0000 | worn around the neck
00000200 13 n 01 berry 0 001 @ 00000010 n 0000 | a small fruit
00000210 06 n 01 box 0 001 @ 00000010 n 0000 | a container
"""

# lemma, type, number of synsets, number of pointer symbols, the symbols, number of senses, number of senses that occur
# in the tagged corpus, offsets from the commonest sense on
INDEX = """\
  1 This software and database is being provided to you, the LICENSEE, by
animal n 1 2 @ ~ 1 1 00000020
apple n 2 1 @ 2 1 00000080 00000090
bank n 2 1 @ 2 2 00000160 00000170
bell_pepper n 1 1 @ 1 0 00000140
berry n 1 1 @ 1 1 00000200
bird n 1 1 @ 1 1 00000030
box n 1 1 @ 1 1 00000210
crane n 2 1 @ 2 0 00000050 00000040
derrick n 1 1 @ 1 0 00000050
dog n 1 1 @ 1 1 00000060
entity n 1 1 ~ 1 1 00000010
fire n 2 1 @ 2 2 00000100 00000110
fireman n 1 1 @ 1 0 00000180
justice n 1 1 @ 1 1 00000130
knife n 1 2 @ ~ 1 1 00000150
lassie n 1 1 @i 1 0 00000070
scarf n 1 1 @ 1 0 00000190
smoking n 1 1 @ 1 1 00000120
"""


@pytest.fixture(scope="module")
def wordnet(tmp_path_factory: pytest.TempPathFactory) -> WordNet:
    folder: Path = tmp_path_factory.mktemp("dict")
    (folder / "data.noun").write_text(DATA, encoding="utf-8")
    (folder / "index.noun").write_text(INDEX, encoding="utf-8")
    return WordNet.read(folder)


def test_the_licence_is_no_synset(wordnet):
    assert len(wordnet.synsets) == 21


def test_a_lemma_of_several_words_is_written_with_blanks(wordnet):
    assert wordnet.synsets["00000060"].lemmas == ("dog", "domestic dog")


def test_the_number_of_words_is_hexadecimal(wordnet):
    knife = wordnet.synsets["00000150"]
    assert len(knife.lemmas) == 0x0B
    assert knife.hypernyms == ("00000010",)  # the pointers are found behind all eleven words


def test_only_pointers_upwards_are_hypernyms(wordnet):
    assert wordnet.synsets["00000020"].hypernyms == ("00000010",)  # and not the bird below it


def test_a_named_individual_is_an_instance_below_its_kind(wordnet):
    lassie = wordnet.synsets["00000070"]
    assert lassie.instance and lassie.hypernyms == ("00000060",)
    assert not wordnet.synsets["00000060"].instance


def test_a_named_individual_is_nothing_that_a_name_in_a_photo_means(wordnet):
    assert wordnet.find("Lassie") is None


@pytest.mark.parametrize("name, offset", [
    ("crane", "00000040"),    # the bird, though the machine is the commoner sense
    ("apple", "00000090"),    # the food, though the tree is the commoner sense
    ("fire", "00000110"),     # the thing, though the event is the commoner sense
    ("smoking", "00000120"),  # an act, as there is nothing better
    ("bank", "00000160"),     # two things: the commoner sense
])
def test_a_name_means_an_animal_then_food_then_a_thing_then_the_commonest_sense(wordnet, name, offset):
    assert wordnet.find(name).offset == offset


@pytest.mark.parametrize("name, kind, offset", [
    ("crane", "animal", "00000040"), ("crane", "derrick", "00000050"), ("apple", "orchard apple tree", "00000080")])
def test_a_kind_tells_the_senses_of_a_name_apart(wordnet, name, kind, offset):
    assert wordnet.find(name, kind=kind).offset == offset
    assert wordnet.find(name, kind="knife") is None


def test_other_names_of_the_thing_outweigh_its_kind(wordnet):
    assert wordnet.find("crane", ("Crane", "Derrick")).offset == "00000050"


@pytest.mark.parametrize("name", ["justice", "spaceship", ""])  # a quality; a word that is not there; nothing
def test_a_name_without_a_visible_sense_means_nothing(wordnet, name):
    assert wordnet.find(name) is None


@pytest.mark.parametrize("plural, singular", [
    ("dogs", "dog"), ("knives", "knife"), ("scarves", "scarf"), ("berries", "berry"), ("boxes", "box"),
    ("firemen", "fireman"), ("Bell Peppers", "bell pepper")])
def test_a_plural_means_what_its_singular_means(wordnet, plural, singular):
    assert wordnet.find(plural) is wordnet.find(singular) is not None


def test_a_longer_name_means_what_its_last_known_words_mean(wordnet):
    assert wordnet.find("red bell pepper").lemmas == ("bell pepper",)
    assert wordnet.find("big hunting dogs").lemmas[0] == "dog"
    assert wordnet.find("dog with a red scarf").lemmas[0] == "dog"
    assert wordnet.find("bank of scarves").offset == "00000160"


def test_a_word_of_a_longer_name_means_what_it_means_most_often_or_the_food_where_that_is_a_plant(wordnet):
    assert wordnet.find("floating crane").offset == "00000050"  # the machine
    assert wordnet.find("green apple").offset == "00000090"     # the fruit


def test_the_ancestors_of_a_synset_are_itself_and_everything_above_it_on_all_ways(wordnet):
    assert wordnet.ancestors("00000040") == {"00000040", "00000030", "00000020", "00000010"}
    assert wordnet.ancestors("00000180") == {"00000180", "00000020", "00000010"}
    assert wordnet.ancestors("00000010") == {"00000010"}


def test_senses_stand_in_the_order_of_the_index_the_commonest_first(wordnet):
    assert wordnet.senses["crane"] == ("00000050", "00000040")


def test_familiar_are_the_lemmas_that_occur_in_the_tagged_corpus(wordnet):
    assert "dog" in wordnet.familiar
    assert "crane" not in wordnet.familiar and "bell pepper" not in wordnet.familiar
