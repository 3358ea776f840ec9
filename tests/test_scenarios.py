"""Policies on more than things: a scenario is not the nouns in it, and two things together are not one of them."""

from __future__ import annotations

import random

import pytest
import tiny_world
import yaml

from safeguard_sdk import Policy
from training.policyflip.concepts import FOLDER
from training.policyflip.scenarios import REST, ScenarioFlip, Scenarios
from training.policyflip.voices import Voices
from training.policyflip.wordings import Bank

SCENARIOS = """
harmful:
  - {says: [dogs set on each other, a dog fight], about: [dog]}
  - {says: [somebody waving a blade], about: [sword, car], open: [gun]}
harmless:
  - {says: [a dog asleep on a sofa], about: [dog, sofa]}
"""


@pytest.fixture(scope="module")
def flip(tmp_path_factory) -> ScenarioFlip:
    world, bank = tiny_world.photo_world(), Bank.read()
    path = tmp_path_factory.mktemp("scenarios") / "scenarios.yaml"
    path.write_text(SCENARIOS)
    return ScenarioFlip(world, bank, Voices.read(bank), Scenarios.read(world.concepts, path))


def drawn(draw, count: int = 150) -> list:
    rng = random.Random(2)
    return [pack for _ in range(count) for pack in draw(rng)]


def labels(scene) -> set[str]:
    return set(scene.shown.labels)


def test_what_a_scenario_hints_at_does_not_break_it(flip):
    """A picture of a dog is none of dogs that fight."""
    checked = 0
    for pack in drawn(flip._scenario):
        if "dogs set on each other" in pack.text and pack.text.startswith("Rule:"):
            forbidden = pack.text.split("Forbidden: ")[1].split("\n")[0]
            items = forbidden.split("; ")
            if all(item in ("dogs set on each other", "somebody waving a blade") for item in items):
                assert not any(pack.broken)
                checked += sum("dog" in labels(scene) for scene in pack.scenes)
    assert checked > 3


def test_a_picture_that_might_show_a_scenario_is_not_judged_by_it(flip):
    guns = 0
    for pack in drawn(flip._scenario):
        if "somebody waving a blade" in pack.text:
            assert not any({"gun", "pistol"} & labels(scene) for scene in pack.scenes)
        else:
            guns += sum(bool({"gun", "pistol"} & labels(scene)) for scene in pack.scenes)
    assert guns


def test_a_thing_among_scenarios_still_breaks_the_rule_that_forbids_it(flip):
    packs = drawn(flip._scenario)
    assert any(any(pack.broken) for pack in packs)
    assert any(any(pack.broken) and not all(pack.broken) for pack in packs)


def test_two_opposite_sides_come_equally_often_together(flip):
    packs = drawn(flip._together)
    broken = [verdict for pack in packs for verdict in pack.broken]
    assert 0.45 < sum(broken) / len(broken) < 0.55


def test_two_things_together_are_broken_only_where_both_are(flip):
    for pack in drawn(flip._together):
        alone = [broken for scene, broken in zip(pack.scenes, pack.broken, strict=True) if len(labels(scene)) == 1]
        rest = pack.text.startswith("Rule:") and any(f"Forbidden: {one}\n" in pack.text for one in REST)
        if pack.text.startswith("Rule:"):
            assert all(broken == rest for broken in alone)


def test_an_unknown_noun_is_an_error(flip, tmp_path):
    path = tmp_path / "scenarios.yaml"
    path.write_text("harmful: [{says: [a], about: [unicorn]}]\nharmless: []\n")
    with pytest.raises(ValueError, match=r"'unicorn' is neither a group of concepts.yaml nor a visible noun"):
        Scenarios.read(flip.world.concepts, path)


@pytest.mark.parametrize(("forbidden", "allowed"), [(1, 0), (2, 3), (4, 2), (4, 4)])
def test_nothing_that_a_verdict_rests_on_is_left_out_of_the_policy(flip, monkeypatch, forbidden, allowed):
    monkeypatch.setattr(flip, "_dress", lambda body, rng: body)  # no slips of the keyboard
    items = [f"thing {letter}" for letter in "abcdefgh"[:forbidden + allowed]]
    rng = random.Random(0)
    for _ in range(200):
        text = flip._written(tuple(items[:forbidden]), tuple(items[forbidden:]), rng).lower()
        assert [item for item in items if item not in text] == []


# The file of the repository.

def entries() -> list[dict]:
    document = yaml.safe_load((FOLDER / "scenarios.yaml").read_text(encoding="utf-8"))
    return document["harmful"] + document["harmless"]


def test_no_scenario_stands_twice_and_each_is_put_in_several_ways():
    says = [phrase for entry in entries() for phrase in entry["says"]]
    assert len(says) == len(set(says)) >= 390
    assert all(len(entry["says"]) >= 3 and entry["about"] for entry in entries())


def test_no_scenario_is_an_item_of_a_packaged_policy():
    """These stay unseen, so that false alarms under them tell something."""
    items = {item for name in Policy.packaged_names() for rule in Policy.packaged(name).rules
             for item in (*rule.forbids, *rule.allows)}
    assert not items & {phrase for entry in entries() for phrase in entry["says"]}
