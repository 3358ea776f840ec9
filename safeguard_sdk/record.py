"""One row of a result list: which image, and its verdict or its failure."""

from __future__ import annotations

from dataclasses import dataclass

from safeguard_sdk.verdict import Verdict


@dataclass(frozen=True, slots=True)
class Record:
    """Exactly one of `verdict` and `failure` is set."""

    path: str
    verdict: Verdict | None
    failure: str | None = None       # why the image could not be judged, one line
    failure_kind: str | None = None  # a word of errors.IMAGE_ERROR_KINDS
    member: str | None = None        # in a scan: the image's name within the archive `path`
    sha256: str | None = None        # likewise: hex digest of the image file's bytes, None if they could not be read
    frame: int | None = None         # likewise: of an animation, the frame that decided

    def __post_init__(self) -> None:
        if (self.verdict is None) == (self.failure is None):
            raise ValueError(f"record of {self.path}: must have a verdict or a failure, not both and not neither")

    def as_json(self) -> dict:
        """The row of `safeguard check --json`: path, label, score, rule, rules, error, ms and the hashes."""
        verdict = self.verdict
        if verdict is None:
            return {"path": self.path, "label": None, "score": None, "rule": None, "rules": None,
                    "error": {"kind": self.failure_kind, "message": self.failure}, "ms": None}
        return {"path": self.path, "label": verdict.label, "score": round(verdict.score, 6), "rule": verdict.rule,
                "rules": {rule: round(score, 6) for rule, score in verdict.rules.items()}, "error": None,
                "ms": {stage: round(ms, 3) for stage, ms in verdict.ms.items()},
                "policy_sha256": verdict.policy_sha256, "bundle_sha256": verdict.bundle_sha256,
                "prompt_sha256": verdict.prompt_sha256}
