"""A Qwen-VL bundle: patches become tokens (graph "vision"), and one prefill over the KV cache of a rule gives the
verdict ("decoder"). Text is written on the same cache, with "lm_head", and only when asked for. Graphs run in ONNX
Runtime (session.py) or as TensorRT engines (tensorrt.py)."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np

from safeguard_sdk.bundle import Bundle
from safeguard_sdk.engine import ImageEmbedding, Prefix, grids, refuse_longer
from safeguard_sdk.errors import BundleError, EngineError, VerdictError

if TYPE_CHECKING:
    from safeguard_sdk.engine.session import Graph
    from safeguard_sdk.engine.tensorrt import EngineGraph

LENGTH_STEP = 16     # images are padded to multiples of this many tokens, so that those of like length run together
READ_STEP = 512      # tokens of a policy that are read at a time
SCORES = 1 << 24     # of attention, for each head, that are in memory at a time: with 16 heads 1 GB in float32
MAX_NEW_TOKENS = 512  # of a text


@dataclass(frozen=True)
class ChatTurns:
    """The model's chat format around the parts of a prompt, as token ids; see prompt.PromptStyle."""

    before: tuple[int, ...]        # to the start of the user's turn
    before_image: tuple[int, ...]
    after_image: tuple[int, ...]
    after: tuple[int, ...]         # from the end of the user's turn to the start of the model's
    stop: tuple[int, ...]          # any of these ends what the model writes


@dataclass(frozen=True)
class TokenEmbedding(ImageEmbedding):
    """An image as tokens of the language model."""

    grid: tuple[int, int] = (0, 0)             # of tokens; rows · columns = n
    deepstack: tuple[np.ndarray, ...] = ()     # (n, width) float32 each: what the first layers add, Qwen3-VL


