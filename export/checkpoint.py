"""A trained nano as it left training, in fp32 PyTorch: the reference that a bundle is measured against."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import nn
from transformers import PreTrainedTokenizerBase

from export.decoder import WEIGHTS
from export.smoothing import Inputs
from safeguard_sdk.engine.tags import TagTable, image_tokens
from training.nano.reader import STYLE, collate
from training.nano.start import open_start
from training.nano.tags import Head, Tagger
from training.nano.vision import FEATURES, Eye


class Sight(nn.Module):
    """(batch, 3, side, side) pixel values → (batch, tags) probabilities: the eye and its tagger in one."""

    def __init__(self, tagger: Tagger) -> None:
        super().__init__()
        self.eye, self.tagger = Eye(), tagger

    def forward(self, pixel_values: torch.Tensor) -> torch.Tensor:
        return self.tagger(self.eye(pixel_values))


class Checkpoint:
    """What `training nano` has written to a folder, adapters merged."""

    def __init__(self, run: Path) -> None:
        state = torch.load(run / "reader.pt", weights_only=True)
        self.recipe: dict = state["recipe"]
        self.tokenizer: PreTrainedTokenizerBase
        self.origin: dict | None  # of the bundle that the run has started from
        self.tokenizer, reader, self.origin = open_start(run, run.parent / "assets", self.recipe["layers"],
                                                         self.recipe["rank"])
        reader.float()
        missing = reader.load_state_dict(state["reader"], strict=False).unexpected_keys
        if missing:
            raise ValueError(f"{run / 'reader.pt'}: holds {missing[:3]}…, unknown to this version of the reader")
        reader.model = reader.model.merge_and_unload()
        self.reader = reader.eval()
        self.sight = Sight(_load_tagger(run / "tagger.pt")).eval()

    @property
    def table(self) -> TagTable:
        return self.sight.tagger.table

    def logits(self, texts: Sequence[str], pixel_values: Sequence[np.ndarray]) -> np.ndarray:
        """(n,) logit that image i breaks the policy of text i, one forward pass each."""
        answers = np.empty(len(texts))
        with torch.inference_mode():
            for row, (text, pixels) in enumerate(zip(texts, pixel_values, strict=True)):
                probabilities = self.sight(torch.from_numpy(pixels[None]))[0].numpy()
                tags = image_tokens(self.table.select(probabilities), self._encode)
                batch = collate([(self._encode(STYLE.prefix(text)), [tags], [False])], self._encode(STYLE.suffix))
                answers[row] = self.reader(batch).item()
        return answers

    def inputs(self, texts: Sequence[str], pixel_values: Sequence[np.ndarray]) -> dict[str, Inputs]:
        """Weight of the decoder graph → what its inputs are like over these questions."""
        moments: dict[str, torch.Tensor] = {}
        most: dict[str, torch.Tensor] = {}
        counts: dict[str, int] = {}

        def watch(name: str):
            def add(_, given: tuple[torch.Tensor, ...]) -> None:
                rows = given[0].flatten(0, -2).float()
                moments[name] = moments.get(name, 0) + rows.T @ rows
                most[name] = torch.maximum(most.get(name, torch.zeros(1)), rows.abs().amax(0))
                counts[name] = counts.get(name, 0) + len(rows)
            return add

        hooks = [getattr(getattr(layer, part), linears[0]).register_forward_pre_hook(
                     watch(f"layers.{number}.weights.{name}"))
                 for number, layer in enumerate(self.reader.model.layers)
                 for name, (part, linears) in WEIGHTS.items()]
        self.logits(texts, pixel_values)
        for hook in hooks:
            hook.remove()
        return {name: Inputs((total / counts[name]).numpy(), most[name].numpy()) for name, total in moments.items()}

    @property
    def embeddings(self) -> np.ndarray:
        """(vocabulary, width) float32."""
        return self.reader.model.get_input_embeddings().weight.detach().float().numpy()

    def _encode(self, text: str) -> list[int]:
        return self.tokenizer.encode(text, add_special_tokens=False)


def _load_tagger(path: Path) -> Tagger:
    state = torch.load(path, weights_only=True)
    table = TagTable(**{name: tuple(column) for name, column in state["table"].items()})
    head = Head(state["head"]["layers.4.bias"].shape[0], torch.zeros(FEATURES), torch.ones(FEATURES))
    head.load_state_dict(state["head"])
    return Tagger(table, state["groups"], head)
