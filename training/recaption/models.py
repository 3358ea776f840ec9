"""A model that answers a question about a photo, wherever it runs.

    open_model("Qwen/Qwen2.5-VL-7B-Instruct")                   in this process, by transformers
    open_model("gemma-3-27b-it@http://127.0.0.1:8000/v1")       behind an OpenAI-compatible endpoint
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol
from urllib.parse import urlsplit

from PIL import Image

from training.errors import TrainingError
from training.recaption.prompts import Sampling

MODEL_ERROR_KINDS = (
    "rejected_request",  # the endpoint does not take this photo or prompt (another 4xx)
    "overloaded",        # it kept saying that there are too many requests
    "server_error",      # it kept failing (5xx)
    "timeout",           # it did not answer in time, however often it was asked
    "disconnected",      # it dropped the connection, however often it was asked
    "malformed",         # an answer that is not of the API's form, or no text
    "empty",             # nothing but blanks
    "truncated",         # the answer reached max_tokens, or the model's length
    "filtered",          # a filter before or behind the model withheld the answer
)


@dataclass(frozen=True)
class Question:
    image: Image.Image  # RGB, upright
    prompt: str
    sampling: Sampling
    seed: int           # equal questions with equal seeds have equal answers, as far as the model allows
    system: str | None = None  # None: the model's chat template decides
    template_options: Mapping[str, object] = field(default_factory=dict)  # what its chat template takes besides


class ModelError(Exception):
    """One question that was not answered; the others may be. `kind` is one of MODEL_ERROR_KINDS."""

    def __init__(self, message: str, kind: str) -> None:
        if kind not in MODEL_ERROR_KINDS:
            raise ValueError(f"unknown kind of model error {kind!r}; known: {', '.join(MODEL_ERROR_KINDS)}")
        super().__init__(message)
        self.kind = kind


class Model(Protocol):
    name: str         # as in run.json; without the address
    concurrency: int  # how many questions it is asked at once

    def ask(self, question: Question) -> str:
        """The answer, stripped and not empty.

        raises  ModelError if this question has none, TrainingError if no question would have one
        """

    def close(self) -> None:
        """Give up whatever is under way and free what it holds."""


def open_model(spec: str, concurrency: int) -> Model:
    """`NAME@URL` is a model of an OpenAI-compatible endpoint, anything else a folder or name for transformers.

    concurrency  of an endpoint; a model in this process answers one question after the other
    raises       TrainingError if the model cannot be had
    """
    name, address = _split(spec)  # either is imported when it is wanted: a client takes a second, torch several
    if address is not None:
        from training.recaption.endpoint import Endpoint
        return Endpoint(name, address, concurrency)
    from training.recaption.local import LocalModel
    return LocalModel(name)


def check_model(spec: str) -> None:
    """Raise TrainingError where an address or a key cannot be right, before hours of work."""
    if _split(spec)[1] is not None:
        from training.recaption.endpoint import api_key
        api_key()


def model_name(spec: str) -> str:
    """The name without the address, which may change while a run goes on."""
    return _split(spec)[0]


def _split(spec: str) -> tuple[str, str | None]:
    """Name and address; None for a model of this process. Raises TrainingError for an address that cannot be one."""
    remote = re.fullmatch(r"(.+?)@(https?:.*)", spec, re.IGNORECASE | re.DOTALL)
    if remote and _is_address(remote[2]):
        return remote[1], remote[2]
    if remote or "@" in spec and not Path(spec).exists():  # no name on the hub has an @
        raise TrainingError(f"{spec!r:.200}: names no model, and no address that one could be at; write a folder, a "
                            "name on the hub, or NAME@http://HOST:PORT/v1")
    return spec, None


def _is_address(text: str) -> bool:
    try:
        parts = urlsplit(text)
        return bool(parts.hostname) and parts.port != 0 and not re.search(r"\s", text)
    except ValueError:  # brackets that do not close, a port that is no number
        return False


def checked_answer(text: object) -> str:
    """A text as a model gave it → stripped. Raises ModelError if it is none, empty, or cannot be stored as UTF-8."""
    if not isinstance(text, str):
        raise ModelError(f"the answer is {type(text).__name__}, not text", "malformed")
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise ModelError(f"the answer is no valid Unicode ({error.reason})", "malformed") from error
    if not text.strip():
        raise ModelError("the answer is empty", "empty")
    return text.strip()
