"""A recipe in YAML: which model, and how each stage trains it. Strict: every key must be there, no other may.

    Recipe.read(Path("training/recipes/7b-full.yaml")).grpo.learning_rate
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from safeguard_sdk.prompt import PROMPTS
from training.datasets import DATASETS
from training.recipe_file import read_recipe, within
from training.rewards import ASKS, REWARDS

Precision = Literal["bf16", "fp32"]
MAX_SEED = 2**32 - 1  # of numpy
Schedule = Literal["cosine", "linear", "constant_with_warmup"]


@dataclass(frozen=True, slots=True)
class Lora:
    rank: int       # >= 1
    alpha: int      # >= 1; an adapter counts alpha / rank
    dropout: float  # in [0, 1)


@dataclass(frozen=True, slots=True)
class Sft:
    """Stage 1. Steps are steps of the optimizer, over all processes together."""

    lora: Lora | None         # None trains all weights of the language model
    learning_rate: float
    schedule: Schedule        # from the peak on, after the warm-up
    warmup: float             # share of the steps
    weight_decay: float
    epochs: int
    rows_per_step: int
    batch: int                # rows that one process computes at once; memory, not learning
    max_length: int           # tokens of a row, its photo and caption included; a longer row is an error, never cut
    validation: float         # share of the photos, by their hash, whose loss is measured and not learnt from
    precision: Precision
    recompute: bool           # activations in the backward pass: less memory, some 20 % more time
    save_every: int           # steps
    log_every: int            # steps
    workers: int              # processes that decode photos, for each process that trains
    seed: int


@dataclass(frozen=True, slots=True)
class Grpo:
    """Stage 2."""

    data: tuple[str, ...]     # names in DATASETS
    rewards: dict[str, float]  # names in REWARDS and their weights; the rewards of a rollout are added up
    lora: Lora | None
    learning_rate: float
    schedule: Schedule
    warmup: float
    weight_decay: float
    epochs: int
    prompts_per_step: int
    group: int                # rollouts of each prompt; their mean reward is the baseline, their deviation the scale
    batch: int                # rollouts that one process learns from at once
    temperature: float        # of the rollouts
    kl: float                 # weight of the divergence from the model that the stage starts with; 0: no reference
    loss: Literal["grpo", "dapo", "dr_grpo", "bnpo"]  # how tokens are averaged (TRL's loss_type)
    max_completion: int       # tokens of a rollout; a longer one is cut off, and no verdict
    skip_truncated: bool      # what was cut off is not learnt from
    precision: Precision
    recompute: bool
    save_every: int
    log_every: int
    workers: int
    seed: int


@dataclass(frozen=True, slots=True)
class Recipe:
    model: str                # a folder, or a name on the Hugging Face hub
    max_pixels: int           # a larger photo is shrunk to this; it is written into the trained model's processor
    prompt: str               # name in PROMPTS: how stage 2 asks, and how the model is to be asked ever after
    sft: Sft | None           # None: stage 2 starts from the model itself
    grpo: Grpo | None

    @classmethod
    def read(cls, path: Path) -> Recipe:
        """Raises TrainingError: the file, the key, what is wrong, how to mend it."""
        return read_recipe(cls, path)

    def check(self) -> None:
        """Raises ValueError for values that have no meaning, alone or together."""
        _known("prompt", self.prompt, PROMPTS)
        within("max_pixels", self.max_pixels, 28 * 28)
        if self.sft is None and self.grpo is None:
            raise ValueError("sft and grpo are both null; give it one stage or two")
        for name, stage in (("sft", self.sft), ("grpo", self.grpo)):
            if stage is not None:
                _check_stage(name, stage)
        if self.sft is not None:
            within("sft.rows_per_step", self.sft.rows_per_step, 1)
            within("sft.max_length", self.sft.max_length, 1)
            within("sft.validation", self.sft.validation, 0, 0.5)
        if self.grpo is not None:
            self._check_grpo(self.grpo)

    def _check_grpo(self, grpo: Grpo) -> None:
        for name in grpo.data:
            _known("grpo.data", name, DATASETS)
        if not grpo.data or not grpo.rewards:
            raise ValueError(f"grpo.{'rewards' if grpo.data else 'data'} is empty; name at least one")
        for name in grpo.rewards:
            _known("grpo.rewards", name, REWARDS)
            if ASKS[name] != self.prompt:
                raise ValueError(f"grpo.rewards: {name} reads answers to the prompt {ASKS[name]}, but prompt is "
                                 f"{self.prompt}; change one of them")
        for key in ("prompts_per_step", "max_completion"):
            within(f"grpo.{key}", getattr(grpo, key), 1)
        within("grpo.group", grpo.group, 2)
        within("grpo.kl", grpo.kl, 0)
        if grpo.temperature <= 0:
            raise ValueError(f"grpo.temperature is {grpo.temperature}, must be above 0; equal rollouts teach nothing")


def _check_stage(name: str, stage: Sft | Grpo) -> None:
    for key, least, most in (("batch", 1, None), ("epochs", 1, None), ("save_every", 1, None), ("log_every", 1, None),
                             ("workers", 0, None), ("warmup", 0, 1), ("weight_decay", 0, None),
                             ("seed", 0, MAX_SEED)):
        within(f"{name}.{key}", getattr(stage, key), least, most)
    if not stage.learning_rate > 0:
        raise ValueError(f"{name}.learning_rate is {stage.learning_rate}, must be above 0")
    if stage.lora is not None:
        within(f"{name}.lora.rank", stage.lora.rank, 1)
        within(f"{name}.lora.alpha", stage.lora.alpha, 1)
        within(f"{name}.lora.dropout", stage.lora.dropout, 0, 0.9)


def _known(key: str, name: str, names: dict) -> None:
    if name not in names:
        raise ValueError(f"{key}: there is no '{name}'; there are {', '.join(names)}")
