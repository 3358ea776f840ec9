"""A bundle in ONNX Runtime: pictures become tags (vision.onnx), tags become tokens (embed.onnx), and one prefill over
the KV cache of a rule gives the verdict (decoder.onnx)."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np

from safeguard_sdk.bundle import Bundle
from safeguard_sdk.engine import ImageEmbedding, Prefix, refuse_longer
from safeguard_sdk.engine.grids import MASKED
from safeguard_sdk.engine.tags import KNOTS, TagTable, image_tokens, knot_weights
from safeguard_sdk.errors import EngineError, VerdictError

if TYPE_CHECKING:
    from safeguard_sdk.engine.session import Graph

LENGTH_STEP = 8      # images are padded to multiples of this, so that those of like length run together


class OnnxEngine:
    """Thread-safe: sessions may run concurrently, and nothing else changes after construction."""

    def __init__(self, bundle: Bundle, open_graph: Callable[[str], Graph]) -> None:
        self.bundle = bundle
        with ThreadPoolExecutor() as beside:  # a graph is loaded without the GIL, a tokenizer with it
            tokenizer = beside.submit(bundle.read_tokenizer)
            self._vision, self._embed, self._decoder = beside.map(open_graph, ("vision", "embed", "decoder"))
        side, graph = bundle.geometry.side, self._vision.inputs["pixel_values"]
        if graph[2:] != (side, side):
            raise EngineError(f"{bundle.path / 'vision.onnx'}: takes pictures of {graph[2]} × {graph[3]}, the manifest "
                              f"says {side} × {side}; export the bundle again")
        self._tokenizer = tokenizer.result()
        self._table = TagTable.read(bundle.path / "tags.json")
        self._tokens_of = lru_cache(maxsize=8192)(self._encode_text)
        self._past = [name for name in self._decoder.inputs if name.startswith("past_")]
        self._present = [name.replace("past_", "present_", 1) for name in self._past]

    @property
    def providers(self) -> dict[str, list[str]]:
        """The execution providers that each graph runs on, first choice first."""
        graphs = {"vision": self._vision, "embed": self._embed, "decoder": self._decoder}
        return {name: graph.providers for name, graph in graphs.items()}

    def count_tokens(self, text: str) -> int:
        return len(self._encode_text(text))

    def read(self, text: str) -> Prefix:
        ids = np.array([self._encode_text(text)], dtype=np.int64)
        length = ids.shape[1]
        refuse_longer(length, self.bundle)
        _, heads, _, width = self._decoder.inputs[self._past[0]]
        empty = dict.fromkeys(self._past, np.zeros((1, heads, 0, width), np.float32))
        causal = np.triu(np.full((length, length), MASKED, np.float32), 1)[None, None]
        keys_values = self._decoder.run({
            "inputs_embeds": self._embeddings(ids, np.zeros((1, length, len(KNOTS)), np.float32)),
            "position_ids": np.arange(length)[None], "attention_bias": causal, **empty}, self._present, self._present)
        return Prefix(tuple(keys_values), length)

    def encode(self, images: Sequence[np.ndarray]) -> list[ImageEmbedding]:
        (rows,) = self._vision.run({"pixel_values": np.asarray(images)}, ["probabilities"])
        if not np.isfinite(rows).all():  # else such a picture would be one in which nothing is seen
            raise VerdictError(f"the vision graph of {self.bundle.name} gave probabilities that are no numbers; "
                               "the bundle or its runtime is broken, run `safeguard info`")
        return [self._embed_tags(self._table.select(probabilities)) for probabilities in rows]

    def pack(self, embedding: ImageEmbedding) -> bytes:
        return json.dumps(embedding.seen).encode()  # the tags say all, and JSON keeps a float to the last bit

    def unpack(self, packed: bytes) -> ImageEmbedding:
        return self._embed_tags([(name, probability) for name, probability in json.loads(packed)])

    def score(self, prefix: Prefix, images: Sequence[ImageEmbedding]) -> np.ndarray:
        logits = np.empty((len(images), 2), np.float32)
        padded = [-(-len(image.tokens) // LENGTH_STEP) * LENGTH_STEP for image in images]
        for length in sorted(set(padded)):
            rows = [row for row, one in enumerate(padded) if one == length]
            logits[rows] = self._prefill(prefix, [images[row].tokens for row in rows], length)
        return logits

    def explain(self, prefix: Prefix, image: ImageEmbedding, question: str | None = None) -> Iterator[str]:
        """What the picture was judged by; this model writes no text of its own."""
        if question is not None:
            raise EngineError(f"{self.bundle.name} answers no questions, it writes no text; ask a bundle that does, "
                              "exported from a Qwen-VL checkpoint")
        seen = ", ".join(f"{name} ({probability:.0%})" for name, probability in image.seen)
        yield f"Seen in the picture: {seen}." if seen else "Nothing in the picture was recognised."

    def _prefill(self, prefix: Prefix, images: list[np.ndarray], length: int) -> np.ndarray:
        """Logits of images padded to one length. The padding stands before the image, so the verdict is read off the
        last position; how much there is depends on the image alone."""
        width = images[0].shape[1]
        embeddings = np.zeros((len(images), length, width), np.float32)
        positions = np.zeros((len(images), length), np.int64)
        bias = np.zeros((len(images), 1, length, prefix.length + length), np.float32)
        bias[:, :, :, prefix.length:] = np.triu(np.full((length, length), MASKED, np.float32), 1)
        for row, tokens in enumerate(images):
            start = length - len(tokens)
            embeddings[row, start:] = tokens
            positions[row, start:] = prefix.length + np.arange(len(tokens))
            bias[row, :, :, prefix.length:prefix.length + start] = MASKED
        (logits,) = self._decoder.run({"inputs_embeds": embeddings, "position_ids": positions, "attention_bias": bias,
                                       **dict(zip(self._past, prefix.keys_values, strict=True))}, ["verdict_logits"])
        return logits

    def _embed_tags(self, tags: list[tuple[str, float]]) -> ImageEmbedding:
        ids, probabilities = image_tokens(tags, self._tokens_of)
        suffix = self._tokens_of(self.bundle.style.suffix)
        knots = np.zeros((1, len(ids) + len(suffix), len(KNOTS)), np.float32)
        knots[0, :len(ids)] = knot_weights(probabilities)
        tokens = self._embeddings(np.array([[*ids, *suffix]], dtype=np.int64), knots)[0]
        return ImageEmbedding(tokens, tuple(tags))

    def _embeddings(self, ids: np.ndarray, knots: np.ndarray) -> np.ndarray:
        (rows,) = self._embed.run({"ids": ids, "knots": knots}, ["embeddings"])
        return rows

    def _encode_text(self, text: str) -> list[int]:
        return self._tokenizer.encode(text, add_special_tokens=False).ids
