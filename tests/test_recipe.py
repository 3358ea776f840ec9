"""Recipes: those that ship are whole, and whatever is wrong in one is a line that names the key."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml
from accelerate.commands.config.config_args import load_config_from_file

from training.errors import TrainingError
from training.rewards import ASKS
from training.vlm.recipe import Lora, Recipe

RECIPES = Path(__file__).parents[1] / "training" / "recipes"
SHIPPED = ("7b-sft", "7b-rl", "7b-full", "7b-rl-safeedit", "3b", "qwen3-vl-2b", "nano-sft")


@pytest.fixture(scope="module")
def text() -> str:
    return (RECIPES / "7b-full.yaml").read_text(encoding="utf-8")


@pytest.fixture
def changed(tmp_path, text):
    """changed(old, new): the error that 7b-full.yaml gives with `old` replaced."""
    def read(old: str, new: str) -> str:
        assert old in text
        path = tmp_path / "mine.yaml"
        path.write_text(text.replace(old, new, 1), encoding="utf-8")
        with pytest.raises(TrainingError) as error:
            Recipe.read(path)
        assert "\n" not in str(error.value) and str(error.value).startswith(f"{path}: ")
        return str(error.value).removeprefix(f"{path}: ")
    return read


@pytest.mark.parametrize("name", SHIPPED)
def test_recipes_that_ship_are_whole_and_say_of_each_value_where_it_comes_from(name):
    file = RECIPES / f"{name}.yaml"
    recipe = Recipe.read(file)
    assert recipe.sft or recipe.grpo
    values = [line for line in file.read_text(encoding="utf-8").splitlines()
              if ": " in line and not line.startswith("#") and not line.endswith(": null")]
    assert len(values) > 15 and all("[ours]" in line or "[sft]" in line or "[grpo]" in line for line in values)


def test_every_recipe_for_these_models_in_the_folder_is_tested_here():
    recipes = {file.stem: yaml.safe_load(file.read_text(encoding="utf-8")) for file in RECIPES.glob("*.yaml")}
    assert {name for name, recipe in recipes.items() if "model" in recipe} == set(SHIPPED)


def test_the_papers_variants_have_the_stages_data_and_rewards_of_their_names():
    sft, rl, full, safeedit = (Recipe.read(RECIPES / f"{name}.yaml") for name in SHIPPED[:4])
    assert (sft.sft is None, sft.grpo is None) == (False, True)
    assert (rl.sft is None, rl.grpo is None) == (True, False)
    assert full.sft == sft.sft and full.grpo == rl.grpo
    assert safeedit.grpo.data == ("llavaguard", "safeedittrain") and rl.grpo.data == ("llavaguard",)
    assert rl.grpo.rewards == safeedit.grpo.rewards == {"official": 1.0, "official_format": 1.0}


def test_the_values_of_the_official_scripts_are_in_the_papers_recipes():
    full = Recipe.read(RECIPES / "7b-full.yaml")
    sft, grpo = full.sft, full.grpo
    assert (sft.lora, sft.learning_rate, sft.warmup, sft.weight_decay, sft.epochs, sft.max_length) == (
        Lora(64, 128, 0.05), 1e-4, 0.05, 1e-3, 1, 20480)
    assert sft.rows_per_step == 1 * 8 * 8  # batch × accumulation × cards
    assert (grpo.lora, grpo.learning_rate, grpo.warmup, grpo.kl, grpo.group, grpo.temperature, grpo.max_completion) == (
        None, 1e-6, 0.01, 0.01, 8, 1.0, 512)
    assert grpo.prompts_per_step * grpo.group == 1 * 2 * 8


@pytest.mark.parametrize("old, new, message", [
    ("learning_rate:", "learning_rat:", "there is no key sft.learning_rat; did you mean learning_rate?"),
    ("max_pixels:", "colour: blue\nmax_pixels:", "there is no key colour; there are model, max_pixels, prompt"),
    ("  epochs: 1 ", "  # epochs: 1 ", "the key sft.epochs is missing; look into training/recipes"),
    ("1.0e-4", "1e-4", "sft.learning_rate is '1e-4', must be a number (in YAML 1e-4 is a text, 1.0e-4 a number)"),
    ("1.0e-4", "0.0", "sft.learning_rate is 0.0, must be above 0"),
    ("1.0e-4", ".nan", "sft.learning_rate is nan, must be a number"),
    ("rows_per_step: 64", "rows_per_step: 6.4", "sft.rows_per_step is 6.4, must be a whole number"),
    ("recompute: true", "recompute: 1", "sft.recompute is 1, must be true or false"),
    ("schedule: cosine", "schedule: cosin", "sft.schedule is 'cosin', must be one of cosine, linear"),
    ("{rank: 64, alpha: 128, dropout: 0.05}", "64", "sft.lora is 64, must be a mapping with the keys rank, alpha, dr"),
    ("rank: 64", "rank: 0", "sft.lora.rank is 0, must be at least 1"),
    ("validation: 0.01", "validation: 0.9", "sft.validation is 0.9, must be at least 0 and at most 0.5"),
    ("prompt: reasoning", "prompt: chatty", "prompt: there is no 'chatty'; there are direct, safeguard-vl"),
    ("prompt: reasoning", "prompt: direct", "grpo.rewards: official reads answers to the prompt reasoning, but prompt"),
    ("[llavaguard]", "[llavagard]", "grpo.data: there is no 'llavagard'; there are llavaguard, unsafebench"),
    ("[llavaguard]", "llavaguard", "grpo.data is 'llavaguard', must be a list of names"),
    ("[llavaguard]", "[]", "grpo.data is empty; name at least one"),
    ("{official: 1.0, official_format: 1.0}", "{}", "grpo.rewards is empty"),
    ("{official: 1.0, official_format: 1.0}", "{offical: 1.0}", "grpo.rewards: there is no 'offical'; there are off"),
    ("{official: 1.0, official_format: 1.0}", "[official]", "grpo.rewards is ['official'], must be a mapping of names"),
    ("group: 8", "group: 1", "grpo.group is 1, must be at least 2"),
    ("temperature: 1.0", "temperature: 0.0", "grpo.temperature is 0.0, must be above 0; equal rollouts teach nothing"),
    ("kl: 0.01", "kl: -0.01", "grpo.kl is -0.01, must be at least 0"),
    ("model: Qwen/Qwen2.5-VL-7B-Instruct", "model: [", "cannot be read as YAML"),
    ("seed: 0", "seed: -1", "sft.seed is -1, must be at least 0 and at most 4294967295"),
    ("seed: 0", "seed: 4294967296", "sft.seed is 4294967296, must be at least 0 and at most 4294967295"),
    ("{official: 1.0,", "{official: .nan,", "grpo.rewards is {'official': nan, 'official_format': 1.0}, must be a m"),
    ("{official: 1.0,", "{official: true,", "grpo.rewards is {'official': True, 'official_format': 1.0}, must be a m"),
    ("  epochs: 1 ", "  seed: 7\n  epochs: 1 ", "cannot be read as YAML (the key seed is given twice; delete one"),
    ("max_pixels:", "model: other\nmax_pixels:", "cannot be read as YAML (the key model is given twice; delete one"),
])
def test_a_mistake_is_one_line_that_names_the_key(changed, old, new, message):
    assert changed(old, new).startswith(message)


def test_a_recipe_has_a_stage(tmp_path, text):
    document = yaml.safe_load(text) | {"sft": None, "grpo": None}
    path = tmp_path / "none.yaml"
    path.write_text(yaml.safe_dump(document), encoding="utf-8")
    with pytest.raises(TrainingError, match="sft and grpo are both null; give it one stage or two"):
        Recipe.read(path)


@pytest.mark.parametrize("content", ["", "- a\n- b", "just words"])
def test_what_is_no_mapping_is_no_recipe(tmp_path, content):
    path = tmp_path / "recipe.yaml"
    path.write_text(content, encoding="utf-8")
    with pytest.raises(TrainingError, match=r"the recipe is .*, must be a mapping with the keys model, max_pixels"):
        Recipe.read(path)


def test_every_reward_is_asked_for_by_a_prompt_that_a_recipe_may_name(tmp_path, text):
    for reward, prompt in ASKS.items():
        document = yaml.safe_load(text)
        document["prompt"], document["grpo"]["rewards"] = prompt, {reward: 1.0}
        path = tmp_path / "recipe.yaml"
        path.write_text(yaml.safe_dump(document), encoding="utf-8")
        assert Recipe.read(path).grpo.rewards == {reward: 1.0}


@pytest.mark.parametrize("name, kind", [("zero3", "DEEPSPEED"), ("fsdp2", "FSDP"), ("ddp", "MULTI_GPU")])
def test_accelerate_reads_the_files_for_several_cards(name, kind):
    config = load_config_from_file(str(RECIPES / "accelerate" / f"{name}.yaml"))
    assert config.distributed_type == kind and config.num_processes == 8 and config.mixed_precision == "bf16"
