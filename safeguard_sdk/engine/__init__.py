"""Engines run a bundle's graphs. One contract, whatever the runtime; files and thresholds are not their business."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from safeguard_sdk.bundle import Bundle
from safeguard_sdk.errors import EngineError


@dataclass(frozen=True)
class ImageEmbedding:
    """One image as the language model reads it; independent of the policy, so it can be kept."""

    tokens: np.ndarray                        # (n, width) float32
    seen: tuple[tuple[str, float], ...] = ()  # what the vision side names, with probabilities; empty if nothing


@dataclass(frozen=True)
class Prefix:
    """The KV cache of one rule's prompt up to the image."""

    keys_values: tuple[np.ndarray, ...]  # 2 · layers arrays (1, heads, length, head width), keys and values in turn
    length: int                          # tokens


class Engine(Protocol):
    bundle: Bundle

    def count_tokens(self, text: str) -> int:
        """Tokens of a text, without special tokens."""

    def read(self, text: str) -> Prefix:
        """Prefill the prompt up to the image. Raises PolicyError if it is too long for the model."""

    def encode(self, pixel_values: np.ndarray) -> list[ImageEmbedding]:
        """(batch, 3, side, side) float32 → one embedding for each image."""

    def pack(self, embedding: ImageEmbedding) -> bytes:
        """An embedding in few bytes, for the same bundle to `unpack` to the same bits, whatever the policy."""

    def unpack(self, packed: bytes) -> ImageEmbedding:
        """What `pack` was given."""

    def score(self, prefix: Prefix, images: Sequence[ImageEmbedding]) -> np.ndarray:
        """(batch, 2) float32 logits of safe and unsafe: one prefill for each image, no token generated. The logits of
        an image do not depend on its neighbours."""


def open_engine(bundle: Bundle, provider: str = "cpu", threads: int = 0) -> Engine:
    """An engine for a bundle. Raises EngineError.

    provider  a key of engine.onnx.PROVIDERS
    threads   0 for all cores
    """
    try:
        from safeguard_sdk.engine.onnx import OnnxEngine  # onnxruntime takes 0.1 s to import
    except ImportError as error:  # not installed, or its libraries do not load
        raise EngineError(f"ONNX Runtime cannot be imported ({error}); install it: pip install 'safeguard[cpu]', or "
                          "'safeguard[gpu]' for an NVIDIA GPU") from error
    return OnnxEngine(bundle, provider, threads)
