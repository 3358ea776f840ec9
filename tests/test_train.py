"""Training: a stop costs nothing but time, every step has its own packs, and a few packs can be learnt by heart."""

from __future__ import annotations

import json
import random
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import BinaryIO

import numpy as np
import pytest
import tiny_world
import torch
from tiny_reader import encode, new_reader

from safeguard_sdk.engine.tags import TagTable
from training.errors import TrainingError
from training.nano import reader as nano_reader
from training.nano import train as training
from training.nano.exam import build_exam
from training.nano.reader import Reader
from training.nano.train import (
    Recipe,
    Sources,
    blended,
    draw,
    fit,
    photo_world,
    score,
    see,
    taught_tokens,
    word_world,
)
from training.photos import Photo
from training.policyflip.concepts import Shown
from training.policyflip.policies import Pack, PolicyFlip
from training.policyflip.scenes import Scene
from training.policyflip.voices import Voices
from training.policyflip.wordings import Bank

pytestmark = [
    pytest.mark.usefixtures("one_thread"),
    # peft 0.21
    pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning"),
]

RECIPE = Recipe(seed=3, views=1, layers=2, rank=2, learning_rate=1e-2, warmup_steps=2, steps=7, decay_from=5,
                easy_steps=2, composed_from=4, families=2, word_families=1, plain=0.3, micro_packs=3,
                checkpoint_every=2, evaluate_every=4, alone=0.5, blend=1.0)


@pytest.fixture(scope="module")
def sources() -> Sources:
    bank = Bank.read()
    worlds = [tiny_world.photo_world(), tiny_world.word_world()]
    return Sources(*([PolicyFlip(world, some, voices, scenes=4) for world in worlds]
                     for some, voices in ((bank.plainly(), None), (bank, None), (bank, Voices.read(bank)))))


@pytest.fixture(scope="module")
def exam():
    world = tiny_world.photo_world()
    return build_exam(world, world.concepts, world.heldout, questions=4, seed=0)


@pytest.fixture(scope="module")
def finished(tmp_path_factory, sources, exam) -> tuple[Path, Reader]:
    """The folder and the reader of a run that nothing has stopped."""
    out, reader = tmp_path_factory.mktemp("finished"), new_reader()
    fit(reader, sources, encode, exam, out, RECIPE)
    return out, reader


class Stopped(Exception):
    pass


class StopsAfter:
    """A source of packs that stops the process when it and the others have given some."""

    def __init__(self, source: PolicyFlip, left: Iterator[int]) -> None:
        self.source, self.left = source, left

    def family(self, rng: random.Random, easy: bool) -> list[Pack]:
        if next(self.left, None) is None:
            raise Stopped
        return self.source.family(rng, easy)


class Always:
    """A source that gives the same packs all the time."""

    def __init__(self, packs: list[Pack]) -> None:
        self.packs = packs

    def family(self, rng: random.Random, easy: bool) -> list[Pack]:
        return self.packs


def rows(out: Path) -> list[dict]:
    return [json.loads(line) for line in (out / "log.jsonl").read_text(encoding="utf-8").splitlines()]


def assert_same_weights(found: dict[str, torch.Tensor], expected: dict[str, torch.Tensor]) -> None:
    assert found.keys() == expected.keys()
    assert [name for name in expected if not torch.equal(found[name], expected[name])] == []


# Going on.

@pytest.mark.parametrize("stop_at", [1, 2, 5])  # before the first checkpoint, just after it, between two
def test_a_run_that_was_stopped_and_goes_on_ends_with_exactly_the_same_weights(
        tmp_path, capsys, finished, sources, exam, stop_at):
    left = iter(range(stop_at * RECIPE.families))
    stopping = Sources(*([StopsAfter(source, left) for source in some]
                         for some in (sources.plain, sources.bank, sources.composed)))
    with pytest.raises(Stopped):
        fit(new_reader(), stopping, encode, exam, tmp_path, RECIPE)
    torch.manual_seed(stop_at)  # a new process has another state
    reader = new_reader()
    fit(reader, sources, encode, exam, tmp_path, RECIPE)
    assert_same_weights(reader.state_dict(), finished[1].state_dict())
    assert ("going on from step" in capsys.readouterr().out) == (stop_at >= RECIPE.checkpoint_every)


def test_a_finished_run_started_again_trains_no_further(tmp_path, finished, sources, exam):
    out, trained = finished
    reader = new_reader()
    fit(reader, sources, encode, exam, out, RECIPE)
    assert_same_weights(reader.state_dict(), trained.state_dict())


