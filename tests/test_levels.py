"""One policy learnt, five judged: levels by what they forbid, two ways to learn, a table that goes on after a stop."""

from __future__ import annotations

import json
import random
import xml.etree.ElementTree as ElementTree
from itertools import pairwise

import numpy as np
import pytest
import tiny_world
import torch
import yaml
from tiny_reader import encode, new_reader

from training.errors import TrainingError
from training.nano.levels import learn as learning
from training.nano.levels import table as tables
from training.nano.levels.learn import METHODS, is_flat, learn, rl_loss, sft_loss
from training.nano.levels.policies import Judged, Level, draw, judged_photos, read_levels
from training.nano.levels.table import mark, marks, plot, table
from training.nano.reader import STYLE, collate
from training.policyflip.concepts import FOLDER, Concepts

pytestmark = [
    pytest.mark.usefixtures("one_thread"),
    # peft 0.21
    pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning"),
]


@pytest.fixture(scope="module")
def world():
    return tiny_world.photo_world()


@pytest.fixture(scope="module")
def levels(world) -> list[Level]:
    groups = world.concepts.groups
    return [Level("L1", "all is fine", ()), Level("L2", "no weapons", (groups["weapon"],)),
            Level("L3", "no weapons and no pets", (groups["weapon"], groups["pet"]))]


@pytest.fixture(scope="module")
def judged(world, levels) -> Judged:
    return judged_photos(levels, world, most=100, seed=1)


def shown_under(judged: Judged, level: str) -> set[str]:
    return {" ".join(sorted(scene.shown.labels)) for scene, broken in zip(judged.scenes, judged.broken[level],
                                                                          strict=True) if broken}


# The levels.

def test_each_level_of_the_repository_forbids_more_than_the_one_before():
    groups = yaml.safe_load((FOLDER / "concepts.yaml").read_text(encoding="utf-8"))["groups"]
    levels = read_levels(Concepts(tiny_world.wordnet(), {name: name for name in groups}))
    assert [level.name for level in levels] == ["L1", "L2", "L3", "L4", "L5"]
    for less, more in pairwise(levels):
        assert set(less.forbids) < set(more.forbids)


def test_a_photo_breaks_a_level_by_what_it_shows(judged):
    assert shown_under(judged, "L1") == set()
    assert shown_under(judged, "L2") == {"gun", "sword", "pistol"}
    assert shown_under(judged, "L3") == {"gun", "sword", "pistol", "poodle", "beagle", "poodle sofa"}


def test_a_photo_that_some_level_leaves_open_is_not_used(judged):
    assert not any("knife" in scene.shown.labels for scene in judged.scenes)  # which may be a weapon
    assert any("saw" in scene.shown.labels for scene in judged.scenes)


def test_half_of_what_is_drawn_breaks_a_level_that_can_be_broken(judged):
    packs = draw("L2", judged, packs=40, scenes=6, rng=random.Random(0), text="no weapons")
    share = np.mean([broken for pack in packs for broken in pack.broken])
    assert 0.4 < share < 0.6
    assert not any(any(pack.broken) for pack in draw("L1", judged, 5, 6, random.Random(0), "all is fine"))


def test_a_level_that_is_not_there_is_one_line_that_names_those_that_are(levels):
    tables.require_levels(levels, ("L1", "L3"))
    with pytest.raises(TrainingError, match="--level: there is no level L9; there are L1, L2, L3"):
        tables.require_levels(levels, ("L3", "L9"))


# Learning.

@pytest.mark.parametrize("method", METHODS)
def test_either_way_the_learnt_level_is_judged_better_than_before(monkeypatch, levels, judged, method):
    monkeypatch.setattr(learning, "RATE", 2e-2)
    monkeypatch.setattr(learning, "MOST_STEPS", 80)
    accuracies = learn(new_reader(), method, levels[1], judged, judged, encode, seed=1)
    assert max(accuracies) > accuracies[0] + 0.2


