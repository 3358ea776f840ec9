"""A model in this process, by Hugging Face transformers: a folder, or a name in its cache or on its hub.

One question after the other. For many photos a server that batches (vLLM) is far faster; see endpoint.py.
"""

from __future__ import annotations

import dataclasses

from training.errors import TrainingError
from training.recaption.models import ModelError, Question, checked_answer


class LocalModel:
    """Not thread-safe: draws from the generator of torch, which each question seeds."""

    concurrency = 1

    def __init__(self, name: str, max_pixels: int | None = None) -> None:
        """max_pixels  of a photo of a Qwen-VL model; None leaves it to the checkpoint"""
        try:
            import torch
            from transformers import AutoModelForImageTextToText, AutoProcessor
        except ImportError as error:
            raise TrainingError(f"the model {name} needs torch and transformers ({error}); install them: "
                                "pip install 'safeguard[train]', or name a served one: MODEL@http://…") from error
        self.name, self._torch = name, torch
        try:
            self._processor = AutoProcessor.from_pretrained(name)
            if max_pixels is not None:
                images = self._processor.image_processor
                images.size = dataclasses.replace(images.size, longest_edge=max_pixels)  # an area, whatever its name
            self._model = AutoModelForImageTextToText.from_pretrained(name, dtype="auto", device_map="auto").eval()
        except (OSError, ValueError, KeyError) as error:
            raise TrainingError(f"{name}: cannot be loaded as a model of images and text "
                                f"({' '.join(str(error).split())[:300]}); give the folder of one") from error

    def ask(self, question: Question) -> str:
        inputs = self._read(question).to(self._model.device, dtype=self._model.dtype)
        sampling = question.sampling
        drawn = {"do_sample": True, "temperature": sampling.temperature, "top_p": 1.0, "top_k": 0} \
            if sampling.temperature else {"do_sample": False, "temperature": None, "top_p": None, "top_k": None}
        self._torch.manual_seed(question.seed)
        with self._torch.inference_mode():
            ids = self._model.generate(**inputs, max_new_tokens=sampling.max_tokens, **drawn)[0]
        ids = ids[inputs["input_ids"].shape[1]:].tolist()
        if ids[-1] not in self._ends():
            raise ModelError(f"the answer was cut off at {sampling.max_tokens} tokens", "truncated")
        return checked_answer(self._processor.decode(ids, skip_special_tokens=True))

    def _read(self, question: Question):
        """What the processor makes of the question: token ids, pixels, and what goes with them."""
        if self._processor.chat_template is None:  # InstructBLIP: no chat model, it goes on from a plain text
            if question.system or question.template_options:
                raise TrainingError(f"{self.name}: has no chat template, so it takes neither a system text nor options")
            return self._processor(images=question.image, text=question.prompt, return_tensors="pt")
        content = [{"type": "image", "image": question.image}, {"type": "text", "text": question.prompt}]
        system = [{"role": "system", "content": [{"type": "text", "text": question.system}]}] if question.system else []
        return self._processor.apply_chat_template(
            [*system, {"role": "user", "content": content}], add_generation_prompt=True, tokenize=True,
            return_dict=True, return_tensors="pt", **question.template_options)

    def close(self) -> None:
        del self._model
        if self._torch.cuda.is_available():
            self._torch.cuda.empty_cache()  # the next model needs the room

    def _ends(self) -> set[int]:
        ends = self._model.generation_config.eos_token_id
        return set(ends) if isinstance(ends, list) else {ends}
