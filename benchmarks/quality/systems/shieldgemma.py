"""ShieldGemma 2: asked whether a photo breaks one policy in words, it gives the probabilities of Yes and No."""

from __future__ import annotations

import numpy as np
from PIL import Image

from benchmarks.errors import BenchmarkError
from benchmarks.quality.cases import Case, Judgement
from benchmarks.quality.systems.detectors import needed

REPO = "google/shieldgemma-2-4b-it"
THRESHOLD = 0.5  # the likelier of the two words; the two are no calibrated probability
POLICY = "policy"  # the key under which the processor takes a policy of ours


class ShieldGemma:
    taxonomy, concurrency = None, 1

    def __init__(self, source: str | None) -> None:
        self._torch = needed("torch", "torch")
        transformers = needed("transformers", "transformers")
        name = source or REPO
        try:
            self._processor = transformers.AutoProcessor.from_pretrained(name)
            self._model = transformers.ShieldGemma2ForImageClassification.from_pretrained(
                name, dtype="auto", device_map="auto").eval()
        except (OSError, ValueError, KeyError) as error:
            raise BenchmarkError(f"{name}: cannot be loaded ({' '.join(str(error).split())[:200]}); accept its terms "
                                 "on the Hugging Face hub, or name a folder: shieldgemma-2:DIR") from error
        self.facts = {"model": REPO, "threshold": THRESHOLD}

    def judge(self, case: Case, rgb: np.ndarray) -> Judgement:
        inputs = self._processor(images=[Image.fromarray(rgb)], custom_policies={POLICY: case.policy},
                                 policies=[POLICY], return_tensors="pt")
        with self._torch.inference_mode():
            answer = self._model(**inputs.to(self._model.device))
        return judgement(answer.probabilities[0].tolist())

    def close(self) -> None:
        del self._model


def judgement(probabilities: list[float]) -> Judgement:
    """[P(Yes), P(No)]: the first is that it violates the policy. The docstring of transformers 5.24 names the other."""
    return Judgement("unsafe" if probabilities[0] >= THRESHOLD else "safe", round(probabilities[0], 6))
