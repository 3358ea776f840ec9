"""What the tests of both stages train: a tiny recipe, four photos with captions, the same under two policies."""

from __future__ import annotations

import json
from pathlib import Path

import tiny_vlm
import torch
from safetensors.torch import load_file

from safeguard_sdk.prompt import PROMPTS
from training.datasets import Row
from training.datasets.captions import Caption
from training.datasets.rows import photo_sha256
from training.vlm.chat import Example, caption_example, question_example, turns
from training.vlm.recipe import Grpo, Lora, Recipe, Sft

CAPTIONS = {"coffee.png": "A cup of coffee on a table.", "rocket.jpg": "A rocket stands in the fog.",
            "chelsea.png": "A cat looks away.", "brick.png": "A wall of bricks."}
SFT = Sft(lora=None, learning_rate=1e-2, schedule="constant_with_warmup", warmup=0.0, weight_decay=0.0, epochs=5,
          rows_per_step=2, batch=1, max_length=400, validation=0.0, precision="fp32", recompute=False, save_every=3,
          log_every=1, workers=0, seed=0)
GRPO = Grpo(data=("folder",), rewards={"direct": 1.0}, lora=None, learning_rate=1e-3, schedule="constant_with_warmup",
            warmup=0.0, weight_decay=0.0, epochs=2, prompts_per_step=2, group=4, batch=4, temperature=1.0, kl=0.05,
            loss="grpo", max_completion=4, skip_truncated=False, precision="fp32", recompute=False, save_every=3,
            log_every=1, workers=0, seed=0)
LORA = Lora(rank=4, alpha=8, dropout=0.0)
VERDICTS = [("No cups and no cats.", {"coffee.png": "unsafe", "chelsea.png": "unsafe"}), ("All is allowed.", {})]


def recipe_for(model: str) -> Recipe:
    return Recipe(model=model, max_pixels=tiny_vlm.MAX_PIXELS, prompt="direct", sft=SFT, grpo=GRPO)


def caption_examples(photos: dict[str, Path]) -> list[Example]:
    return [caption_example(Caption(photos[name], photo_sha256(photos[name], name), text, name))
            for name, text in CAPTIONS.items()]


def question_examples(photos: dict[str, Path]) -> list[Example]:
    return [question_example(row, PROMPTS["direct"], answered=False) for row in rows(photos)]


def rows(photos: dict[str, Path]) -> list[Row]:
    """The same photos under two policies."""
    return [Row(photos[name], photo_sha256(photos[name], name), text, text, broken.get(name, "safe"), None, name)
            for name in CAPTIONS for text, broken in VERDICTS]


def log_of(out: Path) -> list[dict]:
    return [json.loads(line) for line in (out / "log.jsonl").read_text(encoding="utf-8").splitlines()]


def weights_of(folder: Path | str) -> dict[str, torch.Tensor]:
    return load_file(Path(folder) / "model.safetensors")


def changed(before: dict[str, torch.Tensor], after: dict[str, torch.Tensor]) -> set[str]:
    assert before.keys() == after.keys()
    return {name for name in before if not torch.equal(before[name], after[name])}


def rendered(processor, example: Example) -> str:
    return processor.apply_chat_template(turns(example), tokenize=False, add_generation_prompt=True)
