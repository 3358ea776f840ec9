"""From the logits of each rule to a verdict: calibrated scores, thresholds, the rule that decides."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import numpy as np

from safeguard_sdk import _fast
from safeguard_sdk.calibration import AnyCalibration
from safeguard_sdk.errors import VerdictError
from safeguard_sdk.policy import Policy, Rule

LABELS = ("safe", "review", "unsafe")  # in order of severity


@dataclass(frozen=True, slots=True)
class Verdict:
    """What a guard says of one image. Equal images under equal hashes have equal verdicts, `ms` aside."""

    label: str                # "safe", "review" or "unsafe": the gravest of its rules
    score: float              # calibrated, in [0, 1]: of `rule`, or the highest of all if the image is safe
    rule: str | None          # id of the rule that decides the label; None if safe
    rules: dict[str, float]   # calibrated score of every rule, in the order of the policy
    policy_sha256: str
    bundle_sha256: str
    prompt_sha256: str
    rationale: str | None = None
    ms: dict[str, float] = field(default_factory=dict, compare=False)  # wall time per stage, milliseconds


def verdict_log_probabilities(logits: np.ndarray, safe: int, unsafe: int) -> np.ndarray:
    """Logits of the next token → natural logarithms of the probabilities that it is the one or the other verdict token.

    logits   (rows, vocabulary) or (vocabulary,) float32, float16, or uint16 with the bits of bfloat16; any strides;
             -inf is a token that cannot come. Where a graph gives the two verdict logits alone, they are the vocabulary
    safe     id of the first token of the style's `verdict_tokens.safe`; `unsafe` likewise
    returns  (rows, 2) or (2,) float64: safe, unsafe; within 1e-6. A row does not depend on the other rows.
             `calibrated_score` takes one as it takes logits, for their difference is the same. `np.exp(row).sum()` is
             what the two have together; where that is little, the model wanted to say something else
    raises   VerdictError if a logit is NaN or +inf, or a verdict token's is -inf; TypeError and ValueError for arrays
             of another kind; IndexError for tokens outside the vocabulary
    """
    log_probabilities = _fast.verdict_log_probabilities(logits, safe, unsafe)
    broken = np.flatnonzero(~np.isfinite(log_probabilities).all(axis=-1))
    if broken.size:
        raise VerdictError(f"row {broken[0]} of the model's logits, {logits.shape} {logits.dtype}, has NaN or +inf, or "
                           "none for a verdict token, which is no score; the bundle or its runtime is broken, "
                           "run `safeguard info`")
    return log_probabilities


def calibrated_score(logits: np.ndarray, calibration: AnyCalibration) -> float:
    """(2,) logits of safe and unsafe → score in [0, 1]. Raises VerdictError if they are not finite."""
    safe, unsafe = (float(logit) for logit in logits)
    if not math.isfinite(unsafe - safe):
        raise VerdictError(f"the model gave the logits safe={safe}, unsafe={unsafe}, which are no score; "
                           "the bundle or its runtime is broken, run `safeguard info`")
    return calibration.score(unsafe - safe)


def label_of(score: float, rule: Rule) -> str:
    return "unsafe" if score >= rule.unsafe_at else "review" if score >= rule.review_at else "safe"


def decide(scores: dict[str, float], policy: Policy) -> tuple[str, float, str | None]:
    """Scores of all rules → (label, score, rule): the gravest label counts, within it the highest score."""
    graded = [(LABELS.index(label_of(scores[rule.id], rule)), scores[rule.id], rule.id) for rule in policy.rules]
    severity, score, rule = max(graded, key=lambda one: one[:2])
    return LABELS[severity], score, rule if severity else None
