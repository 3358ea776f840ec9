"""Stage 1 for nano: SmolLM2 learns to write the captions of photos from what nano's eye names; no verdict.

    python -m training sft training/recipes/nano-sft.yaml --captions … --photos … --out runs/nano-sft
    python -m training nano PHOTOS --start runs/nano-sft/sft/model --out runs/nano

Tags stand in the prompt as the reader reads them, as plain text, without their probabilities, for which stage 1 has no
embeddings yet. The whole model writes; the reader then begins with its first layers, as without a stage 1 it does with
those of SmolLM2.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from accelerate import PartialState
from datasets import Dataset
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, PretrainedConfig, PreTrainedTokenizerBase

from safeguard_sdk import Bundle
from safeguard_sdk.engine import open_engine
from safeguard_sdk.engine.tags import read_tags
from safeguard_sdk.image import decode_image, to_model_input
from training.assets import fetch_smollm2
from training.datasets.captions import Caption, read_captions
from training.errors import TrainingError
from training.nano.reader import STYLE, stored_in
from training.vlm.chat import Example, examples_sha256, named_by, refuse_special_tokens
from training.vlm.model import freeze, lora_config, weight_type
from training.vlm.plan import Lengths, Plan, make_plan
from training.vlm.recipe import Recipe, Sft
from training.vlm.run import callbacks, print_once, train_to_model
from training.vlm.sft import Stage1, held_out, stage1_arguments

AFTER_TAGS = "\nCaption:"  # in place of the suffix that asks for a verdict
TOGETHER = 8               # photos that the eye sees at once


def run(recipe: Recipe, out: Path, captions: Path, photos: Path | None, dry_run: bool) -> None:
    """The command `sft` for a recipe whose model is nano."""
    eye = Bundle.embedded()
    if (recipe.prompt, recipe.max_pixels) != (STYLE.name, eye.geometry.side**2):
        raise TrainingError(f"nano is asked by the prompt {STYLE.name} and sees {eye.geometry.side**2} pixels; set "
                            f"prompt and max_pixels of the recipe to these, not to {recipe.prompt} and "
                            f"{recipe.max_pixels}")
    if recipe.grpo is not None:
        raise TrainingError("grpo of nano's recipe must be null: after stage 1 go on with python -m training nano "
                            f"PHOTOS --start {out / 'sft' / 'model'}")
    base = fetch_smollm2(out.parent / "assets")
    tokenizer, config = open_base(base)
    examples = captioned(read_captions(captions, photos), eye, tokenizer)
    print_once(plan(recipe.sft, examples, tokenizer, config))
    if not dry_run:
        print_once(f"stage 1: {train(recipe, recipe.sft, examples, base, out / 'sft')}")


def open_base(base: Path) -> tuple[PreTrainedTokenizerBase, PretrainedConfig]:
    """Tokenizer and configuration of SmolLM2; no weights."""
    return AutoTokenizer.from_pretrained(**stored_in(base)), AutoConfig.from_pretrained(**stored_in(base))


def captioned(captions: Sequence[Caption], eye: Bundle, tokenizer: PreTrainedTokenizerBase) -> list[Example]:
    """Captions after the tags of their photos. Raises TrainingError naming a photo that cannot be decoded."""
    engine = open_engine(eye)
    examples = []
    for start in range(0, len(captions), TOGETHER):
        some = captions[start:start + TOGETHER]
        for caption, seen in zip(some, engine.encode([_pixels(caption, eye) for caption in some]), strict=True):
            tags = read_tags(seen.seen, lambda text: tokenizer.encode(text, add_special_tokens=False))
            named = "".join(f" {name}," for name, *_ in tags)
            examples.append(Example(caption.image, caption.image_sha256, None, f"{STYLE.after_policy.lstrip()}{named}",
                                    AFTER_TAGS, caption.text, "", caption.source))
    return examples


def plan(stage: Sft, examples: Sequence[Example], tokenizer: PreTrainedTokenizerBase, config: PretrainedConfig) -> Plan:
    """What the run will cost. Raises TrainingError naming the row that cannot be used."""
    refuse_special_tokens(examples, tokenizer)
    tags, after, answers = (np.array([len(tokenizer.encode(text, add_special_tokens=False)) for text in texts])
                            for texts in zip(*((one.before, one.after, f" {one.answer}") for one in examples),
                                             strict=True))
    learnt, _ = held_out(examples, stage.validation)
    return make_plan(examples, Lengths(tags, after, answers + 1), len(learnt), stage, config)  # and the end of the text


def train(recipe: Recipe, stage: Sft, examples: Sequence[Example], base: Path, out: Path) -> Path:
    """Train from the last checkpoint in `out`, or from SmolLM2. Returns the folder of the whole model."""
    start = out.with_name("base")

    def make() -> Stage1:
        with PartialState().main_process_first():  # the others find it written
            if not start.is_dir():
                _write_base(base, start)
        return make_trainer(stage, examples, start, out)

    return train_to_model(out, recipe, stage, examples_sha256(examples), str(start), make)


def make_trainer(stage: Sft, examples: Sequence[Example], start: Path, out: Path) -> Stage1:
    learnt, measured = held_out(examples, stage.validation)
    model = AutoModelForCausalLM.from_pretrained(start, dtype=weight_type(stage.lora, stage.precision))
    freeze(model)
    return Stage1(
        model=model, args=stage1_arguments(out, stage, bool(measured)),
        processing_class=AutoTokenizer.from_pretrained(start), train_dataset=_dataset(learnt),
        eval_dataset=_dataset(measured) if measured else None, peft_config=lora_config(stage.lora),
        callbacks=callbacks(out))


def _pixels(caption: Caption, eye: Bundle) -> np.ndarray:
    with named_by(caption.source):
        return to_model_input(decode_image(caption.image, target=eye.geometry.size_of), eye.geometry)


def _dataset(examples: Sequence[Example]) -> Dataset:
    """Text, to which TRL adds the end."""
    return Dataset.from_dict({"prompt": [example.before + example.after for example in examples],
                              "completion": [f" {example.answer}" for example in examples]})


def _write_base(base: Path, folder: Path) -> None:
    """SmolLM2 as a folder of transformers."""
    tokenizer, config = open_base(base)
    model = AutoModelForCausalLM.from_config(config)  # what comes out of a GGUF cannot be saved itself
    model.load_state_dict(AutoModelForCausalLM.from_pretrained(**stored_in(base), dtype=torch.float32).state_dict())
    part = folder.with_name(f"{folder.name}.partial")
    model.save_pretrained(part)
    tokenizer.save_pretrained(part)
    part.rename(folder)