def test_a_stop_while_a_checkpoint_is_written_leaves_the_former_one_whole(tmp_path, monkeypatch, sources, exam):
    written = []

    def save(state: dict, file: BinaryIO) -> None:
        if len(written) == 2:
            file.write(b"half of a checkpo")
            raise Stopped
        written.append(state["step"])
        torch_save(state, file)

    torch_save = torch.save
    monkeypatch.setattr(torch, "save", save)
    with pytest.raises(Stopped):
        fit(new_reader(), sources, encode, exam, tmp_path, RECIPE)
    assert torch.load(tmp_path / "checkpoint.pt", weights_only=True)["step"] == written[-1] == 4


def test_the_reader_file_holds_the_recipe_and_what_was_trained_and_nothing_else(finished):
    out, trained = finished
    state = torch.load(out / "reader.pt", weights_only=True)
    assert Recipe(**state["recipe"]) == RECIPE
    names = set(state["reader"])
    heads = {name for name in names if name.startswith(("probability.", "verdict.", "alone."))}
    assert {"probability.weight", "verdict.weight", "verdict.bias", "alone.1.weight"} < heads
    assert all("lora_" in name for name in names - heads)
    reader = new_reader()
    assert reader.load_state_dict(state["reader"], strict=False).unexpected_keys == []
    assert_same_weights(reader.state_dict(), trained.state_dict())


def test_the_frozen_weights_of_the_model_stay_as_they_were(finished):
    before, after = new_reader().state_dict(), finished[1].state_dict()
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert changed and all("lora_" in name or not name.startswith("model.") for name in changed)


# Learning.

def test_opposite_policies_over_a_few_scenes_are_learnt_by_heart(tmp_path, monkeypatch, sources, exam):
    monkeypatch.setattr(training, "LOG_EVERY", 1)
    packs = [pack for pack in sources.bank[0].family(random.Random(2), easy=True) if pack.scenes]
    broken = np.array([broken for pack in packs for broken in pack.broken])
    assert set(broken) == {True, False} and len(packs) == 2
    recipe = replace(RECIPE, steps=60, decay_from=40, families=1, word_families=0, learning_rate=3e-3,
                     evaluate_every=60)
    reader = new_reader()
    fit(reader, Sources(*[[Always(packs)]] * 3), encode, exam, tmp_path, recipe)
    losses = [row["loss"] for row in rows(tmp_path) if "loss" in row]
    assert len(losses) == 60 and losses[0] > 0.4 and max(losses[-5:]) < 0.05
    questions = [(pack.text, scene) for pack in packs for scene in pack.scenes]
    np.testing.assert_array_equal(score(reader, questions, encode) > 0, broken)


def test_a_blend_lies_on_the_way_from_the_start_to_where_training_went(tmp_path, finished, sources, exam):
    reader = new_reader()
    start = {name: tensor.clone() for name, tensor in reader.state_dict().items()}
    fit(reader, sources, encode, exam, tmp_path, replace(RECIPE, blend=0.25))
    whole = finished[1].state_dict()
    trained = torch.load(tmp_path / "reader.pt", weights_only=True)["reader"]
    assert any(".lora_B." in name and tensor.any() for name, tensor in trained.items())
    for name, tensor in trained.items():  # the product of B and A is what counts, and begins as nothing
        expected = whole[name] if ".lora_A." in name else 0.75 * start[name] + 0.25 * whole[name]
        torch.testing.assert_close(tensor, expected)


@pytest.mark.parametrize(("share", "like"), [(0.0, "start"), (1.0, "trained")])
def test_the_ends_of_a_blend_are_the_start_and_the_training(share, like):
    weights = {"start": {"head": torch.tensor([1.0, 2.0])}, "trained": {"head": torch.tensor([3.0, 0.0])}}
    torch.testing.assert_close(blended(weights["start"], weights["trained"], share), weights[like])


def test_the_log_has_the_loss_the_time_left_and_the_validation(tmp_path, monkeypatch, sources, exam):
    monkeypatch.setattr(training, "LOG_EVERY", 2)
    fit(new_reader(), sources, encode, exam, tmp_path, RECIPE)
    log = rows(tmp_path)
    assert [row["step"] for row in log if "loss" in row] == [2, 4, 6]
    assert all(row["loss"] > 0 and row["eta_minutes"] >= 0 for row in log if "loss" in row)
    validations = [row for row in log if "validation" in row]
    assert [row["step"] for row in validations] == [4, 7]  # every 4 steps and at the end
    assert {"seen/known/both_right", "unseen/heldout/auroc", "ece"} <= validations[0]["validation"].keys()


def test_a_loss_that_is_no_number_stops_the_run_before_it_is_saved(tmp_path, sources, exam):
    reader = new_reader()
    with torch.no_grad():
        reader.verdict.weight.fill_(float("nan"))
    with pytest.raises(FloatingPointError, match="loss is nan at step 0; lower learning_rate"):
        fit(reader, sources, encode, exam, tmp_path, RECIPE)
    assert not (tmp_path / "checkpoint.pt").exists()


