"""Our own guards: nano, and any bundle of docs/bundle.md."""

from __future__ import annotations

import re
from functools import lru_cache
from pathlib import Path

import numpy as np

from benchmarks.quality.cases import Case, CaseError, Judgement
from safeguard_sdk import Bundle, Policy, PolicyError
from safeguard_sdk.engine import ImageEmbedding, Prefix, open_engine
from safeguard_sdk.image import to_model_input
from safeguard_sdk.policy import UNSAFE_AT
from safeguard_sdk.verdict import calibrated_score

RULE = re.compile(r"(?:Rule|O\d): ")
KEPT = 64  # prompts of rules, and images, that are not read again


class BundleSystem:
    """A policy is judged as a guard does it: rule by rule where its text has rules, at the default threshold."""

    taxonomy, concurrency = None, 1

    def __init__(self, folder: Path | None) -> None:
        self._bundle = Bundle.embedded() if folder is None else Bundle.open(folder)
        self._engine = open_engine(self._bundle)
        self.facts = {"bundle": self._bundle.name, "bundle_sha256": self._bundle.sha256,
                      "prompt_sha256": self._bundle.style.sha256}
        self._read = lru_cache(KEPT)(self._read_rule)
        self._images: dict[str, ImageEmbedding] = {}

    def judge(self, case: Case, rgb: np.ndarray) -> Judgement:
        embedding = self._embedding(case.image_sha256, rgb)
        try:
            prefixes = {text: self._read(text) for text in rules_of(case.policy)}
        except PolicyError as error:
            raise CaseError(str(error), "policy_too_long") from error
        scores = [calibrated_score(self._engine.score(prefix, [embedding])[0], self._bundle.calibration_of(text))
                  for text, prefix in prefixes.items()]
        score = max(scores)
        rule = next(text for text, mine in zip(prefixes, scores, strict=True) if mine == score)
        return Judgement("unsafe" if score >= UNSAFE_AT else "safe", score, note=rule.split("\n")[0][:80])

    def close(self) -> None:
        self._images.clear()

    def _embedding(self, sha256: str, rgb: np.ndarray) -> ImageEmbedding:
        if sha256 not in self._images:
            if len(self._images) >= KEPT:
                self._images.pop(next(iter(self._images)))
            (self._images[sha256],) = self._engine.encode([to_model_input(rgb, self._bundle.geometry)])
        return self._images[sha256]

    def _read_rule(self, text: str) -> Prefix:
        return self._engine.read(self._bundle.style.prefix(text))


def rules_of(policy: str) -> list[str]:
    """The rules of a policy's text as a guard reads them: its blocks where each is a rule of ours ("Rule: …") or of
    LlavaGuard's ("O2: …"), else the whole text."""
    blocks = [block for block in policy.split("\n\n") if block.strip()]
    if not all(RULE.match(block) for block in blocks):
        blocks = [policy]
    return [Policy.from_text(block).rules[0].canonical_text for block in blocks]