def test_learning_is_the_same_for_the_same_seed(monkeypatch, levels, judged):
    monkeypatch.setattr(learning, "MOST_STEPS", 20)
    first, second, other = (learn_and_score(levels, judged, seed) for seed in (1, 1, 2))
    assert np.array_equal(first, second)
    assert not np.array_equal(first, other)


def learn_and_score(levels, judged, seed) -> np.ndarray:
    reader = new_reader()
    learn(reader, "rl", levels[2], judged, judged, encode, seed)
    return learning.score(reader, [(levels[2].text, scene) for scene in judged.scenes], encode)


def test_both_ways_push_a_wrong_verdict_to_the_right_side(levels, judged):
    batch = collate([(encode(STYLE.prefix("no weapons")), [(np.array([3, 4]), np.array([0.9, 0.9]))] * 2,
                      [True, False])], encode(STYLE.suffix))
    for loss in (sft_loss, rl_loss):
        reader = new_reader()
        logits = {}
        hook = reader.verdict.register_forward_hook(lambda module, taken, given, kept=logits: _keep(kept, given))
        loss(reader, batch, torch.Generator().manual_seed(0)).backward()
        hook.remove()
        unsafe = logits["first"].grad[:, 1]
        assert unsafe[0] < 0 < unsafe[1]  # descent raises the logit of the broken one


def _keep(kept: dict, given: torch.Tensor) -> None:
    if "first" not in kept:  # rl asks the base, too
        given.retain_grad()
        kept["first"] = given


@pytest.mark.parametrize(("accuracies", "flat"), [
    ([0.5], False), ([0.5, 0.6, 0.7, 0.8], False), ([0.9, 0.9, 0.9, 0.9], False), ([0.9, 0.9, 0.9, 0.9, 0.9], True),
    ([0.5, 0.9, 0.8, 0.8, 0.8, 0.8], True), ([0.5, 0.9, 0.8, 0.8, 0.8, 0.92], False)])
def test_it_is_flat_when_four_evaluations_bring_nothing(accuracies, flat):
    assert is_flat(accuracies) == flat


# The table.

def test_a_mark_is_the_f1_of_unsafe_or_accuracy_where_nothing_is_unsafe():
    assert mark([True, True, False, False], np.array([True, False, True, False])) == 0.5
    assert mark([False, False, False, False], np.array([True, False, False, False])) == 0.75


def test_a_row_of_the_table_is_mean_and_deviation_over_the_seeds(tmp_path, levels, judged):
    rows = [{"method": "base", "level": "", "seed": 0, "steps": 0, "marks": {"L1": 1, "L2": 0.5, "L3": 0.5}}] + [
        {"method": "sft", "level": "L2", "seed": seed, "steps": 100 * seed,
         "marks": {"L1": 0.2 * seed, "L2": 0.9, "L3": 0.3}} for seed in (1, 2, 3)]
    lines = table(rows, levels, judged).splitlines()
    assert lines[2].startswith("| – | always unsafe | 0 | 0.0 | ")
    assert lines[3] == "| – | base | 0 | 100.0 | 50.0 | 50.0 | 66.7 |"
    assert lines[4] == "| L2 | sft | 200 | 40.0 ± 20.0 | 90.0 ± 0.0 | 30.0 ± 0.0 | 53.3 ± 6.7 |"
    plot(rows, levels, tmp_path / "table.svg")
    assert ElementTree.parse(tmp_path / "table.svg").getroot().tag.endswith("svg")


def test_marks_are_one_for_each_level(levels, judged):
    found = marks(new_reader(), encode, levels, judged)
    assert found.keys() == {"L1", "L2", "L3"}
    assert all(0 <= value <= 1 for value in found.values())


def test_results_are_lines_that_a_stopped_experiment_goes_on_from(tmp_path):
    path = tmp_path / "results.jsonl"
    rows = [{"method": "sft", "level": "L2", "seed": 1}, {"method": "rl", "level": "L2", "seed": 1}]
    tables._write(path, rows)
    assert tables._read(path) == rows == [json.loads(line) for line in path.read_text().splitlines()]
    assert tables._read(tmp_path / "none.jsonl") == []
