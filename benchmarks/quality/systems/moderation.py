"""The OpenAI moderation API, or a service that answers like it. A photo leaves the machine: benchmark only."""

from __future__ import annotations

import os

import numpy as np
from PIL import Image

from benchmarks.errors import BenchmarkError
from benchmarks.quality.cases import Case, CaseError, Judgement
from benchmarks.quality.systems.detectors import needed
from benchmarks.quality.systems.taxonomy import Taxonomy
from training.recaption.endpoint import RETRIES, TIMEOUT, data_url

MODEL = "omni-moderation-latest"
KEY = "OPENAI_API_KEY"


class ModerationSystem:
    """A photo is unsafe if the service flags a category that counts; its thresholds are its own."""

    concurrency = 4

    def __init__(self, suite: str, url: str | None) -> None:
        openai = needed("openai", "openai")
        if not os.environ.get(KEY):
            raise BenchmarkError(f"openai-moderation: needs a key; set {KEY}")
        self._errors = openai
        self._client = openai.OpenAI(base_url=url, timeout=TIMEOUT, max_retries=RETRIES)
        self.taxonomy = Taxonomy.read("openai-moderation", suite)
        self.facts = {"model": MODEL}

    def judge(self, case: Case, rgb: np.ndarray) -> Judgement:
        photo = {"type": "image_url", "image_url": {"url": data_url(Image.fromarray(rgb))}}
        try:
            answer = self._client.moderations.create(model=MODEL, input=[photo])
        except (self._errors.AuthenticationError, self._errors.PermissionDeniedError) as error:
            raise BenchmarkError(f"openai-moderation: the key in {KEY} is refused ({error})") from error
        except self._errors.OpenAIError as error:
            raise CaseError(" ".join(str(error).split())[:300], "request_failed") from error
        return self.read(case, answer.model_dump(by_alias=True))

    def read(self, case: Case, answer: dict) -> Judgement:
        """A response of POST /v1/moderations for one photo. Raises CaseError if it is of another form."""
        try:
            (result,) = answer["results"]
            flagged = [name for name, broken in result["categories"].items() if broken]
            scores = {name: float(score) for name, score in result["category_scores"].items() if score is not None}
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise CaseError(f"the answer is no response for one photo ({error!r})", "malformed") from error
        violated = self.taxonomy.violated(case, flagged)
        score = max((scores[name] for name in self.taxonomy.counting(case) if name in scores), default=0.0)
        return Judgement("unsafe" if violated else "safe", score, note=",".join(violated))

    def close(self) -> None:
        self._client.close()
