"""What scenes show, and policies over them: opposite verdicts for the same scenes, never a held-out concept."""

from __future__ import annotations

import os
import random
import re
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest
import tiny_world
from tiny_world import HELDOUT_WORDS, draws, offset

from training.policyflip.concepts import Concept, Concepts, Heldout, Name, noun_name
from training.policyflip.policies import LONGEST, Pack
from training.policyflip.scenes import ABSTRACT, PhotoWorld, concept_above
from training.policyflip.wordings import Bank

WORLDS = {"photos": tiny_world.photo_world, "words": tiny_world.word_world}
DRAWS = 400


@pytest.fixture(scope="module")
def concepts() -> Concepts:
    return tiny_world.concepts()


@pytest.fixture(scope="module")
def heldout(concepts) -> Heldout:
    return tiny_world.heldout(concepts)


@pytest.fixture(scope="module", params=WORLDS)
def families(request) -> list[list[Pack]]:
    world = WORLDS[request.param]()
    return draws(world, DRAWS) + draws(world, DRAWS // 4, easy=True)


def concept(**given) -> Concept:
    kinds = frozenset(offset(noun) for noun in given.pop("kinds", ()))
    return Concept("made up", (Name("thing", "things"),), kinds=kinds,
                   **{key: frozenset(value) for key, value in given.items()})


def verdicts(pack: Pack) -> dict[int, bool]:
    return {id(scene): broken for scene, broken in zip(pack.scenes, pack.broken, strict=True)}


# What a scene shows.

WEAPON = {"kinds": ["weapon"], "labels": ["armed person"], "maybe": ["toy"], "without": ["drawing"]}


@pytest.mark.parametrize("labels, truth", [
    ({"armed person"}, True),           # a label of it
    ({"gun"}, True),                    # a kind of it
    ({"weapon"}, True),                 # the thing itself
    ({"car"}, False),                   # something else
    (set(), None),                      # nothing that anybody has said
    ({"toy"}, None),                    # a label that leaves it open
    ({"toy", "gun"}, True),             # open by one label, true by another
    ({"drawing", "gun"}, False),        # a label that rules it out, whatever else is there
    ({"drawing", "toy"}, False),
])
def test_a_concept_is_true_false_or_open_in_a_scene(concepts, labels, truth):
    assert concepts.truth(concept(**WEAPON), concepts.shown(frozenset(labels), "zoo")) is truth


def test_a_name_alone_shows_its_kinds_and_an_unknown_name_nothing(concepts):
    owl = concepts.named("owl")
    assert concepts.truth(concept(kinds=["bird"]), owl) is True
    assert concepts.truth(concept(kinds=["fruit"]), owl) is False
    assert concepts.named("sundry") is None


def test_a_label_that_leaves_a_concept_open_does_so_whatever_kind_of_thing_it_is(concepts):
    """A toy dog is a dog to WordNet."""
    made_up = concept(kinds=["weapon"], maybe=["gun"])
    assert concepts.truth(made_up, concepts.shown(frozenset({"gun"}), "zoo")) is None
    assert concepts.truth(made_up, concepts.shown(frozenset({"gun", "sword"}), "zoo")) is True


def test_the_name_of_a_group_shows_the_group_and_what_all_of_it_is(concepts):
    groups, named = concepts.groups, concepts.named("pet")
    assert concepts.truth(groups["pet"], named) is True
    assert concepts.truth(groups["weapon"], named) is False
    assert concepts.truth(concepts.concept_of(concepts.wordnet.find("animal")), named) is True
    assert concepts.truth(concepts.concept_of(concepts.wordnet.find("poodle")), named) is None  # or a beagle


def test_a_wide_label_leaves_the_kinds_below_it_open(concepts):
    bird, dog = concepts.shown(frozenset({"bird"})), concepts.shown(frozenset({"dog"}))
    assert concepts.truth(concept(kinds=["owl"]), bird) is None
    assert concepts.truth(concept(kinds=["owl"]), dog) is False
    assert concepts.truth(concept(kinds=["animal"]), bird) is True


@pytest.mark.parametrize("source, truth", [("surveyed", False), ("other", None), ("", False)])  # "": a scene of words
def test_a_missing_label_means_absence_only_where_somebody_looked_for_it(concepts, source, truth):
    smoking = concept(labels=["smoking"], absent_from=["surveyed"])
    assert concepts.truth(smoking, concepts.shown(frozenset({"dog"}), source)) is truth
    assert concepts.truth(smoking, concepts.shown(frozenset({"smoking"}), source)) is True


def test_a_label_may_stand_for_another_noun(concepts):
    assert concepts.shown(frozenset({"pistol"})).synsets == {offset("gun")}


@pytest.mark.parametrize("entry, complaint", [
    ("{names: [gun | guns], label: [gun]}", r"weapon: unknown keys \['label'\]"),
    ("{labels: [gun]}", "weapon: unknown keys .* or no names"),
    ("{names: [gun | guns], kinds: [gnu]}", r"WordNet has no visible noun \['gnu'\]")])
def test_a_slip_in_the_list_of_concepts_is_an_error(tmp_path, entry, complaint):
    (tmp_path / "concepts.yaml").write_text(f"groups: {{weapon: {entry}}}\nsynsets: {{}}\n", encoding="utf-8")
    with pytest.raises(ValueError, match=complaint):
        Concepts.read(tiny_world.wordnet(), tmp_path / "concepts.yaml")


def test_things_have_a_plural_and_stuff_has_none():
    assert noun_name("poodle", 5) == Name("poodle", "poodles")
    assert noun_name("smoke", 19) == Name("smoke", "smoke")
    assert Name("owl", "owls").with_article == "an owl" and Name("smoke", "smoke").with_article == "smoke"


# Concepts that training never names.

@pytest.mark.parametrize("given, held", [
    ({"kinds": ["flamingo"]}, True), ({"kinds": ["seating"]}, True),
    ({"kinds": ["chair"]}, False),            # a member of a held-out group may be named
    ({"kinds": ["bird"]}, False),             # and what a held-out leaf is a kind of
    ({"labels": ["flamingo"]}, True), ({"labels": ["flamingo", "owl"]}, False)])
def test_held_out_are_leaves_with_their_label_and_groups_without_their_members(heldout, given, held):
    assert (concept(**given) in heldout) is held


def test_a_concept_with_a_held_out_name_is_held_out_whatever_it_means(heldout):
    assert Concept("other", (Name("stool", "stools"), Name("Seating", "seatings"))) in heldout


@pytest.mark.parametrize("world", WORLDS)
@pytest.mark.parametrize("easy", [True, False])
def test_no_policy_of_training_names_a_held_out_concept_though_scenes_show_it(world, easy):
    packs = [pack for packs in draws(WORLDS[world](), DRAWS, seed=1, easy=easy) for pack in packs]
    named = re.compile(rf"\b({'|'.join(HELDOUT_WORDS)})s?\b", re.IGNORECASE)
    assert [pack.text for pack in packs if named.search(pack.text)] == []
    shown = {kind for pack in packs for scene in pack.scenes for kind in scene.shown.kinds}
    assert {offset(noun) for noun in ("flamingo", "dalmatian", "banana", "seating")} <= shown


def test_a_world_for_tests_may_name_them():
    packs = [pack for packs in draws(tiny_world.photo_world(name_heldout=True), 100) for pack in packs]
    assert any("flamingo" in pack.text.lower() for pack in packs)


def test_nobody_is_told_about_abstract_nouns(concepts):
    shown, rng = concepts.shown(frozenset({"owl"})), random.Random(0)
    named = Counter(concept_above(concepts, shown, lambda _: True, rng).names[0].singular for _ in range(300))
    assert "entity" in ABSTRACT and "entity" not in named
    assert named.keys() == {"owl", "bird", "animal"} and named["owl"] == max(named.values())


# Verdicts.

def test_the_two_policies_of_a_pair_never_forbid_the_same_scene_and_swap_what_either_forbids(families):
    pairs = [packs for packs in families if packs[0].family == "pair"]
    assert pairs
    broken_by = Counter()
    for first, second in (map(verdicts, packs) for packs in pairs):
        broken_by.update((first[scene], second[scene]) for scene in first.keys() & second.keys())
    assert broken_by[True, True] == 0
    assert broken_by[True, False] and broken_by[False, True] and broken_by[False, False]


def test_forbidding_a_thing_and_allowing_only_it_are_opposite_on_every_scene(families):
    singles = [packs for packs in families if packs[-1].family in ("only", "single")]
    assert {packs[0].family for packs in singles} == {"forbid", "forbid_only", "single"}
    for forbid, only in (map(verdicts, packs) for packs in singles):
        assert only == {scene: not broken for scene, broken in forbid.items()}


def test_an_exception_and_its_reverse_are_opposite_on_every_scene_that_either_is_about(families):
    exceptions = [packs for packs in families if packs[0].family == "except"]
    assert exceptions
    broken_by = Counter()
    for forbid, allow in (map(verdicts, packs) for packs in exceptions):
        broken_by.update((forbid[scene], allow[scene]) for scene in forbid.keys() & allow.keys())
    assert broken_by[True, True] == 0
    assert broken_by[True, False] and broken_by[False, True] and broken_by[False, False]


@pytest.mark.parametrize("easy", [True, False])
def test_every_family_gives_both_verdicts_in_fair_shares(easy):
    counts: dict[str, Counter] = {}
    for packs in draws(tiny_world.photo_world(), DRAWS, easy=easy) + draws(tiny_world.word_world(), DRAWS, easy=easy):
        for pack in packs:
            counts.setdefault(pack.family, Counter()).update(pack.broken)
    assert counts.keys() == ({"pair", "single"} if easy else {"pair", "forbid", "forbid_only", "only", "except",
                                                              "several", "rule", "blanket"})
    for family, count in counts.items():
        assert 0.2 < count[True] / count.total() < 0.8, f"{family}: {count}"


def test_what_allows_everything_is_never_broken_and_what_forbids_everything_always():
    bank = Bank({**Bank.read().phrases,
                 "everything_allowed": ("Let all in",), "everything_forbidden": ("Keep all out",)})
    blankets = [packs for packs in draws(tiny_world.photo_world(), 1200, bank=bank) if packs[0].family == "blanket"]
    texts = [(pack.text.lower(), set(pack.broken)) for packs in blankets for pack in packs]
    allowed = [broken for text, broken in texts if "let all in" in text or text.startswith("rule: anything")]
    forbidden = [broken for text, broken in texts if "keep all out" in text or text.startswith("rule: nothing")]
    assert len(allowed) > 10 and all(broken == {False} for broken in allowed)
    assert len(forbidden) > 10 and all(broken == {True} for broken in forbidden)


def test_a_scene_whose_verdict_nobody_can_know_is_left_out():
    photos = tiny_world.photo_world()
    knife = next(scene for scene in photos.scenes if scene.shown.labels == {"knife"})  # open for the group of weapons
    for pack in (pack for packs in draws(photos, DRAWS, easy=True) for pack in packs):
        if re.search(r"\b(weapons|arms)\b", pack.text) and pack.family == "single":
            assert knife not in pack.scenes
            break
    else:
        pytest.fail("no policy about weapons was drawn")


def test_a_hard_case_is_often_a_photo_where_the_eye_faintly_names_what_is_not_there(concepts, heldout):
    photos = (("dog", ("dog", 0.9)), ("eagle", ("dog", 0.4)), ("car", ("dog", 0.6)), ("poodle", ("poodle", 0.1)),
              ("apple", ("poodle", 0.1)))
    world = PhotoWorld(concepts, heldout, [concepts.shown(frozenset({label}), "zoo") for label, _ in photos],
                       lambda row, rng: [photos[row][1]])
    dog = concepts.concept_of(concepts.wordnet.find("dog"))
    rng = random.Random(0)
    hard = Counter(sorted(world.near(dog, rng).shown.labels)[0] for _ in range(400))
    assert hard["apple"] > 60 and hard["car"] == 0  # no animal, but faintly named; the eye is sure of a dog in the car


def test_packs_are_of_the_size_that_training_computes_at_once(families):
    packs = [pack for packs in families for pack in packs]
    assert all(len(pack.scenes) == len(pack.broken) <= 6 and 0 < len(pack.text) <= LONGEST for pack in packs)


def test_rules_stand_in_the_canonical_form_of_the_sdk(families):
    texts = [pack.text for packs in families for pack in packs if pack.family == "rule"]
    assert texts and all(re.fullmatch(r"Rule: .+\nForbidden: .+\nAllowed: .+", text) for text in texts)


# Repeatability.

@pytest.mark.parametrize("world", WORLDS)
def test_a_seed_gives_the_same_packs_again_and_another_seed_gives_others(world):
    same = [tiny_world.digest(draws(WORLDS[world](), 30, seed=seed)) for seed in (5, 5, 6)]
    assert same[0] == same[1] != same[2]


def test_a_seed_gives_the_same_packs_in_every_process():
    script = Path(tiny_world.__file__)
    found = {subprocess.run([sys.executable, script], capture_output=True, text=True, check=True,
                            env={**os.environ, "PYTHONHASHSEED": seed, "PYTHONPATH": str(script.parents[1])}).stdout
             for seed in ("1", "2")}
    assert len(found) == 1


def test_a_tag_alone_gets_the_verdict_of_a_scene_that_shows_nothing_else():
    world = tiny_world.photo_world()
    judged = {True: 0, False: 0}
    for pack in (pack for packs in tiny_world.draws(world, 60) for pack in packs if pack.family != "blanket"):
        for scene, broken in zip(pack.scenes, pack.broken, strict=True):
            if len(scene.shown.labels) == 1 and (verdict := pack.alone(*scene.shown.labels)) is not None:
                assert verdict is broken
                judged[verdict] += 1
    assert min(judged.values()) > 20


def test_under_a_policy_about_everything_each_tag_gets_the_verdict_of_the_policy():
    packs = [pack for packs in tiny_world.draws(tiny_world.photo_world(), 200) for pack in packs
             if pack.family == "blanket"]
    assert {pack.alone("owl") for pack in packs} == {True, False}
    assert all(pack.alone("sundry") is pack.broken[0] for pack in packs)