def test_the_learning_rate_rises_stays_and_falls_to_a_twentieth():
    recipe = replace(RECIPE, warmup_steps=4, decay_from=60, steps=100)
    assert [recipe.rate_at(step) for step in (0, 3, 4, 59, 60)] == [0.25, 1, 1, 1, 1]
    assert recipe.rate_at(80) == pytest.approx(0.5)
    assert recipe.rate_at(98) == recipe.rate_at(99) == 0.05


@pytest.mark.parametrize("file", [training.RECIPE, training.FURTHER])
def test_the_recipes_that_ship_are_complete(file):
    recipe = Recipe.read(file)
    assert 0 < recipe.warmup_steps < recipe.decay_from < recipe.steps


@pytest.mark.parametrize(("key", "line", "message"), [
    ("warmup_steps", "warm_up_steps: 20", "there is no key warm_up_steps; did you mean warmup_steps?"),
    ("seed", "seed: 1\nseed: 2", "the key seed is given twice"),
    ("decay_from", "decay_from: 9999", "decay_from is 9999, must be at least 0 and at most"),
    ("plain", "plain: 1.5", "plain is 1.5, must be at least 0 and at most 1"),
    ("learning_rate", "learning_rate: 1e-3", "in YAML 1e-4 is a text"),
])
def test_a_slip_in_a_recipe_is_one_line_that_names_the_key(tmp_path, key, line, message):
    lines = training.RECIPE.read_text(encoding="utf-8").splitlines()
    changed = "\n".join(line if one.startswith(f"{key}:") else one for one in lines)
    (tmp_path / "recipe.yaml").write_text(changed, encoding="utf-8")
    with pytest.raises(TrainingError) as error:
        Recipe.read(tmp_path / "recipe.yaml")
    assert message in str(error.value) and "\n" not in str(error.value)


# The packs of a step.

def test_the_packs_of_a_step_depend_on_seed_and_step_and_on_nothing_that_ran_before(sources):
    at_4 = tiny_world.digest([draw(sources, RECIPE, 4)])
    draw(sources, RECIPE, 3)
    random.seed(1)
    torch.manual_seed(1)
    assert tiny_world.digest([draw(sources, RECIPE, 4)]) == at_4
    assert tiny_world.digest([draw(sources, RECIPE, 5)]) != at_4
    assert tiny_world.digest([draw(sources, replace(RECIPE, seed=4), 4)]) != at_4


def test_the_first_steps_are_easy_and_every_step_has_photos_and_words(sources):
    steps = {step: draw(sources, RECIPE, step) for step in range(40)}
    easy = {pack.family for step in range(RECIPE.easy_steps) for pack in steps[step]}
    full = {pack.family for step in range(RECIPE.easy_steps, 40) for pack in steps[step]}
    assert easy <= {"pair", "single"} and {"except", "rule", "several"} <= full
    for packs in steps.values():
        assert all(pack.scenes for pack in packs)
        assert {scene.photo >= 0 for pack in packs for scene in pack.scenes} == {True, False}


SCENE = Scene(lambda rng: [("eagle", 0.9), ("strange thing", 0.5), ("poodle", 0.2)],
              Shown(frozenset({"eagle", "poodle"}), frozenset(), frozenset(), ""))


def test_a_step_has_as_many_families_over_words_as_the_recipe_says():
    class Counted:
        def __init__(self, kind: str) -> None:
            self.kind = kind

        def family(self, rng: random.Random, easy: bool) -> list[Pack]:
            return [Pack("no owls", (SCENE,), (True,), self.kind)]

    recipe = replace(RECIPE, families=5, word_families=2)
    packs = draw(Sources(*[[Counted("photos"), Counted("words")]] * 3), recipe, step=9)
    assert sorted(pack.family for pack in packs) == ["photos"] * 3 + ["words"] * 2


def test_a_share_of_the_families_is_plain_and_the_others_are_composed_from_their_step_on(sources):
    def count(step: int) -> Counter[str]:
        kinds = {id(sources.plain): "plain", id(sources.bank): "bank", id(sources.composed): "composed"}
        rng = random.Random(0)
        return Counter(kinds[id(sources.at(step, RECIPE, rng))] for _ in range(1000))

    for step, others in ((RECIPE.composed_from - 1, "bank"), (RECIPE.composed_from, "composed")):
        assert count(step).keys() == {"plain", others}
        assert count(step)["plain"] == pytest.approx(1000 * RECIPE.plain, rel=0.1)


