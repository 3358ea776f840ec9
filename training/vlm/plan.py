"""What a run will cost, before any weight is loaded: every photo decoded, every token counted, memory and steps.

Memory is an estimate by the formulas of `estimate_memory`, for one process that shards nothing. It leaves out the
vision tower's activations, the fragments of the allocator and the kernels' own buffers; leave a fifth of the card free.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from peft import get_peft_model
from transformers import PretrainedConfig, ProcessorMixin

from safeguard_sdk.image import PatchGeometry, decode_image
from training.datasets import LABELS
from training.errors import TrainingError
from training.vlm.chat import Example, named_by, refuse_special_tokens, turns
from training.vlm.model import freeze, geometry_of, lora_config, model_class, weight_type
from training.vlm.recipe import Grpo, Sft

GIB = 2**30
PERCENTILES = (0, 50, 95, 100)


@dataclass(frozen=True)
class Lengths:
    """Tokens of each example, (n,) int64."""

    photo: np.ndarray
    prompt: np.ndarray      # chat marks and text before the model's turn, the photo left out
    answer: np.ndarray      # the model's turn; 0 where stage 2 lets the model write it

    @property
    def total(self) -> np.ndarray:
        return self.photo + self.prompt + self.answer


@dataclass(frozen=True)
class Plan:
    photos: int
    labels: dict[str, int]
    lengths: Lengths
    processes: int
    accumulation: int         # batches of a process that make a step
    steps: int
    parameters: int
    trained: int
    memory: dict[str, float]  # GiB by purpose

    def __str__(self) -> str:
        rows = [f"rows        {len(self.lengths.total)} over {self.photos} photos"
                + "".join(f", {count} {label}" for label, count in self.labels.items() if label)]
        rows.append(f"tokens      {'least':>10}{'median':>10}{'95 %':>10}{'most':>10}")
        for name in ("photo", "prompt", "answer", "total"):
            values = getattr(self.lengths, name)
            if values.any():
                spread = np.percentile(values, PERCENTILES)
                rows.append(f"  {name:<10}" + "".join(f"{value:>10.0f}" for value in spread))
        rows.append(f"steps       {self.steps}, of {self.accumulation} batches in each of {self.processes} processes")
        rows.append(f"weights     {self.parameters:,}, of which {self.trained:,} are trained")
        rows.append("memory      estimated, GiB for a process that shards nothing")
        rows += [f"  {purpose:<22}{size:>10.2f}" for purpose, size in self.memory.items()]
        rows.append(f"  {'together':<22}{sum(self.memory.values()):>10.2f}")
        return "\n".join(rows)


def make_plan(examples: Sequence[Example], lengths: Lengths, learnt: int, stage: Sft | Grpo,
              config: PretrainedConfig) -> Plan:
    """`learnt` of the examples are trained on, the others measured.

    raises  TrainingError naming the row that is too long, or the key of the recipe that does not fit
    """
    processes = process_count()
    accumulation = accumulation_of(stage, processes)
    parameters, trained = count_weights(config, stage)
    longest = int(lengths.total.max())
    if isinstance(stage, Sft):
        if longest > stage.max_length:
            raise TrainingError(f"{examples[int(lengths.total.argmax())].source}: has {longest} tokens, sft.max_length "
                                f"is {stage.max_length}; raise it, or lower max_pixels: cutting would cut the photo")
        steps = -(-learnt // stage.rows_per_step) * stage.epochs
    else:
        steps = learnt // stage.prompts_per_step * stage.epochs
        longest += stage.max_completion
    if steps == 0:
        raise TrainingError(f"{learnt} rows to learn from make no step of the recipe; add rows, or lower "
                            + ("sft.validation" if isinstance(stage, Sft) else "grpo.prompts_per_step"))
    labels = {label: sum(example.label == label for example in examples) for label in LABELS}
    return Plan(
        photos=len({example.image_sha256 for example in examples}), labels=labels if any(labels.values()) else {},
        lengths=lengths, processes=processes, accumulation=accumulation, steps=steps, parameters=parameters,
        trained=trained, memory=estimate_memory(config, stage, parameters, trained, longest, accumulation))


def measure(examples: Sequence[Example], processor: ProcessorMixin) -> Lengths:
    """Decode every photo and count every token. Raises TrainingError naming the first photo that cannot be decoded, or
    text that holds a mark of the model."""
    refuse_special_tokens(examples, processor.tokenizer)
    geometry = geometry_of(processor)
    sources = {example.image_sha256: (example.image, example.source) for example in examples}
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        counted = pool.map(lambda item: (item[0], _photo_tokens(*item[1], geometry)), sources.items())
        of_photo = dict(counted)
    of_text: dict[str, int] = {}

    def tokens(text: str) -> int:
        if text not in of_text:
            of_text[text] = len(processor.tokenizer(text, add_special_tokens=False)["input_ids"])
        return of_text[text]

    def prompt(example: Example) -> int:
        return tokens(processor.apply_chat_template(turns(example), tokenize=False, add_generation_prompt=True)) - 1

    return Lengths(
        photo=np.array([of_photo[example.image_sha256] for example in examples]),
        prompt=np.array([prompt(example) for example in examples]),
        answer=np.array([tokens(example.answer) + 2 if example.answer else 0 for example in examples]))  # end of turn


def process_count() -> int:
    """Processes that train together, as `accelerate launch` and torchrun tell each of them."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def accumulation_of(stage: Sft | Grpo, processes: int) -> int:
    """Batches that a process computes for one step. Raises TrainingError if a step cannot be divided so."""
    if isinstance(stage, Sft):
        whole, what = stage.rows_per_step, f"sft.rows_per_step is {stage.rows_per_step}"
    else:
        whole = stage.prompts_per_step * stage.group
        what = f"grpo.prompts_per_step × grpo.group is {whole}"
    if whole % (stage.batch * processes):
        raise TrainingError(f"{what}, which is no multiple of batch × processes, {stage.batch} × {processes}; change "
                            "batch, or start another number of processes")
    return whole // (stage.batch * processes)


