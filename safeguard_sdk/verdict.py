"""From the logits of each rule to a verdict: calibrated scores, thresholds, the rule that decides."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import numpy as np

from safeguard_sdk.bundle import Calibration
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


def calibrated_score(logits: np.ndarray, calibration: Calibration) -> float:
    """(2,) logits of safe and unsafe → score in [0, 1]. Raises VerdictError if they are not finite."""
    safe, unsafe = (float(logit) for logit in logits)
    logit = calibration.scale * (unsafe - safe) + calibration.shift
    if not math.isfinite(logit):
        raise VerdictError(f"the model gave the logits safe={safe}, unsafe={unsafe}, which are no score; "
                           "the bundle or its runtime is broken, run `safeguard info`")
    return 1 / (1 + math.exp(-logit)) if logit >= 0 else math.exp(logit) / (1 + math.exp(logit))


def label_of(score: float, rule: Rule) -> str:
    return "unsafe" if score >= rule.unsafe_at else "review" if score >= rule.review_at else "safe"


def decide(scores: dict[str, float], policy: Policy) -> tuple[str, float, str | None]:
    """Scores of all rules → (label, score, rule): the gravest label counts, within it the highest score."""
    graded = [(LABELS.index(label_of(scores[rule.id], rule)), scores[rule.id], rule.id) for rule in policy.rules]
    severity, score, rule = max(graded, key=lambda one: one[:2])
    return LABELS[severity], score, rule if severity else None
