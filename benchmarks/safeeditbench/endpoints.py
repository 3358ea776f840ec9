"""Editors behind an HTTP endpoint: OpenAI's images API, Gemini's generateContent ("Nano Banana"), and their likes.

Keys are read from OPENAI_API_KEY and GEMINI_API_KEY; local servers mostly need none. Tries, pauses and Retry-After are
those of the `openai` client, which carries the requests of both.
"""

from __future__ import annotations

import base64
import binascii
import io
import os
from collections.abc import Callable

from PIL import Image

from benchmarks.errors import BenchmarkError
from benchmarks.safeeditbench.editors import EditError, Task
from safeguard_sdk.errors import ImageError
from safeguard_sdk.image import decode_image

TIMEOUT = 300.0  # seconds for one try; image models take up to a minute or two
RETRIES = 5
INVALID_KEY = "API_KEY_INVALID"  # Google says so with the status of a bad request
REFUSED = ("moderation_blocked", "content_policy_violation")  # codes of OpenAI's images API


class OpenAIImagesEditor:
    """POST {url}/images/edits: the photo as a file, the instruction as the prompt."""

    def __init__(self, model: str, url: str) -> None:
        self._model = model
        self._client = _Client(url, os.environ.get("OPENAI_API_KEY"), "OPENAI_API_KEY")

    def edit(self, photo: Image.Image, task: Task) -> Image.Image:
        answer = self._client.ask(lambda client: client.images.edit(
            model=self._model, image=("photo.png", _png(photo), "image/png"), prompt=task.instruction, n=1))
        data = getattr(answer, "data", None)
        encoded = getattr(data[0], "b64_json", None) if isinstance(data, list) and data else None
        if not encoded:
            raise EditError(f"the answer holds no image in base64: {_line(answer)}", "malformed")
        return _picture(encoded)

    def close(self) -> None:
        self._client.close()


class GeminiEditor:
    """POST {url}/models/{model}:generateContent: instruction and photo as parts of one turn."""

    def __init__(self, model: str, url: str) -> None:
        self._path = f"/models/{model}:generateContent"
        self._key = os.environ.get("GEMINI_API_KEY")
        self._client = _Client(url, None, "GEMINI_API_KEY")

    def edit(self, photo: Image.Image, task: Task) -> Image.Image:
        encoded = base64.b64encode(_png(photo)).decode()
        body = {"contents": [{"role": "user", "parts": [
                    {"text": task.instruction}, {"inlineData": {"mimeType": "image/png", "data": encoded}}]}],
                "generationConfig": {"responseModalities": ["TEXT", "IMAGE"]}}
        # Google reads a bearer token as that of OAuth; its own keys stand in a header of their own.
        headers = {"Authorization": self._client.no_header} | ({"x-goog-api-key": self._key} if self._key else {})
        answer = self._client.ask(lambda client: client.post(self._path, cast_to=object, body=body,
                                                             options={"headers": headers}))
        return _picture(_gemini_image(answer))

    def close(self) -> None:
        self._client.close()


class _Client:
    """The `openai` client with its errors told apart: this photo's, or everybody's."""

    def __init__(self, url: str, key: str | None, key_name: str) -> None:
        try:
            import openai
        except ImportError as error:
            raise BenchmarkError(f"an editor behind {url} needs the package openai ({error}); install it: pip install "
                                 "'safeguard[bench]'") from error
        self._errors, self._url, self._key_name = openai, url, key_name
        self.no_header = openai.Omit()
        self._client = openai.OpenAI(base_url=url, api_key=key or "none", timeout=TIMEOUT, max_retries=RETRIES)

    def ask(self, request: Callable) -> object:
        try:
            return request(self._client)
        except self._errors.OpenAIError as error:
            raise self._explained(error) from error
        except ValueError as error:  # a body that is not JSON
            raise EditError(f"the answer cannot be read: {_line(error)}", "malformed") from error

    def close(self) -> None:
        self._client.close()

    def _explained(self, error: Exception) -> EditError | BenchmarkError:
        known, tries = self._errors, f"{RETRIES + 1} tries"
        if isinstance(error, known.APITimeoutError):  # before its base, the connection error
            return EditError(f"no answer in {TIMEOUT:g} s, {tries}", "timeout")
        if isinstance(error, known.APIConnectionError):
            return BenchmarkError(f"{self._url}: cannot be reached ({_line(error.__cause__ or error)}), {tries}; run "
                                  "the command again when it is up, it goes on where it stopped")
        if isinstance(error, known.AuthenticationError | known.PermissionDeniedError) or INVALID_KEY in str(error):
            return BenchmarkError(f"{self._url}: refuses this client ({_line(error)}); set {self._key_name}")
        if isinstance(error, known.NotFoundError):
            return BenchmarkError(f"{self._url}: knows no such model or has no such path ({_line(error)}); see whether "
                                  "the address should end in /v1 or /v1beta")
        if isinstance(error, known.RateLimitError):
            return EditError(f"too many requests, {tries}: {_line(error)}", "overloaded")
        if isinstance(error, known.InternalServerError):
            return EditError(f"{tries}: {_line(error)}", "server_error")
        if isinstance(error, known.BadRequestError) and error.code in REFUSED:
            return EditError(f"the photo or the instruction was refused: {_line(error)}", "filtered")
        if isinstance(error, known.APIStatusError):
            return EditError(_line(error), "rejected_request")
        return EditError(_line(error), "malformed")


def _gemini_image(answer: object) -> str:
    """The first image of an answer, in base64. Nothing is taken on trust."""
    answer = answer if isinstance(answer, dict) else {}
    blocked = (answer.get("promptFeedback") or {}).get("blockReason")
    candidates = answer.get("candidates") or [{}]
    for part in (candidates[0].get("content") or {}).get("parts") or []:
        if data := (part.get("inlineData") or {}).get("data"):
            return data
    reason = blocked or candidates[0].get("finishReason")
    if blocked or reason not in (None, "STOP", "MAX_TOKENS"):  # SAFETY, IMAGE_SAFETY, PROHIBITED_CONTENT, …
        raise EditError(f"the photo or the edit was refused ({reason})", "filtered")
    raise EditError(f"the answer holds no image (finish reason {reason}): {_line(answer)}", "malformed")


def _picture(encoded: str) -> Image.Image:
    try:
        return Image.fromarray(decode_image(base64.b64decode(encoded, validate=True)))
    except (binascii.Error, ImageError) as error:
        raise EditError(f"the image in the answer cannot be decoded: {_line(error)}", "malformed") from error


def _png(photo: Image.Image) -> bytes:
    data = io.BytesIO()
    photo.save(data, "PNG")
    return data.getvalue()


def _line(thing: object) -> str:
    return " ".join(str(thing).split())[:300]
