"""Engines run a bundle's graphs. One contract, whatever the runtime; files and thresholds are not their business."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import numpy as np

from safeguard_sdk.bundle import Bundle
from safeguard_sdk.errors import EngineError, PolicyError

if TYPE_CHECKING:
    from safeguard_sdk.engine.session import Graph
    from safeguard_sdk.engine.tensorrt import EngineGraph

ITEM_BYTES = {"tensor(float)": 4, "tensor(float16)": 2, "tensor(bfloat16)": 2}  # of ONNX Runtime's names of types


@dataclass(frozen=True)
class ImageEmbedding:
    """One image as the language model reads it; independent of the policy, so it can be kept."""

    tokens: np.ndarray                        # (n, width) float32
    seen: tuple[tuple[str, float], ...] = ()  # what the vision side names, with probabilities; empty if nothing


@dataclass(frozen=True)
class Prefix:
    """The KV cache of one rule's prompt up to the image."""

    keys_values: tuple  # 2 · layers arrays or values on a device (1, heads, length, head width), keys, values in turn
    length: int         # tokens

    @property
    def nbytes(self) -> int:
        """Memory that it takes, here or on its device."""
        return sum(map(_nbytes, self.keys_values))


class Engine(Protocol):
    bundle: Bundle

    @property
    def providers(self) -> dict[str, list[str]]:
        """What each graph runs on, first choice first."""

    def count_tokens(self, text: str) -> int:
        """Tokens of a text, without special tokens."""

    def read(self, text: str) -> Prefix:
        """Prefill the prompt up to the image. Raises PolicyError if it is too long for the model."""

    def encode(self, images: Sequence) -> list[ImageEmbedding]:
        """Images as `image.to_model_input` gives them for the bundle's geometry → one embedding each."""

    def pack(self, embedding: ImageEmbedding) -> bytes:
        """An embedding in few bytes, for the same bundle to `unpack` to the same bits, whatever the policy."""

    def unpack(self, packed: bytes) -> ImageEmbedding:
        """What `pack` was given."""

    def score(self, prefix: Prefix, images: Sequence[ImageEmbedding]) -> np.ndarray:
        """(batch, 2) float32 logits of safe and unsafe: one prefill for each image, no token generated. The logits of
        an image do not depend on its neighbours."""

    def explain(self, prefix: Prefix, image: ImageEmbedding, question: str | None = None) -> Iterator[str]:
        """Why, or the answer to a question about the image, piece by piece; never what a verdict is made from.
        Raises EngineError if the bundle cannot."""


def _nbytes(value: object) -> int:
    if hasattr(value, "nbytes"):
        return value.nbytes
    return math.prod(value.shape()) * ITEM_BYTES[value.data_type()]  # ONNX Runtime's


def refuse_longer(length: int, bundle: Bundle) -> None:
    """Raise PolicyError for a text of more tokens than the bundle reads."""
    if length > bundle.max_policy_tokens:
        raise PolicyError(f"the text is {length} tokens long, {bundle.name} reads at most {bundle.max_policy_tokens}; "
                          "shorten it or split it into several rules")


def open_engine(bundle: Bundle, provider: str = "cpu", threads: int = 0, engines: Path | None = None) -> Engine:
    """An engine for a bundle. Raises EngineError.

    provider  a key of engine.session.PROVIDERS
    threads   0 for all cores
    engines   folder of TensorRT engines of this bundle, which then run in place of ONNX Runtime
    """
    if threads < 0:
        raise EngineError(f"threads is {threads}, must be 0 for all cores, or a number of threads")
    if engines is not None and bundle.architecture != "qwen-vl":
        raise EngineError(f"{bundle.name} runs in ONNX Runtime only; leave out the folder of engines")
    open_graph = _engine_graphs(bundle, engines) if engines is not None else _onnx_graphs(bundle, provider, threads)
    from safeguard_sdk.engine.onnx import OnnxEngine
    from safeguard_sdk.engine.qwen_vl import QwenVlEngine
    engine_of = {"tags": OnnxEngine, "qwen-vl": QwenVlEngine}  # as bundle.ARCHITECTURES has them
    return engine_of[bundle.architecture](bundle, open_graph)


def _onnx_graphs(bundle: Bundle, provider: str, threads: int) -> Callable[[str], Graph]:
    try:
        import onnxruntime  # noqa: F401, takes 0.1 s, so not before it is needed
    except ImportError as error:  # not installed, or its libraries do not load
        raise EngineError(f"ONNX Runtime cannot be imported ({error}); install it: pip install 'safeguard[cpu]', or "
                          "'safeguard[gpu]' for an NVIDIA GPU") from error
    from safeguard_sdk.engine.session import Graph
    return lambda name: Graph(bundle.path / f"{name}.onnx", provider, threads)


def _engine_graphs(bundle: Bundle, folder: Path) -> Callable[[str], EngineGraph]:
    from safeguard_sdk.engine.tensorrt import EngineFolder, EngineGraph
    return partial(EngineGraph, EngineFolder.open(folder, bundle))
