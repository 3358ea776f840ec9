"""Other engines that answer the question of decoder.py, each from a model in its own format.

    optimum-cli export openvino --model CHECKPOINT --task image-text-to-text --weight-format int8 OPENVINO
    python -m onnxruntime_genai.models.builder -i CHECKPOINT -o GENAI -p int4 -e cpu

The first needs optimum-intel, openvino, nncf and, at the time of writing, transformers before 5: an environment of its
own. To run the models only openvino-genai and onnxruntime-genai are needed.
"""

from __future__ import annotations

import importlib
import json
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import numpy as np
import typer

System = Callable[[], object]


def openvino(folder: Path, before: str, after: str, side: int, threads: int) -> System:
    """openvino-genai, one token, with its cache of prefixes, which holds the policy.

    side  of the square image, pixels; every call gets an image of its own, or the cache would hold the image, too
    """
    runtime, core = _require("openvino_genai"), _require("openvino")
    caching = runtime.SchedulerConfig()
    caching.enable_prefix_caching, caching.cache_size = True, 1  # GiB
    limits = {"INFERENCE_NUM_THREADS": threads} if threads else {}
    pipeline = runtime.VLMPipeline(str(folder), "CPU", scheduler_config=caching, **limits)
    random = np.random.default_rng(0)
    return lambda: pipeline.generate(
        f"{before}<ov_genai_image_0>{after}", max_new_tokens=1, do_sample=False,
        images=[core.Tensor(random.integers(0, 256, (1, side, side, 3), np.uint8))])


def genai(folder: Path, ids: list[int], cached: int, threads: int) -> System:
    """onnxruntime-genai on the decoder alone: what comes after the first `cached` tokens is read over their cache, and
    then taken back. The image's places are read as words, so that no encoder is needed: less than the question asks."""
    runtime = _require("onnxruntime_genai")
    config = runtime.Config(str(folder))
    if threads:
        config.overlay(json.dumps({"model": {"decoder": {"session_options": {"intra_op_num_threads": threads}}}}))
    model = runtime.Model(config)
    settings = runtime.GeneratorParams(model)
    settings.set_search_options(max_length=len(ids) + 1, do_sample=False)
    generator = runtime.Generator(model, settings)
    generator.append_tokens(np.array(ids[:cached], np.int32))

    def over_cache() -> np.ndarray:
        generator.append_tokens(np.array(ids[cached:], np.int32))
        logits = generator.get_logits()
        generator.rewind_to(cached)
        return logits
    return over_cache


def _require(module: str) -> ModuleType:
    try:
        return importlib.import_module(module)
    except ImportError as error:
        package = module.replace("_", "-")
        raise typer.BadParameter(f"{package} is not installed: pip install {package}") from error
