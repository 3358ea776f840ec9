"""A model behind an OpenAI-compatible endpoint: vLLM, llama.cpp's server and others.

The key is read from OPENAI_API_KEY; local servers mostly need none. Tries, pauses between them (0.5 s doubling to 8 s)
and Retry-After, up to 120 s, are those of the `openai` client.
"""

from __future__ import annotations

import base64
import io
import os

from PIL import Image

from training.errors import TrainingError
from training.recaption.models import ModelError, Question, checked_answer

TIMEOUT = 180.0    # seconds for one try; 1,024 tokens of a 27B model take a minute on a busy card
RETRIES = 5        # after the first try, some 15 s of pauses in all
LONGEST_WAIT = 120  # seconds of a Retry-After that the client heeds
UNREACHABLE = ("ConnectError", "ConnectTimeout")  # of httpx, which `openai` has under changing package names
JPEG_QUALITY = 95  # photos go over the wire as JPEG


class Endpoint:
    """Thread-safe."""

    def __init__(self, name: str, url: str, concurrency: int, timeout: float = TIMEOUT, retries: int = RETRIES) -> None:
        try:
            import openai
        except ImportError as error:
            raise TrainingError(f"a model behind {url} needs the package openai ({error}); install it: "
                                "pip install 'safeguard[train]'") from error
        self.name, self.url, self.concurrency = name, url, concurrency
        self._errors = openai
        self._tries = f"{retries + 1} tries"
        self._client = openai.OpenAI(base_url=url, api_key=api_key(),
                                     timeout=timeout, max_retries=retries)

    def ask(self, question: Question) -> str:
        try:
            completion = self._client.chat.completions.create(
                model=self.name, seed=question.seed, temperature=question.sampling.temperature,
                max_tokens=question.sampling.max_tokens, messages=_messages(question), extra_body=_extras(question))
        except self._errors.OpenAIError as error:
            raise self._explained(error) from error
        except ValueError as error:  # a body that is not JSON
            raise ModelError(f"the answer cannot be read: {_line(error)}", "malformed") from error
        return _text_of(completion)

    def close(self) -> None:
        self._client.close()

    def _explained(self, error: Exception) -> ModelError | TrainingError:
        known, cause = self._errors, error.__cause__ or error
        if isinstance(error, known.APIConnectionError) and type(cause).__name__ in UNREACHABLE:
            return TrainingError(f"{self.url}: cannot be reached ({_line(cause)}), {self._tries}; start the server and "
                                 "run the command again, it goes on where it stopped")
        if isinstance(error, known.APITimeoutError):  # before its base, the connection error
            return ModelError(f"no answer in {self._client.timeout:g} s, {self._tries}", "timeout")
        if isinstance(error, known.APIConnectionError):
            return ModelError(f"the connection was dropped, {self._tries}: {_line(cause)}", "disconnected")
        if isinstance(error, known.AuthenticationError | known.PermissionDeniedError):
            return TrainingError(f"{self.url}: refuses this client ({_line(error)}); set OPENAI_API_KEY")
        if isinstance(error, known.NotFoundError):
            return TrainingError(f"{self.url}: knows no model {self.name!r} or no chat completions ({_line(error)}); "
                                 "see the names under /models, and whether the address should end in /v1")
        if isinstance(error, known.RateLimitError):
            return ModelError(f"too many requests, {self._tries}{_longer_wait(error)}: {_line(error)}", "overloaded")
        if isinstance(error, known.InternalServerError):
            return ModelError(f"{self._tries}{_longer_wait(error)}: {_line(error)}", "server_error")
        if isinstance(error, known.APIStatusError):
            return ModelError(_line(error), "rejected_request")
        return ModelError(_line(error), "malformed")


def api_key() -> str:
    """OPENAI_API_KEY, or a word where there is none. Raises TrainingError, without the key, if it is no key."""
    key = os.environ.get("OPENAI_API_KEY", "").strip() or "none"
    if not key.isascii() or not key.isprintable() or " " in key:
        raise TrainingError("OPENAI_API_KEY has a blank, a line end or a letter outside of ASCII within, which no key "
                            "has; set it anew")
    return key


def _longer_wait(error: Exception) -> str:
    """What a server asks for beyond what the client heeds."""
    wait = error.response.headers.get("retry-after", "")
    if not wait.isdigit() or int(wait) <= LONGEST_WAIT:
        return ""
    return f" without the pause of {wait} s that it asks for (run again later, with --retry-failed)"


def _messages(question: Question) -> list[dict]:
    system = [{"role": "system", "content": question.system}] if question.system else []
    return [*system, {"role": "user", "content": [
        {"type": "image_url", "image_url": {"url": data_url(question.image)}},
        {"type": "text", "text": question.prompt}]}]


def _extras(question: Question) -> dict | None:
    """vLLM, SGLang and llama.cpp hand `chat_template_kwargs` on to the model's chat template."""
    return {"chat_template_kwargs": dict(question.template_options)} if question.template_options else None


def data_url(image: Image.Image) -> str:
    data = io.BytesIO()
    image.save(data, "JPEG", quality=JPEG_QUALITY, subsampling=0)
    return "data:image/jpeg;base64," + base64.b64encode(data.getvalue()).decode()


def _text_of(completion: object) -> str:
    """The text of a whole answer. Nothing is taken on trust: servers differ in what they leave out."""
    choices = getattr(completion, "choices", None)
    message = getattr(choices[0], "message", None) if isinstance(choices, list) and choices else None
    if message is None:
        raise ModelError(f"the answer holds no message: {_line(completion)}", "malformed")
    reason = getattr(choices[0], "finish_reason", None)
    if reason == "length":
        raise ModelError("the answer was cut off: it reached max_tokens or the length that the server runs with",
                         "truncated")
    if reason == "content_filter" or getattr(message, "refusal", None):
        raise ModelError(f"the answer was withheld ({getattr(message, 'refusal', None) or reason})", "filtered")
    return checked_answer(getattr(message, "content", None))


def _line(thing: object) -> str:
    return " ".join(str(thing).split())[:300]