def test_each_tag_is_taught_the_verdict_that_it_alone_would_get_where_that_is_known():
    pack = Pack("no birds, please", (SCENE,), (True,), "single", {"eagle": True, "poodle": False}.get)
    ids, probabilities, alone = taught_tokens(pack, SCENE, lambda text: encode(text.replace(",", " ,")),
                                              random.Random(0))
    assert len(ids) == len(probabilities) == 7  # a name of two words, and a comma behind each name
    np.testing.assert_array_equal(alone, [np.nan, 1, np.nan, np.nan, np.nan, np.nan, 0])


def test_scores_do_not_depend_on_what_is_scored_together(sources):
    reader = new_reader().eval()
    packs = [pack for step in range(2, 5) for pack in draw(sources, RECIPE, step)]
    questions = [(pack.text, scene) for pack in packs for scene in pack.scenes if scene.photo < 0]
    together = score(reader, questions, encode)
    alone = np.array([score(reader, [question], encode)[0] for question in questions])
    np.testing.assert_allclose(together, alone, rtol=0, atol=0.05)  # bfloat16


@pytest.mark.parametrize("kind", [torch.bfloat16, torch.float32])
def test_a_step_is_the_same_in_either_type_of_number_but_for_rounding(monkeypatch, sources, kind):
    for module in (nano_reader, training):
        monkeypatch.setattr(module, "number_type", lambda: kind)
    reader, seen = new_reader(), []
    reader.model.get_base_model().layers[0].mlp.up_proj.register_forward_hook(
        lambda _, given, result: seen.append(result.dtype))
    losses = training._step(reader, training._optimizer(reader, RECIPE), draw(sources, RECIPE, 2), encode, RECIPE, 2)
    assert set(seen) == {kind}
    for module in (nano_reader, training):
        monkeypatch.setattr(module, "number_type", lambda: torch.float32)
    exact = training._step(new_reader(), training._optimizer(new_reader(), RECIPE), draw(sources, RECIPE, 2), encode,
                           RECIPE, 2)
    assert losses == pytest.approx(exact, rel=0.02)


# Photos and their tags.

TABLE = TagTable(("owl", "bird", "poodle"), ("class", "group", "head"), (1, 40, 1))


@pytest.fixture
def seen(tmp_path) -> training.Sight:
    """What `see` gives of a folder whose tags were computed by an earlier process."""
    folder, out = tmp_path / "photos", tmp_path / "run"
    folder.mkdir()
    out.mkdir()
    (folder / "index.csv").write_text("path,source,labels,boxes\na.jpg,zoo,owl,\nb.jpg,zoo,poodle,\n", encoding="utf-8")
    for name in ("a.jpg", "b.jpg"):
        (folder / name).write_bytes(name.encode())
    np.save(out / "tags.npy", np.array([[[0.9, 0.8, 0.0]], [[0.0, 0.0, 0.7]]], np.float16))
    torch.save({"table": vars(TABLE)}, out / "tagger.pt")
    known = tiny_world.concepts()
    return see(folder, out, known, tiny_world.heldout(known), RECIPE)


def test_tags_of_an_earlier_process_keep_the_names_that_they_were_computed_with(seen):
    assert seen.table == TABLE
    assert seen.table.select(seen.probabilities[0, 0].astype(np.float32)) == [
        ("owl", pytest.approx(0.9, abs=1e-3)), ("bird", pytest.approx(0.8, abs=1e-3))]


def test_scenes_of_words_hold_only_labels_that_the_eye_has_a_tag_for(seen):
    known = tiny_world.concepts()
    assert word_world(seen, known, tiny_world.heldout(known)).labels == ["poodle"]


def test_the_world_of_a_split_shows_the_photos_of_that_split():
    photos = [Photo(Path("x"), "zoo", frozenset({label}), (), place * 8 + "0" * 56)
              for label, place in (("owl", "0"), ("poodle", "f"), ("car", "e"))]
    sight = training.Sight(photos, TABLE, np.zeros((3, 2, 3), np.float16))
    known = tiny_world.concepts()
    shown = {split: [set(scene.shown.labels) for scene in
                     photo_world(sight, split, known, tiny_world.heldout(known)).scenes] for split in ("train", "test")}
    assert shown == {"train": [{"poodle"}, {"car"}], "test": [{"owl"}]}


def test_training_may_show_any_view_of_a_photo_and_a_test_shows_the_whole_photo():
    photo = Photo(Path("x"), "zoo", frozenset({"owl"}), (), "f" * 64)
    sight = training.Sight([photo], TABLE, np.array([[[0.9, 0, 0], [0.4, 0, 0]]], np.float16))
    known = tiny_world.concepts()
    views = {}
    for first_view in (True, False):
        scene = photo_world(sight, "train", known, tiny_world.heldout(known), first_view).scenes[0]
        views[first_view] = {round(scene.tags(random.Random(seed))[0][1], 1) for seed in range(20)}
    assert views == {True: {0.9}, False: {0.9, 0.4}}
