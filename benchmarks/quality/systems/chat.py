"""Chat models as guards: one adapter, and a line of data for each system. They run in this process by transformers, or
behind an OpenAI-compatible endpoint such as vLLM's.

    qwen2.5-vl-7b                                   by its name on the Hugging Face hub
    safeguard-vl-sft:runs/7b-sft/sft/model             from a folder
    qwenguard-7b@http://127.0.0.1:8000/v1           served; start vLLM with the model under its name on the hub
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from PIL import Image

from benchmarks.errors import BenchmarkError
from benchmarks.quality.cases import Case, CaseError, Judgement
from benchmarks.quality.systems.answers import READERS
from benchmarks.quality.systems.prompts import PROMPT_BUILDERS
from benchmarks.quality.systems.taxonomy import Taxonomy
from safeguard_sdk.errors import VerdictError
from training.recaption.models import Model, ModelError, Question
from training.recaption.prompts import Sampling

WORD, THOUGHT, OBJECT = 64, 512, 500  # tokens; the first is official for words, the last for LlavaGuard's objects
QWEN_PIXELS = 1_003_520  # the class default of transformers, 1,280 tokens; the checkpoints' own limit is 16,384
CONCURRENCY = 16  # questions to a server at once, which batches them
INVALID = ("empty", "truncated", "filtered")  # kinds of ModelError that are the model's own answer


@dataclass(frozen=True, slots=True)
class ChatModel:
    repo: str | None          # on the Hugging Face hub; None: no weights are published, a folder must be named
    prompt: str = "official"  # in PROMPT_BUILDERS
    reader: str = "word"      # in READERS
    max_tokens: int = WORD
    max_pixels: int | None = None   # of a photo; None leaves it to the checkpoint
    taxonomy: str | None = None     # in taxonomies.yaml; None: the policy is in the prompt
    served_only: str = ""           # why it does not run in this process


def _qwen(repo: str | None, **changes: object) -> ChatModel:
    return ChatModel(repo, **{"max_pixels": QWEN_PIXELS} | changes)


def _safeguard_vl(repo: str | None) -> ChatModel:  # thinks before it answers, if it was trained to
    return _qwen(repo, reader="safeguard-vl", max_tokens=THOUGHT)


def _llavaguard(repo: str, max_pixels: int | None = None) -> ChatModel:
    return ChatModel(repo, "llavaguard", "llavaguard", OBJECT, max_pixels)


CHAT_MODELS: dict[str, ChatModel] = {
    "safeguard-vl-sft": _safeguard_vl(None),
    "safeguard-vl-full": _safeguard_vl(None),
    "safeguard-vl-rl": _safeguard_vl("tyodd/SafeGuard-VL-RL"),
    "safeguard-vl-rl-safeedittrain": _safeguard_vl(None),
    "qwen2.5-vl-7b": _qwen("Qwen/Qwen2.5-VL-7B-Instruct"),
    "qwen2-vl-7b": _qwen("Qwen/Qwen2-VL-7B-Instruct"),
    "llava-1.6-7b": ChatModel("llava-hf/llava-v1.6-mistral-7b-hf"),  # the paper does not say which of the two 7B
    "instructblip": ChatModel("Salesforce/instructblip-vicuna-7b"),
    "glm-4v-9b": ChatModel("THUDM/glm-4v-9b", served_only="runs code of its own repository; serve it with `vllm serve "
                                                          "THUDM/glm-4v-9b --trust-remote-code`"),
    "qwenguard-3b": _llavaguard("AIML-TUDA/QwenGuard-v1.2-3B", 262_144),  # the limit that it was trained with
    "qwenguard-7b": _llavaguard("AIML-TUDA/QwenGuard-v1.2-7B", 262_144),
    "llavaguard-0.5b": _llavaguard("AIML-TUDA/LlavaGuard-v1.2-0.5B-OV-hf"),
    "llavaguard-7b": _llavaguard("AIML-TUDA/LlavaGuard-v1.2-7B-OV-hf"),
    "llama-guard-3-vision": ChatModel("meta-llama/Llama-Guard-3-11B-Vision", "conversation", "llama-guard",
                                      taxonomy="llama-guard"),
    "llama-guard-4": ChatModel("meta-llama/Llama-Guard-4-12B", "conversation", "llama-guard", taxonomy="llama-guard"),
    "shieldstral": ChatModel("mistralai/Shieldstral-1.0-3B", "shieldstral", "yes-violates"),
    "nemotron-3-content-safety": ChatModel("nvidia/Nemotron-3-Content-Safety", "nemotron", "nemotron"),
    "nemotron-3.5-content-safety": ChatModel("nvidia/Nemotron-3.5-Content-Safety", "nemotron", "nemotron"),
}


class ChatSystem:
    """One of CHAT_MODELS on a suite. The same question always has the same answer, as far as the model allows."""

    def __init__(self, name: str, suite: str, source: str | None) -> None:
        """source  a folder with weights, the address of an endpoint, or None for the name on the hub"""
        self._data, self._suite = CHAT_MODELS[name], suite
        self._build, self._read = PROMPT_BUILDERS[self._data.prompt], READERS[self._data.reader]
        self.taxonomy = Taxonomy.read(self._data.taxonomy, suite) if self._data.taxonomy else None
        self._model = _open(name, self._data, source)
        self.concurrency = self._model.concurrency
        limit = "the server's" if _is_address(source) else self._data.max_pixels
        self.facts = {"model": self._data.repo or name, "prompt": self._data.prompt, "reader": self._data.reader,
                      "max_tokens": self._data.max_tokens, "max_pixels": limit}

    def judge(self, case: Case, rgb: np.ndarray) -> Judgement:
        prompt = self._build(case.policy, self._suite)
        question = Question(Image.fromarray(rgb), prompt.text, Sampling(0.0, self._data.max_tokens), 0, prompt.system,
                            prompt.template_options)
        try:
            answer = self._model.ask(question)
        except ModelError as error:
            if error.kind in INVALID:
                return Judgement("invalid", note=str(error))
            raise CaseError(str(error), error.kind) from error
        try:
            reading = self._read(answer)
        except VerdictError as error:
            return Judgement("invalid", text=answer, note=str(error))
        if self.taxonomy is None:
            return Judgement(reading.label, None, answer, reading.how)
        violated = self.taxonomy.violated(case, reading.categories)
        return Judgement("unsafe" if violated else "safe", None, answer, ",".join(violated))

    def close(self) -> None:
        self._model.close()


def _is_address(source: str | None) -> bool:
    return source is not None and source.startswith(("http://", "https://"))


def _open(name: str, data: ChatModel, source: str | None) -> Model:
    """Raises BenchmarkError naming what is missing, TrainingError where a model cannot be loaded or reached."""
    if _is_address(source):
        from training.recaption.endpoint import Endpoint
        return Endpoint(data.repo or name, source, CONCURRENCY)
    if data.served_only:
        raise BenchmarkError(f"{name}: {data.served_only}, and name its address: {name}@http://127.0.0.1:8000/v1")
    if source is None and data.repo is None:
        raise BenchmarkError(f"{name}: its weights are not published; train them (docs/training.md) and name the "
                             f"folder: {name}:DIR")
    from training.recaption.local import LocalModel
    return LocalModel(source or data.repo, data.max_pixels)
