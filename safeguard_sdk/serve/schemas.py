"""What the routes are sent and answer, for /docs and for who generates clients. Nothing is computed by these."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, Field


class Answer(BaseModel, extra="forbid"):
    """Nothing is said beyond these fields."""


class PolicyIdentity(Answer):
    name: str
    version: str
    sha256: str


class RuleFacts(Answer):
    id: str
    title: str
    forbids: list[str]
    allows: list[str]
    text: str
    review_at: float
    unsafe_at: float


class PolicyFacts(PolicyIdentity):
    rules: list[RuleFacts]


class Policies(Answer):
    policies: list[PolicyFacts]
    inline_policies: bool


class CheckedPolicy(PolicyFacts):
    yaml: str
    warnings: list[str]


class Check(Answer):
    label: Literal["safe", "review", "unsafe"]
    score: float
    rule: str | None
    rules: dict[str, float]
    ms: dict[str, float]
    policy_sha256: str
    bundle_sha256: str
    prompt_sha256: str
    policy: PolicyIdentity


class Moderation(Answer):
    flagged: bool
    categories: dict[str, bool]
    category_scores: dict[str, float]
    category_applied_input_types: dict[str, list[Literal["image"]]]
    label: Literal["safe", "review", "unsafe"]
    rule: str | None
    policy: PolicyIdentity
    bundle_sha256: str
    prompt_sha256: str


class Moderations(Answer):
    id: str
    model: str
    results: list[Moderation]


class Failure(Answer):
    kind: str
    message: str


class Failed(Answer):
    error: Failure


class ModerationFailure(Failure):
    type: Literal["invalid_request_error", "server_error"]
    param: None
    code: str


class ModerationFailed(Answer):
    error: ModerationFailure


class Decision(BaseModel):
    """What a reviewer says of an image; the body of a request."""

    decision: Literal["agree", "disagree", "unsure"]
    broken: list[str] | None = Field(None, description="With disagree: every rule that the image does break.")


FAILURES = {"4XX": {"model": Failed}, "5XX": {"model": Failed}}


def documented(answer: type[Answer], failed: type[Answer] = Failed) -> dict:
    """The `responses` of a route."""
    return {200: {"model": answer}, "4XX": {"model": failed}, "5XX": {"model": failed}}
