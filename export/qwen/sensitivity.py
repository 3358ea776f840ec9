"""Which layers int8 by rows would spoil, measured on the checkpoint's own activations.

A few values far beyond the others leave int8 few levels for the rest of their row; Qwen2.5-VL has such rows, mostly in
front of down_proj. Layers that lose more than LOSS of their output are stored as w8a16 stores them: a CPU rounds their
activations in blocks of 128, each with a scale of its own, and a GPU does not round them.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn

from export.qwen.reference import Reference
from export.qwen.weights import canonical

LOSS = 0.01     # share of the output's energy: error² / output²
QUESTIONS = 4   # that are asked to see activations


def losses(reference: Reference, texts: Sequence[str], images: Sequence) -> dict[str, float]:
    """Name of a linear layer's weight → share of its output's energy that int8 by rows loses on these questions."""
    error: dict[str, float] = {}
    energy: dict[str, float] = {}

    def watch(name: str):
        def measure(module: nn.Linear, inputs: tuple[torch.Tensor, ...], output: torch.Tensor) -> None:
            x, weight = inputs[0].flatten(0, -2), module.weight
            exact = x @ weight.T
            error[name] = error.get(name, 0) + float((_rounded(x) @ _rounded(weight).T - exact).square().sum())
            energy[name] = energy.get(name, 0) + float(exact.square().sum())
        return measure

    hooks = [module.register_forward_hook(watch(f"{canonical(name)}.weight"), prepend=True)  # before it forgets
             for name, module in reference.model.named_modules() if isinstance(module, nn.Linear)]
    reference.logits(texts, images)
    for hook in hooks:
        hook.remove()
    return {name: error[name] / max(energy[name], 1e-30) for name in error}


def sensitive(found: dict[str, float]) -> frozenset[str]:
    return frozenset(name for name, loss in found.items() if not loss <= LOSS)


def _rounded(rows: torch.Tensor) -> torch.Tensor:
    """As w8a8 stores rows of activations and of weights; see store.py."""
    scale = rows.abs().amax(-1, keepdim=True).clamp(min=1e-12) / 127
    return torch.round(rows / scale) * scale