class QwenVlEngine:
    """Thread-safe: sessions may run concurrently, and nothing else changes after construction."""

    def __init__(self, bundle: Bundle, open_graph: Callable[[str], Graph | EngineGraph]) -> None:
        self.bundle = bundle
        self._vision, self._decoder = open_graph("vision"), open_graph("decoder")
        self._head = open_graph("lm_head") if (bundle.path / "lm_head.onnx").is_file() else None
        self._tokenizer = bundle.read_tokenizer()
        try:
            self._table = np.load(bundle.path / "embeddings.npy", mmap_mode="r", allow_pickle=False)
            self._turns = ChatTurns(**{name: tuple(ids) for name, ids in bundle.manifest["chat"].items()})
            self._window, self._side = (bundle.manifest["vision"][name] for name in ("window", "position_side"))
        except (OSError, KeyError, TypeError, ValueError) as error:
            raise BundleError(f"{bundle.path}: {type(error).__name__} {error}; the bundle is incomplete, export it "
                              "again") from error
        self._past = [name for name in self._decoder.inputs if name.startswith("past_")]
        self._present = [name.replace("past_", "present_", 1) for name in self._past]
        self._added = [name for name in self._decoder.inputs if name.startswith("deepstack.")]
        self._geometry_of = lru_cache(maxsize=256)(self._patch_geometry)

    @property
    def providers(self) -> dict[str, list[str]]:
        """The execution providers that each graph runs on, first choice first."""
        graphs = {"vision": self._vision, "decoder": self._decoder, "lm_head": self._head}
        return {name: graph.providers for name, graph in graphs.items() if graph is not None}

    def count_tokens(self, text: str) -> int:
        return len(self._encode_text(text))

    def read(self, text: str) -> Prefix:
        ids = self._encode_text(text)
        refuse_longer(len(ids), self.bundle)
        ids = [*self._turns.before, *ids, *self._turns.before_image]
        shape = self._decoder.inputs[self._past[0]]
        cache = [self._decoder.place(np.zeros((1, shape[1], 0, shape[3]), np.float32))] * len(self._past)
        for start in range(0, len(ids), READ_STEP):
            part = ids[start:start + READ_STEP]
            positions = np.broadcast_to(start + np.arange(len(part)), (3, 1, len(part)))
            cache = self._decode(self._embed(part)[None], positions, cache, self._present)
        return Prefix(tuple(cache), len(ids))

    def encode(self, images: Sequence[tuple[np.ndarray, tuple[int, int, int]]]) -> list[TokenEmbedding]:
        found: dict[int, TokenEmbedding] = {}
        sizes = [grid[1:] for _, grid in images]
        for size in sorted(set(sizes)):  # those of one size run together: nothing is padded, nothing masked
            alike = [row for row, one in enumerate(sizes) if one == size]
            for rows in _in_memory(alike, (size[0] * size[1]) ** 2, self._vision.most_rows):
                found |= zip(rows, self._encode_grid(np.stack([images[row][0] for row in rows]), size), strict=True)
        return [found[row] for row in range(len(images))]

    def pack(self, embedding: TokenEmbedding) -> bytes:
        file = io.BytesIO()
        np.savez(file, embedding.tokens, np.array(embedding.grid), *embedding.deepstack)
        return file.getvalue()

    def unpack(self, packed: bytes) -> TokenEmbedding:
        with np.load(io.BytesIO(packed), allow_pickle=False) as arrays:
            tokens, grid, *deepstack = (arrays[f"arr_{number}"] for number in range(len(arrays.files)))
        return TokenEmbedding(tokens, grid=(int(grid[0]), int(grid[1])), deepstack=tuple(deepstack))

    def score(self, prefix: Prefix, images: Sequence[TokenEmbedding]) -> np.ndarray:
        logits = np.empty((len(images), 2), np.float32)
        after = self.after_image(self.bundle.style.suffix, self.bundle.style.answer_start)
        padded = [-(-(len(image.tokens) + len(after)) // LENGTH_STEP) * LENGTH_STEP for image in images]
        for length in sorted(set(padded)):
            alike = [row for row, one in enumerate(padded) if one == length]
            for rows in _in_memory(alike, length * (prefix.length + length), self._decoder.most_rows):
                (logits[rows],) = self._prefill(prefix, [images[row] for row in rows], after, length,
                                                ["verdict_logits"])
        return logits

    def explain(self, prefix: Prefix, image: TokenEmbedding, question: str | None = None) -> Iterator[str]:
        """What the model itself says, greedily: token for token what `generate` of transformers gives. At most
        MAX_NEW_TOKENS; it starts with the style's `answer_start`, which is the model's as well."""
        if self._head is None:
            raise EngineError(f"{self.bundle.name} was exported without lm_head.onnx, so it writes no text; export it "
                              "again with --text")
        start = "" if question is not None else self.bundle.style.answer_start
        if start:
            yield start
        written = ""
        ids: list[int] = []
        for token in self._generate(prefix, image, self.bundle.style.suffix if question is None else question, start):
            ids.append(token)
            text = self._tokenizer.decode(ids, skip_special_tokens=True)
            if not text.endswith("\ufffd"):  # else a character is not complete yet
                yield text.removeprefix(written)
                written = text
        if ids and (rest := self._tokenizer.decode(ids, skip_special_tokens=True).removeprefix(written)):
            yield rest

    def _generate(self, prefix: Prefix, image: TokenEmbedding, asked: str, start: str) -> Iterator[int]:
        after = self.after_image(asked, start)
        length = len(image.tokens) + len(after)
        results = ["last_state", *self._present]
        state, *cache = self._prefill(prefix, [image], after, length, results)
        position = prefix.length + max(image.grid) + len(after)
        for place in range(MAX_NEW_TOKENS):
            (logits,) = self._head.run({"state": state}, ["logits"])
            if not np.isfinite(logits).all():
                raise VerdictError(f"lm_head.onnx of {self.bundle.name} gave logits that are no numbers; the bundle or "
                                   "its runtime is broken, run `safeguard info`")
            token = int(logits[0].argmax())
            if token in self._turns.stop:
                return
            yield token
            if place + 1 < MAX_NEW_TOKENS:
                positions = np.full((3, 1, 1), position + place, np.int64)
                state, *cache = self._decode(self._embed([token])[None], positions, cache, results)

    def after_image(self, asked: str, start: str) -> list[int]:
        """Tokens from the image to where the model goes on: what is asked, and how its turn starts."""
        return [*self._turns.after_image, *self._encode_text(asked), *self._turns.after, *self._encode_text(start)]

    def _prefill(self, prefix: Prefix, images: list[TokenEmbedding], after: list[int], length: int,
                 results: list[str]) -> list:
        """Images and the text after them, padded to one length, over a rule's cache. The padding stands in front, so
        the result is that of the last position; how much there is depends on the image alone."""
        width = self._table.shape[1]
        embeddings = np.zeros((len(images), length, width), np.float32)
        added = np.zeros((len(self._added), *embeddings.shape), np.float32)
        positions = np.zeros((3, len(images), length), np.int64)
        padding = np.empty(len(images), np.int64)
        text = self._embed(after)
        for row, image in enumerate(images):
            start, end = length - len(after) - len(image.tokens), length - len(after)
            embeddings[row, start:end], embeddings[row, end:] = image.tokens, text
            positions[:, row, start:] = grids.token_positions(image.grid, prefix.length, len(after))
            padding[row] = start
            for layer, features in enumerate(image.deepstack):
                added[layer, row, start:end] = features
        return self._decode(embeddings, positions, prefix.keys_values, results, padding, added)

    def _decode(self, embeddings: np.ndarray, positions: np.ndarray, past: Sequence, results: list[str],
                padding: np.ndarray | None = None, added: np.ndarray | None = None) -> list:
        batch = len(embeddings)
        feeds = {"inputs_embeds": embeddings, "position_ids": positions,
                 "padding": np.zeros(batch, np.int64) if padding is None else padding,
                 **dict(zip(self._past, past, strict=True))}
        for layer, name in enumerate(self._added):
            feeds[name] = np.zeros_like(embeddings) if added is None else added[layer]
        return self._decoder.run(feeds, results, kept=self._present)

    def _encode_grid(self, pixel_values: np.ndarray, grid: tuple[int, int]) -> Iterator[TokenEmbedding]:
        """(images, patches, values) of one grid of patches."""
        merge = self.bundle.geometry.merge
        features = [f"deepstack.{layer}" for layer in range(len(self._added))]
        tokens, *deepstack = self._vision.run({"pixel_values": pixel_values, **self._geometry_of(grid)},
                                              ["image_embeds", *features])
        if not all(np.isfinite(one).all() for one in (tokens, *deepstack)):
            raise VerdictError(f"the vision graph of {self.bundle.name} gave tokens that are no numbers; the bundle or "
                               "its runtime is broken, run `safeguard info`")
        for row in range(len(pixel_values)):
            yield TokenEmbedding(tokens[row], grid=(grid[0] // merge, grid[1] // merge),
                                 deepstack=tuple(layer[row] for layer in deepstack))

    def _patch_geometry(self, grid: tuple[int, int]) -> dict[str, np.ndarray]:
        positions = grids.patch_positions(grid, self.bundle.geometry.merge)
        feeds = {"positions": positions}
        if self._window is not None:
            names = ("window_slots", "window_bias", "window_places")
            feeds |= zip(names, grids.windows(positions, self._window), strict=True)
        if self._side is not None:
            names = ("position_entries", "position_weights")
            feeds |= zip(names, grids.position_corners(positions, grid, self._side), strict=True)
        return feeds

    def _embed(self, ids: Sequence[int]) -> np.ndarray:
        """(tokens, width) float32."""
        return self._table[np.asarray(ids, np.int64)].astype(np.float32)

    def _encode_text(self, text: str) -> list[int]:
        return self._tokenizer.encode(text, add_special_tokens=False).ids


def _in_memory(rows: list[int], scores: int, most: int) -> Iterator[list[int]]:
    """Rows that run together, at most so many; scores: of attention for each of them."""
    step = min(most, max(1, SCORES // scores))
    return (rows[start:start + step] for start in range(0, len(rows), step))
