"""What a rollout of stage 2 is worth. Verifiable: a reward reads the answer and knows the label; it asks no model.

    REWARDS["direct"]([" unsafe"], label=["unsafe"])    # [1.2]

The functions have the form that TRL's GRPOTrainer calls: lists, one entry for each completion. `official` and
`official_format` are the published ones to the digit, with their two faults, which docs/training.md shows: they read an
answer that stands inside the thought, and a wrong one earns more than half of a right one. `direct` and `reasoning` are
ours: they read what serving reads (`PromptStyle.parse`), and are worth the same for both labels.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence

from safeguard_sdk.errors import VerdictError
from safeguard_sdk.prompt import PROMPTS, Answer

Completion = str | list[dict[str, str]]  # TRL gives the turn as [{"role": "assistant", "content": text}]
LogMetric = Callable[[str, float], None]
Reward = Callable[..., list[float]]

# adorableChowhound/SafeGuard-VL a21cdfe, train/plugin.py
OFFICIAL_THOUGHT = 50  # characters from which a thought counts
OFFICIAL_RIGHT = {"safe": 1.7, "unsafe": 2.0}
OFFICIAL_WRONG, OFFICIAL_NO_ANSWER, OFFICIAL_NO_THOUGHT = 1.0, 0.5, -0.5

# Ours: being right outweighs all else, so no form of a wrong answer is worth a right one.
CORRECT, FORMAT, LENGTH = 1.0, 0.1, 0.1
THOUGHT_WORDS = 12         # different words from which a thought has its full LENGTH
LONGEST_THOUGHT = 200      # words; a longer one has none


def official(completions: Sequence[Completion], label: Sequence[str], log_metric: LogMetric | None = None,
             **columns: object) -> list[float]:
    """The accuracy reward `external_r1v_acc`, in [0, 2]. `label`: "safe" stands for its `<answer>safe</answer>`."""
    texts = [_text(completion) for completion in completions]
    answers = [_official_answer(text) for text in texts]
    _log_unparsable([answer is None for answer in answers], log_metric)
    return [_official_value(text, answer, truth) for text, answer, truth in zip(texts, answers, label, strict=True)]


def official_format(completions: Sequence[Completion], **columns: object) -> list[float]:
    """The reward `format` of ms-swift that is added to it: 1.0 for a thought and an answer and nothing else, or 0.0."""
    whole = re.compile(r"<think>.*?</think>\s*<answer>.*?</answer>(?![\s\S])", re.DOTALL)
    return [1.0 if whole.match(_text(completion)) else 0.0 for completion in completions]


def direct(completions: Sequence[Completion], label: Sequence[str], log_metric: LogMetric | None = None,
           **columns: object) -> list[float]:
    """Ours for verdicts of one word, in [0, 1.2]: CORRECT, FORMAT for any verdict at all, LENGTH for its shortest form.

    The shortest form is the verdict token itself, whose logit serving compares. No verdict is worth 0.
    """
    style = PROMPTS["direct"]
    texts = [_text(completion) for completion in completions]
    answers = _parsed("direct", texts, log_metric)
    return [0.0 if answer is None else
            FORMAT + CORRECT * (answer.label == truth) + LENGTH * (text == style.format(answer))
            for text, answer, truth in zip(texts, answers, label, strict=True)]


def reasoning(completions: Sequence[Completion], label: Sequence[str], log_metric: LogMetric | None = None,
              **columns: object) -> list[float]:
    """Ours for a thought and a verdict, in [0, 1.2]: CORRECT, FORMAT for a thought, LENGTH as it says more.

    LENGTH grows with the number of different words, so that filler earns nothing. No verdict is worth 0.
    """
    answers = _parsed("reasoning", [_text(completion) for completion in completions], log_metric)
    return [0.0 if answer is None else
            CORRECT * (answer.label == truth) + _worth_of_thought(answer.rationale)
            for answer, truth in zip(answers, label, strict=True)]


REWARDS: dict[str, Reward] = {reward.__name__: reward for reward in (official, official_format, direct, reasoning)}
ASKS = {"official": "reasoning", "official_format": "reasoning",  # the style of prompt that each reads answers to
        "direct": "direct", "reasoning": "reasoning"}


def _text(completion: Completion) -> str:
    return completion if isinstance(completion, str) else completion[0]["content"]


def _official_answer(text: str) -> str | None:
    found = re.search(r"<answer>(.*?)</answer>", text, re.IGNORECASE | re.DOTALL)
    return {"yes": "safe", "no": "unsafe"}.get(found[1].strip().lower()) if found else None


def _official_value(text: str, answer: str | None, truth: str) -> float:
    thought = re.search(r"<think>(.*?)</think>", text, re.IGNORECASE | re.DOTALL)
    thinks = thought is not None and len(thought[1].strip()) >= OFFICIAL_THOUGHT
    value = OFFICIAL_NO_ANSWER if answer is None else OFFICIAL_RIGHT[truth] if answer == truth else OFFICIAL_WRONG
    return value + (0.0 if thinks else OFFICIAL_NO_THOUGHT)


def _parsed(style: str, texts: list[str], log_metric: LogMetric | None) -> list[Answer | None]:
    answers = []
    for text in texts:
        try:
            answers.append(PROMPTS[style].parse(text))
        except VerdictError:
            answers.append(None)
    _log_unparsable([answer is None for answer in answers], log_metric)
    return answers


def _worth_of_thought(thought: str | None) -> float:
    words = re.findall(r"\w+", (thought or "").lower())
    if not words:
        return 0.0
    says = min(1.0, len(set(words)) / THOUGHT_WORDS) if len(words) <= LONGEST_THOUGHT else 0.0
    return FORMAT + LENGTH * says


def _log_unparsable(unparsable: list[bool], log_metric: LogMetric | None) -> None:
    if log_metric is not None:
        log_metric("unparsable", sum(unparsable) / len(unparsable))
