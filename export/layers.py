"""Layers that graphs share, their weights stored (in, out): each is one MatMul of the exported graph.

Parameters are named as in the checkpoint, so that a weight is found by the name of its initializer.
"""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional

MASKED = -1e9  # finite: a row that is masked whole must not become NaN


class Linear(nn.Module):
    """x (…, inputs) → (…, outputs)."""

    def __init__(self, inputs: int, outputs: int, bias: bool = True) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(inputs, outputs))
        self.bias = nn.Parameter(torch.empty(outputs)) if bias else None

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        product = x @ self.weight
        return product if self.bias is None else product + self.bias


class GatedFeedForward(nn.Module):
    """Of the language models, without biases, and of Qwen2.5-VL's tower."""

    def __init__(self, width: int, inner: int, bias: bool = True) -> None:
        super().__init__()
        self.gate_proj, self.up_proj = Linear(width, inner, bias), Linear(width, inner, bias)
        self.down_proj = Linear(inner, width, bias)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.down_proj(functional.silu(self.gate_proj(x)) * self.up_proj(x))


class RmsNorm(nn.Module):
    """Zhang and Sennrich 2019 (arXiv:1910.07467), without a mean."""

    def __init__(self, width: int, epsilon: float) -> None:
        super().__init__()
        self.weight, self.epsilon = nn.Parameter(torch.empty(width)), epsilon

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        # Written as runtimes know it, which fuse it to one kernel.
        return x / torch.sqrt(x.pow(2).mean(-1, keepdim=True) + self.epsilon) * self.weight


def rotate(x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
    """Rotary position embedding of (…, head), halves paired (Su et al. 2021, arXiv:2104.09864)."""
    first, second = x.chunk(2, -1)
    return x * cos + torch.cat([-second, first], -1) * sin
