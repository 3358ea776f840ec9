"""What is hard to round in activations, moved into weights: the same function, less lost by int8 rows.

SmoothQuant, Xiao et al. 2022 (arXiv:2211.10438), equation 4: an input is divided by
s = most(x)^share / most(w)^(1 - share) and its weights are multiplied by it. Where the input comes from a norm, the
norm divides; where it is a product with the outputs of another layer, these do.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import nn

from export.decoder import Decoder

SHARE = 0.6   # of the activations' range that moves


@dataclass(frozen=True)
class Inputs:
    """Of one weight of the decoder, over some questions."""

    moments: np.ndarray  # (in, in) mean second moments
    most: np.ndarray     # (in,) largest size of each

    def divided(self, by: np.ndarray) -> Inputs:
        return Inputs(self.moments / np.outer(by, by), self.most / by)


def smooth(decoder: Decoder, inputs: dict[str, Inputs]) -> dict[str, Inputs]:
    """Smooth all layers in place; returns what the inputs of its weights have become, by the names of the graph."""
    after = dict(inputs)
    with torch.no_grad():
        for number, layer in enumerate(decoder.layers):
            norms = {"qkv_proj": layer.attention_norm, "gate_up_proj": layer.feed_forward_norm}
            for name, weight in layer.weights.items():
                if name == "o_proj":  # its inputs are mixed by attention, for three heads from one value each
                    continue
                key = f"layers.{number}.weights.{name}"
                factors = _factors(inputs[key].most, weight)
                weight *= factors[:, None]
                if name == "down_proj":
                    ups = layer.weights["gate_up_proj"].shape[1] // 2
                    layer.weights["gate_up_proj"][:, ups:] /= factors
                else:
                    norms[name].weight /= factors
                after[key] = inputs[key].divided(factors.numpy())
    return after


def _factors(most: np.ndarray, weight: nn.Parameter) -> torch.Tensor:
    """(in,) the s of each input."""
    activations = torch.from_numpy(most).float().clamp(min=1e-5)
    weights = weight.abs().amax(1).clamp(min=1e-5)
    return activations**SHARE / weights**(1 - SHARE)
