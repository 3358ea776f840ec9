"""4-bit weights of the language model, rounded while transformers runs it on a few questions.

Each layer is read once. Its inputs are what the layers before it, rounded already, make of the questions, and its
weights are rounded in turn to lose little on these (GPTQ, see export/gptq.py). On nano that halved the drift of scores.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from torch import nn

from export.quantize import quantize_blocks_in_turn, write_blocks
from export.qwen.reference import Reference
from export.qwen.store import BLOCKS, kind_of

BITS = 4
QUESTIONS = 8  # in one batch, since weights are read once for each; more need more memory than the gate


def round_layers(reference: Reference, texts: Sequence[str], images: Sequence, folder: Path,
                 advance: Callable[[int], None]) -> dict[str, Path]:
    """Name of a weight that w4a16 stores in 4 bits → a file in `folder`, for store.Source.rounded.

    texts, images  as of Reference.logits; the fewer, the less can be made good
    advance        is told how many weights have been rounded, for a progress bar
    """
    files: dict[str, Path] = {}

    def round_to(name: str):
        def round_weight(module: nn.Linear, inputs: tuple[torch.Tensor, ...]) -> None:
            rows = inputs[0].flatten(0, -2)[reference.real.flatten()]
            weight = module.weight.numpy().T
            blocks = quantize_blocks_in_turn(weight, BITS, BLOCKS[BITS], rows.numpy())
            files[name] = folder / f"{name}.npz"
            write_blocks(blocks, files[name])
            rounded = torch.from_numpy(blocks.weight[:len(weight)].T.copy())
            module.weight = nn.Parameter(rounded, requires_grad=False)  # later layers see what it makes of its inputs
            advance(weight.size)
        return round_weight

    hooks = [module.register_forward_pre_hook(round_to(name)) for name, module in layers_of(reference).items()]
    reference.logits(texts, images, together=len(texts))
    for hook in hooks:
        hook.remove()
    return files


def weights_of(reference: Reference) -> int:
    """How many weights round_layers rounds."""
    return sum(module.weight.numel() for module in layers_of(reference).values())


def layers_of(reference: Reference) -> dict[str, nn.Linear]:
    """Name of a weight in the checkpoint → the layer that has it."""
    return {f"{name}.weight": module for name, module in reference.model.language_model.named_modules()
            if isinstance(module, nn.Linear) and kind_of(f"{name}.weight", "w4a16", vision=False) == str(BITS)}
