"""A recipe in YAML: which model, and how each stage trains it. Strict: every key must be there, no other may.

    Recipe.read(Path("training/recipes/7b-full.yaml")).grpo.learning_rate
"""

from __future__ import annotations

import difflib
import math
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Literal, get_args, get_origin, get_type_hints

import yaml

from safeguard_sdk.prompt import PROMPTS
from training.datasets import DATASETS
from training.errors import TrainingError
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
        try:
            document = yaml.load(path.read_text(encoding="utf-8"), _Once)
        except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
            raise TrainingError(f"{path}: cannot be read as YAML ({' '.join(str(error).split())})") from error
        recipe = _read(cls, document, str(path), "")
        try:
            recipe.check()
        except ValueError as error:
            raise TrainingError(f"{path}: {error}") from error
        return recipe

    def check(self) -> None:
        """Raises ValueError for values that have no meaning, alone or together."""
        _known("prompt", self.prompt, PROMPTS)
        _within("max_pixels", self.max_pixels, 28 * 28)
        if self.sft is None and self.grpo is None:
            raise ValueError("sft and grpo are both null; give it one stage or two")
        for name, stage in (("sft", self.sft), ("grpo", self.grpo)):
            if stage is not None:
                _check_stage(name, stage)
        if self.sft is not None:
            _within("sft.rows_per_step", self.sft.rows_per_step, 1)
            _within("sft.max_length", self.sft.max_length, 1)
            _within("sft.validation", self.sft.validation, 0, 0.5)
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
            _within(f"grpo.{key}", getattr(grpo, key), 1)
        _within("grpo.group", grpo.group, 2)
        _within("grpo.kl", grpo.kl, 0)
        if grpo.temperature <= 0:
            raise ValueError(f"grpo.temperature is {grpo.temperature}, must be above 0; equal rollouts teach nothing")


class _Once(yaml.SafeLoader):
    """Refuses a key that a mapping has twice, of which YAML would take the last."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict:
        keys = [key for key, _ in node.value if isinstance(key, yaml.ScalarNode)]
        for number, key in enumerate(keys):
            if key.value in [one.value for one in keys[:number]]:
                raise yaml.constructor.ConstructorError(
                    None, None, f"the key {key.value} is given twice; delete one", key.start_mark)
        return super().construct_mapping(node, deep)


def _check_stage(name: str, stage: Sft | Grpo) -> None:
    for key, least, most in (("batch", 1, None), ("epochs", 1, None), ("save_every", 1, None), ("log_every", 1, None),
                             ("workers", 0, None), ("warmup", 0, 1), ("weight_decay", 0, None),
                             ("seed", 0, MAX_SEED)):
        _within(f"{name}.{key}", getattr(stage, key), least, most)
    if not stage.learning_rate > 0:
        raise ValueError(f"{name}.learning_rate is {stage.learning_rate}, must be above 0")
    if stage.lora is not None:
        _within(f"{name}.lora.rank", stage.lora.rank, 1)
        _within(f"{name}.lora.alpha", stage.lora.alpha, 1)
        _within(f"{name}.lora.dropout", stage.lora.dropout, 0, 0.9)


def _known(key: str, name: str, names: dict) -> None:
    if name not in names:
        raise ValueError(f"{key}: there is no '{name}'; there are {', '.join(names)}")


def _within(key: str, value: float, least: float, most: float | None = None) -> None:
    if value < least or most is not None and value > most:
        raise ValueError(f"{key} is {value}, must be at least {least}" + (f" and at most {most}" if most else ""))


def _read(kind: type, value: object, where: str, place: str) -> object:
    """A mapping as a dataclass whose fields are its keys, all of them and no other."""
    types = get_type_hints(kind)
    keys = [field.name for field in fields(kind)]
    if not isinstance(value, dict):
        raise TrainingError(f"{where}: {place or 'the recipe'} is {value!r:.60}, must be a mapping with the keys "
                            f"{', '.join(keys)}")
    prefix = f"{place}." if place else ""
    for key in value:
        if key not in keys:
            near = difflib.get_close_matches(str(key), keys, n=1)
            raise TrainingError(f"{where}: there is no key {prefix}{key}"
                                + (f"; did you mean {near[0]}?" if near else f"; there are {', '.join(keys)}"))
    for key in keys:
        if key not in value:
            raise TrainingError(f"{where}: the key {prefix}{key} is missing; see training/vlm/recipe.py")
    return kind(**{key: _typed(types[key], value[key], where, prefix + key) for key in keys})


def _typed(kind: object, value: object, where: str, place: str) -> object:
    arguments = get_args(kind)
    if type(None) in arguments:
        return None if value is None else _typed(arguments[0], value, where, place)
    if get_origin(kind) is Literal:
        if value in arguments:
            return value
        wanted = f"one of {', '.join(arguments)}"
    elif get_origin(kind) is tuple:
        if isinstance(value, list) and all(isinstance(item, str) for item in value):
            return tuple(value)
        wanted = "a list of names"
    elif get_origin(kind) is dict:
        if isinstance(value, dict) and all(map(_is_number, value.values())):
            return {str(name): float(weight) for name, weight in value.items()}
        wanted = "a mapping of names to numbers"
    elif kind is float:
        if _is_number(value):
            return float(value)
        wanted = "a number" + (" (in YAML 1e-4 is a text, 1.0e-4 a number)" if isinstance(value, str) else "")
    elif kind in (int, bool, str):
        if type(value) is kind:
            return value
        wanted = {int: "a whole number", bool: "true or false", str: "a text"}[kind]
    else:
        return _read(kind, value, where, place)
    raise TrainingError(f"{where}: {place} is {value!r:.60}, must be {wanted}")


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