def count_weights(config: PretrainedConfig, stage: Sft | Grpo) -> tuple[int, int]:
    """(all weights, trained weights) of the model with its adapters; nothing is allocated."""
    with torch.device("meta"):
        model = model_class(config).from_config(config)
    parameters = sum(parameter.numel() for parameter in model.parameters())
    freeze(model)
    if stage.lora is not None:
        model = get_peft_model(model, lora_config(stage.lora), low_cpu_mem_usage=True)
    return parameters, sum(weight.numel() for weight in model.parameters() if weight.requires_grad)


def estimate_memory(config: PretrainedConfig, stage: Sft | Grpo, parameters: int, trained: int, tokens: int,
                    accumulation: int) -> dict[str, float]:
    """GiB by purpose, of one process that shards nothing.

    tokens        of the longest row
    accumulation  batches of a step; stage 2 writes the rollouts of all of them at once
    Weights have 2 bytes under adapters in bf16 and 4 otherwise; gradients 4; AdamW's two moments 8. Activations have 2
    bytes in bf16 and 4 otherwise: recomputed, one state for each layer and one layer whole (its states, heads and MLP,
    some 12 × width + 3 × MLP for each token); otherwise all layers whole. Attention itself is computed in tiles.
    """
    text = config.get_text_config()
    width, layers = text.hidden_size, text.num_hidden_layers
    head = getattr(text, "head_dim", None) or width // text.num_attention_heads
    number = 2 if stage.precision == "bf16" else 4
    weight = weight_type(stage.lora, stage.precision).itemsize
    layer = (12 * width + 3 * text.intermediate_size) * number
    states = layers * width * number + layer if stage.recompute else layers * layer
    adapters = 4 * trained if stage.lora is not None else 0
    memory = {
        "weights": weight * parameters + adapters, "gradients": 4 * trained, "optimizer": 8 * trained,
        "activations": stage.batch * tokens * states,
    }
    if isinstance(stage, Grpo):
        if stage.kl and stage.lora is None:
            memory["reference model"] = weight * parameters
        cache = 2 * layers * text.num_key_value_heads * head * number
        memory["cache of rollouts"] = stage.batch * accumulation * tokens * cache
    return {purpose: size / GIB for purpose, size in memory.items()}


def _photo_tokens(path: Path, source: str, geometry: PatchGeometry) -> int:
    with named_by(source):
        height, width, _ = decode_image(path, target=geometry.size_of).shape
        _, rows, columns = geometry.grid_of(height, width)
    return rows * columns // geometry.merge**2
