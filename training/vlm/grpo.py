"""Stage 2: verdicts under policies, learnt from rewards that anybody can check (GRPO, arXiv:2402.03300).

A group of rollouts answers one question about one photo under one policy; each is worth its reward against the mean of
its group, and the divergence from the model that the stage started with costs. Rows are balanced: as many safe ones as
unsafe ones, photos with both kept on both sides.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from trl import GRPOConfig, GRPOTrainer

from safeguard_sdk.prompt import PROMPTS
from training.datasets import balanced, read_rows
from training.errors import TrainingError
from training.rewards import REWARDS
from training.vlm.chat import Example, examples_sha256, question_example, to_dataset
from training.vlm.model import geometry_of, load_config, load_model, load_processor, lora_config
from training.vlm.plan import Plan, make_plan, measure
from training.vlm.recipe import Grpo, Recipe
from training.vlm.run import GoesOn, callbacks, print_once, train_to_model, trainer_arguments


class Stage2(GoesOn, GRPOTrainer):
    pass


def run(recipe_file: Path, out: Path, data: Sequence[tuple[str, Path]], dry_run: bool) -> None:
    """The command `grpo`. `data` replaces the recipe's, which is read from data/NAME; none leaves it."""
    recipe = Recipe.read(recipe_file)
    stage = recipe.grpo
    if stage is None:
        raise TrainingError(f"{recipe_file}: has no stage 2 (grpo is null); its one stage is python -m training sft")
    start = recipe.model
    if recipe.sft is not None:
        start = str(out / "sft" / "model")
        if not Path(start).is_dir():
            raise TrainingError(f"{start}: no such folder; this recipe has a stage 1, run it first: python -m training "
                                f"sft {recipe_file} --out {out}")
    examples = questions(data or [(name, Path("data") / name) for name in stage.data], recipe.prompt, stage.seed)
    print_once(plan(recipe, stage, examples, start))
    if not dry_run:
        print_once(f"stage 2: {train(recipe, stage, examples, start, out / 'grpo')}")


def questions(data: Sequence[tuple[str, Path]], prompt: str, seed: int) -> list[Example]:
    rows = balanced(read_rows(data, "train"), seed)
    return [question_example(row, PROMPTS[prompt], answered=False) for row in rows]


def plan(recipe: Recipe, stage: Grpo, examples: Sequence[Example], start: str) -> Plan:
    processor = load_processor(start, recipe.max_pixels)
    return make_plan(examples, measure(examples, processor), len(examples), stage, load_config(start))


def train(recipe: Recipe, stage: Grpo, examples: Sequence[Example], start: str, out: Path) -> Path:
    """Train the model `start`, from the last checkpoint in `out` or from the beginning. Returns the whole model."""
    return train_to_model(out, recipe, stage, examples_sha256(examples), start,
                          lambda: make_trainer(recipe, stage, examples, start, out))


def make_trainer(recipe: Recipe, stage: Grpo, examples: Sequence[Example], start: str, out: Path) -> Stage2:
    processor = load_processor(start, recipe.max_pixels)
    # A step's rollouts are written by the model that learns from them: TRL's steps_per_generation is accumulation.
    arguments = GRPOConfig(
        **trainer_arguments(out, stage), num_generations=stage.group, temperature=stage.temperature, beta=stage.kl,
        loss_type=stage.loss, max_completion_length=stage.max_completion,
        mask_truncated_completions=stage.skip_truncated, reward_weights=list(stage.rewards.values()))
    return Stage2(
        model=load_model(start, stage.lora, stage.precision), args=arguments, processing_class=processor,
        reward_funcs=[REWARDS[name] for name in stage.rewards],
        train_dataset=to_dataset(examples, geometry_of(processor)), peft_config=lora_config(stage.lora),
        callbacks=callbacks(out))
