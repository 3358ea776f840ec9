"""A checkpoint as transformers runs it, in fp32: what a bundle is measured against.

The model has no weights of its own: each layer reads its weights when it runs and forgets them, so that a 7B checkpoint
is judged in a few GB of memory. All questions of a batch share one reading.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import nn
from transformers import AutoConfig, AutoModel, PreTrainedTokenizerBase

from export.qwen.weights import Weights, canonical
from safeguard_sdk.engine.qwen_vl import ChatTurns
from safeguard_sdk.prompt import PromptStyle

BATCH = 8  # questions at a time; more need more memory and read the weights less often


class Rows(nn.Module):
    """The table of embeddings, of which only the rows that are asked for are read."""

    def __init__(self, weights: Weights) -> None:
        super().__init__()
        self.weights = weights
        self.weight = torch.empty(0)  # transformers looks at its type and device

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        distinct, place = ids.unique(return_inverse=True)
        rows = [self.weights.rows("embed_tokens.weight", row, row + 1) for row in distinct.tolist()]
        return torch.cat(rows)[place]


class Reference:
    def __init__(self, weights: Weights, tokenizer: PreTrainedTokenizerBase, turns: ChatTurns, style: PromptStyle,
                 verdict: tuple[int, int], head: str) -> None:
        config = AutoConfig.from_pretrained(weights.folder, local_files_only=True)
        self.tokenizer, self.turns, self.style, self.image_token = tokenizer, turns, style, config.image_token_id
        self.real = torch.zeros(0, 0, dtype=torch.bool)  # positions of the batch at hand that no padding fills
        self.verdict = torch.cat([weights.rows(head, row, row + 1) for row in verdict])
        with torch.device("meta"):
            self.model = AutoModel.from_config(config, dtype=torch.float32).eval()
        for name, module in list(self.model.named_modules()):
            if hasattr(module, "inv_freq"):  # computed when it is made, so on no device yet
                self.model.set_submodule(name, type(module)(module.config))
        self.model.language_model.embed_tokens = Rows(weights)
        for name, module in self.model.named_modules():
            if any(True for _ in module.parameters(recurse=False)):
                module.register_forward_pre_hook(_read(weights, canonical(name)))
                module.register_forward_hook(_forget)

    def logits(self, texts: Sequence[str], images: Sequence[tuple[np.ndarray, tuple[int, int, int]]],
               together: int = BATCH) -> np.ndarray:
        """(n, 2) logits of safe and unsafe of image i under the policy of text i. together: questions of a batch"""
        rows = [self._logits(texts[start:start + together], images[start:start + together])
                for start in range(0, len(texts), together)]
        return np.concatenate(rows)

    def input_ids(self, text: str, grid: tuple[int, int, int], merge: int) -> list[int]:
        """The whole prompt, the image's tokens included."""
        tokens = grid[1] * grid[2] // merge**2
        return [*self.turns.before, *self._encode(text), *self.turns.before_image, *[self.image_token] * tokens,
                *self.turns.after_image, *self._encode(self.style.suffix), *self.turns.after,
                *self._encode(self.style.answer_start)]

    def _logits(self, texts, images) -> np.ndarray:
        merge = self.model.config.vision_config.spatial_merge_size
        prompts = [self.input_ids(text, grid, merge) for text, (_, grid) in zip(texts, images, strict=True)]
        length = max(map(len, prompts))
        ids, mask = (torch.zeros(len(prompts), length, dtype=torch.long) for _ in range(2))
        for row, prompt in enumerate(prompts):
            ids[row, length - len(prompt):], mask[row, length - len(prompt):] = torch.tensor(prompt), 1
        self.real = mask.bool()
        with torch.inference_mode():
            states = self.model(
                input_ids=ids, attention_mask=mask, mm_token_type_ids=(ids == self.image_token).int() * mask,
                pixel_values=torch.from_numpy(np.concatenate([pixels for pixels, _ in images])),
                image_grid_thw=torch.tensor([grid for _, grid in images])).last_hidden_state
            return (states[:, -1] @ self.verdict.T).numpy()

    def _encode(self, text: str) -> list[int]:
        return self.tokenizer.encode(text, add_special_tokens=False, split_special_tokens=True)


def _read(weights: Weights, name: str):
    def read(module: nn.Module, _) -> None:
        for part, _ in list(module.named_parameters(recurse=False)):
            setattr(module, part, nn.Parameter(weights.rows(f"{name}.{part}"), requires_grad=False))
    return read


def _forget(module: nn.Module, *_) -> None:
    for part, parameter in list(module.named_parameters(recurse=False)):
        setattr(module, part, nn.Parameter(torch.empty_like(parameter, device="meta"), requires_grad=False))
