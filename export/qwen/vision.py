"""The vision graph: patches of images of one size → tokens. Equal to transformers' towers (tests/test_qwen_graphs.py).

The patches stay in the order of the processor; windows gather them by an index that the host computes
(safeguard_sdk/engine/grids.py), so that only attention is padded and one graph serves every grid.
"""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional

from export.layers import GatedFeedForward, Linear, RmsNorm, rotate
from export.qwen.shapes import QwenShape, VisionShape

EPSILON = 1e-6  # of every norm of the three towers


class Attention(nn.Module):
    """Over all patches of an image, or over those of each window."""

    def __init__(self, shape: VisionShape) -> None:
        super().__init__()
        self.heads, self.head = shape.heads, shape.head
        self.qkv, self.proj = Linear(shape.width, 3 * shape.width), Linear(shape.width, shape.width)

    def forward(self, x, cos, sin, slots=None, bias=None, places=None):
        """x (B, N, width); cos, sin (N, 1, head); with windows slots and bias (W, L), places (N,)."""
        batch, patches, width = x.shape
        q, k, v = self.qkv(x).view(batch, patches, 3, self.heads, self.head).unbind(2)
        q, k = rotate(q, cos, sin), rotate(k, cos, sin)
        if slots is None:
            q, k, v = (part.transpose(1, 2) for part in (q, k, v))                      # (B, heads, N, head)
            mixed = (q @ k.transpose(-1, -2) * self.head**-0.5).softmax(-1) @ v
            return self.proj(mixed.transpose(1, 2).reshape(batch, patches, width))
        slotted = (batch, *slots.shape, self.heads, self.head)
        q, k, v = (part.index_select(1, slots.flatten()).view(slotted).transpose(2, 3)   # (B, W, heads, L, head)
                   for part in (q, k, v))
        mixed = (q @ k.transpose(-1, -2) * self.head**-0.5 + bias.unsqueeze(1).unsqueeze(1)).softmax(-1) @ v
        mixed = mixed.transpose(2, 3).reshape(batch, slots.shape[0] * slots.shape[1], width)
        return self.proj(mixed.index_select(1, places))


class QuickFeedForward(nn.Module):
    """Qwen2-VL's."""

    def __init__(self, width: int, inner: int) -> None:
        super().__init__()
        self.fc1, self.fc2 = Linear(width, inner), Linear(inner, width)

    def forward(self, x):
        x = self.fc1(x)
        return self.fc2(x * torch.sigmoid(1.702 * x))


class TanhFeedForward(nn.Module):
    """Qwen3-VL's."""

    def __init__(self, width: int, inner: int) -> None:
        super().__init__()
        self.linear_fc1, self.linear_fc2 = Linear(width, inner), Linear(inner, width)

    def forward(self, x):
        return self.linear_fc2(functional.gelu(self.linear_fc1(x), approximate="tanh"))


FEED_FORWARD = {"qwen2_vl": QuickFeedForward, "qwen2_5_vl": GatedFeedForward, "qwen3_vl": TanhFeedForward}


class Block(nn.Module):
    def __init__(self, family: str, shape: VisionShape) -> None:
        super().__init__()
        norm = RmsNorm if family == "qwen2_5_vl" else nn.LayerNorm
        self.norm1, self.norm2 = norm(shape.width, EPSILON), norm(shape.width, EPSILON)
        self.attn, self.mlp = Attention(shape), FEED_FORWARD[family](shape.width, shape.inner)

    def forward(self, x, cos, sin, slots=None, bias=None, places=None):
        """See Attention.forward."""
        x = x + self.attn(self.norm1(x), cos, sin, slots, bias, places)
        return x + self.mlp(self.norm2(x))


class Merger(nn.Module):
    """merge × merge patches that stand together → one token. Of Qwen2-VL and Qwen2.5-VL."""

    def __init__(self, family: str, shape: VisionShape) -> None:
        super().__init__()
        self.inner = shape.width * shape.merge**2
        self.ln_q = (RmsNorm if family == "qwen2_5_vl" else nn.LayerNorm)(shape.width, EPSILON)
        self.mlp = nn.Sequential(Linear(self.inner, self.inner), nn.GELU(), Linear(self.inner, shape.out))

    def forward(self, x):
        return self.mlp(self.ln_q(x).reshape(x.shape[0], -1, self.inner))


class NewMerger(nn.Module):
    """Of Qwen3-VL; those of deepstack norm what they have merged."""

    def __init__(self, shape: VisionShape, norm_merged: bool) -> None:
        super().__init__()
        self.inner, self.norm_merged = shape.width * shape.merge**2, norm_merged
        self.norm = nn.LayerNorm(self.inner if norm_merged else shape.width, EPSILON)
        self.linear_fc1, self.linear_fc2 = Linear(self.inner, self.inner), Linear(self.inner, shape.out)

    def forward(self, x):
        merged = (x.shape[0], -1, self.inner)
        x = self.norm(x.reshape(merged)) if self.norm_merged else self.norm(x).reshape(merged)
        return self.linear_fc2(functional.gelu(self.linear_fc1(x)))


class PatchEmbed(nn.Module):
    """The convolution over one patch, as the product that it is."""

    def __init__(self, family: str, shape: VisionShape) -> None:
        super().__init__()
        self.proj = Linear(shape.patch_values, shape.width, bias=family == "qwen3_vl")


class Front(nn.Module):
    """Patches → the input of the first block, and the turns of all."""

    def __init__(self, shape: QwenShape) -> None:
        super().__init__()
        family, vision = shape.family, shape.vision
        self.patch_embed = PatchEmbed(family, vision)
        self.register_buffer("inverse_frequencies", inverse_frequencies(vision.head // 2, vision.theta))
        if vision.position_side:
            self.pos_embed = nn.Embedding(vision.position_side**2, vision.width)

    def forward(self, pixel_values, positions, entries=None, weights=None):
        """See trace.vision_graph. x (B, N, width); cos and sin (N, 1, head)."""
        x = self.patch_embed.proj(pixel_values)
        if entries is not None:
            x = x + (self.pos_embed(entries) * weights.unsqueeze(-1)).sum(1)
        angles = (positions.float().unsqueeze(-1) * self.inverse_frequencies).flatten(1)  # (N, head / 2)
        angles = torch.cat([angles, angles], -1).unsqueeze(1)
        return x, angles.cos(), angles.sin()


def merger(shape: QwenShape) -> nn.Module:
    return NewMerger(shape.vision, False) if shape.family == "qwen3_vl" else Merger(shape.family, shape.vision)


def sees_all(vision: VisionShape, block: int) -> bool:
    return not vision.window or block in vision.full


def inverse_frequencies(width: int, theta: float) -> torch.Tensor:
    """(width / 2,) float32, computed as transformers does it."""
    return 1.0 / (theta ** (torch.arange(0, width, 2, dtype=torch.float) / width))
