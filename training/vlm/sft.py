"""Stage 1: captions, and no verdict (arXiv:2603.01228). With `classify`, the ablation that the paper compares with:
verdicts under one policy, which collapses on every other one.

The loss is taken on the model's turn alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from trl import SFTConfig, SFTTrainer

from safeguard_sdk.prompt import PROMPTS
from training.datasets import read_rows
from training.datasets.captions import read_captions
from training.errors import TrainingError
from training.vlm.chat import Example, caption_example, examples_sha256, question_example, to_dataset
from training.vlm.model import geometry_of, load_config, load_model, load_processor, lora_config
from training.vlm.plan import Plan, make_plan, measure
from training.vlm.recipe import Recipe, Sft
from training.vlm.run import GoesOn, callbacks, print_once, train_to_model, trainer_arguments

NANO = "nano"  # `model` of a recipe: the language model of nano, which sees a photo as the names that its eye gives


class Stage1(GoesOn, SFTTrainer):
    pass


def run(recipe_file: Path, out: Path, captions: Path | None, photos: Path | None, classify: bool,
        data: Sequence[tuple[str, Path]], policy: str | None, dry_run: bool) -> None:
    """The command `sft`: captions, or with `classify` the verdicts of `data` under `policy`."""
    recipe = Recipe.read(recipe_file)
    if recipe.sft is None:
        raise TrainingError(f"{recipe_file}: has no stage 1 (sft is null); go on with python -m training grpo")
    if classify and captions is not None:
        raise TrainingError("--classify trains on verdicts; leave --captions out")
    if not classify and (captions is None or data or policy is not None):
        raise TrainingError("stage 1 needs --captions" if captions is None else
                            "--data and --policy belong to --classify; stage 1 trains on captions alone")
    if recipe.model == NANO:
        if classify:
            raise TrainingError("--classify is for Qwen-VL; what it shows, python -m training levels shows with nano")
        from training.nano import captions as nano
        nano.run(recipe, out, captions, photos, dry_run)
        return
    examples = classified(data, policy, recipe.prompt) if classify else captioned(captions, photos)
    print_once(plan(recipe, recipe.sft, examples))
    if not dry_run:
        print_once(f"stage 1: {train(recipe, recipe.sft, examples, out / 'sft')}")


def captioned(captions: Path, photos: Path | None) -> list[Example]:
    return [caption_example(caption) for caption in read_captions(captions, photos)]


def classified(data: Sequence[tuple[str, Path]], policy: str | None, prompt: str) -> list[Example]:
    """Verdicts under one policy, by its name in the data. Raises TrainingError listing the names if it is not clear."""
    if not data:
        raise TrainingError("--classify needs data with verdicts: --data NAME=FOLDER")
    rows = read_rows(data, "train")
    names = sorted({row.policy_name for row in rows})
    if policy is None and len(names) == 1:
        policy = names[0]
    if policy not in names:
        problem = "the data have several policies" if policy is None else f"the data have no policy {policy!r}"
        raise TrainingError(f"{problem}; choose one of {', '.join(names[:20])} with --policy")
    return [question_example(row, PROMPTS[prompt], answered=True) for row in rows if row.policy_name == policy]


def plan(recipe: Recipe, stage: Sft, examples: Sequence[Example]) -> Plan:
    processor = load_processor(recipe.model, recipe.max_pixels)
    learnt, _ = held_out(examples, stage.validation)
    return make_plan(examples, measure(examples, processor), len(learnt), stage, load_config(recipe.model))


def train(recipe: Recipe, stage: Sft, examples: Sequence[Example], out: Path) -> Path:
    """Train from the last checkpoint in `out`, or from the start. Returns the folder of the whole model."""
    return train_to_model(out, recipe, stage, examples_sha256(examples), recipe.model,
                          lambda: make_trainer(recipe, stage, examples, out))


def make_trainer(recipe: Recipe, stage: Sft, examples: Sequence[Example], out: Path) -> Stage1:
    learnt, measured = held_out(examples, stage.validation)
    processor = load_processor(recipe.model, recipe.max_pixels)
    geometry = geometry_of(processor)
    arguments = stage1_arguments(out, stage, bool(measured))  # before the model: DeepSpeed decides how that is loaded
    return Stage1(
        model=load_model(recipe.model, stage.lora, stage.precision), args=arguments, processing_class=processor,
        train_dataset=to_dataset(learnt, geometry), eval_dataset=to_dataset(measured, geometry) if measured else None,
        peft_config=lora_config(stage.lora), callbacks=callbacks(out))


def stage1_arguments(out: Path, stage: Sft, measured: bool) -> SFTConfig:
    """measured: whether there are rows to measure on."""
    return SFTConfig(**trainer_arguments(out, stage), max_length=None, completion_only_loss=True,
                     eval_strategy="steps" if measured else "no", eval_steps=stage.save_every)


def held_out(examples: Sequence[Example], share: float) -> tuple[list[Example], list[Example]]:
    """(learnt from, measured): by the hash of the photo, so that no photo is on both sides."""
    sides: tuple[list[Example], list[Example]] = ([], [])
    for example in examples:
        sides[int(example.image_sha256[-8:], 16) / 2**32 < share].append(example)
    return sides
