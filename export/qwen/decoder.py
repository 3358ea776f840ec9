"""The decoder graph of the Qwen-VL families: one prefill over a KV cache, verdict logits of the last position out.

Equal to transformers' language models (tests/test_qwen_graphs.py). Keys and values come out whole, cached ones
included, so that a cache never leaves the device that it lies on.

Written in parts, each of which is traced once and repeated in the graph: see trace.py.
"""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional

from export.layers import MASKED, GatedFeedForward, Linear, RmsNorm, rotate
from export.qwen.shapes import DecoderShape
from export.qwen.vision import inverse_frequencies

# Of the last position, in the last layer. One row alone takes other kernels than several (MatMulNBits in 4 bits on CPUs
# with AVX2), which add in another order: an image alone would have other bits than beside others.
ROWS_OF_LAST = 2


class SelfAttention(nn.Module):
    """Grouped-query attention over cached and new positions."""

    def __init__(self, shape: DecoderShape) -> None:
        super().__init__()
        self.heads, self.groups, self.head = shape.heads, shape.groups, shape.head
        asking, cached = shape.heads * shape.head, shape.groups * shape.head
        self.q_proj = Linear(shape.width, asking, shape.bias)
        self.k_proj, self.v_proj = Linear(shape.width, cached, shape.bias), Linear(shape.width, cached, shape.bias)
        self.o_proj = Linear(asking, shape.width, bias=False)
        if shape.head_norm:
            self.q_norm, self.k_norm = RmsNorm(shape.head, shape.epsilon), RmsNorm(shape.head, shape.epsilon)
        else:
            self.q_norm = self.k_norm = None

    def forward(self, x, cos, sin, bias, past_key, past_value, last):
        """x (B, S, width); cos, sin (B, S, 1, head); bias (B, 1, S, P + S); past (1, groups, P, head).

        last  whether the result is wanted of the last position alone; then it is (B, ROWS_OF_LAST, width)
        """
        batch, length, _ = x.shape
        k = self.k_proj(x).view(batch, length, self.groups, self.head)
        v = self.v_proj(x).view(batch, length, self.groups, self.head)
        k = rotate(k if self.k_norm is None else self.k_norm(k), cos, sin)
        keys = torch.cat([past_key.expand(batch, -1, -1, -1), k.transpose(1, 2)], 2)       # (B, groups, P + S, head)
        values = torch.cat([past_value.expand(batch, -1, -1, -1), v.transpose(1, 2)], 2)
        if last:
            x, cos, sin, bias, length = _last(x), _last(cos), _last(sin), bias[:, :, -1:], ROWS_OF_LAST
        q = self.q_proj(x).view(batch, length, self.heads, self.head)
        q = rotate(q if self.q_norm is None else self.q_norm(q), cos, sin)
        shared = self.heads // self.groups
        # The heads of a group are rows of one product with its keys.
        q = q.view(batch, length, self.groups, shared, self.head).permute(0, 2, 3, 1, 4)
        q = (q * self.head**-0.5).reshape(batch, self.groups, shared * length, self.head)
        attention = (q @ keys.transpose(-1, -2)).view(batch, self.groups, shared, length, -1) + bias.unsqueeze(1)
        attention = attention.softmax(-1).view(batch, self.groups, shared * length, -1)
        mixed = (attention @ values).view(batch, self.heads, length, self.head)
        return self.o_proj(mixed.transpose(1, 2).reshape(batch, length, self.heads * self.head)), keys, values


class Layer(nn.Module):
    """last: whether the result is wanted of the last position alone."""

    def __init__(self, shape: DecoderShape, last: bool) -> None:
        super().__init__()
        self.last = last
        self.input_layernorm = RmsNorm(shape.width, shape.epsilon)
        self.post_attention_layernorm = RmsNorm(shape.width, shape.epsilon)
        self.self_attn, self.mlp = SelfAttention(shape), GatedFeedForward(shape.width, shape.inner, bias=False)

    def forward(self, x, cos, sin, bias, past_key, past_value):
        """See trace.decoder_graph."""
        normed = self.input_layernorm(x)
        mixed, keys, values = self.self_attn(normed, cos, sin, bias, past_key, past_value, self.last)
        x = (_last(x) if self.last else x) + mixed
        return x + self.mlp(self.post_attention_layernorm(x)), keys, values


class Front(nn.Module):
    """What all layers share: the turns of the new positions, and which positions see which."""

    def __init__(self, shape: DecoderShape) -> None:
        super().__init__()
        self.register_buffer("inverse_frequencies", inverse_frequencies(shape.head, shape.theta))
        self.register_buffer("axes", axes(shape))

    def forward(self, position_ids, padding, past_key):
        """cos and sin (B, S, 1, head), and bias (B, 1, S, P + S): 0 where a new position sees one, else MASKED."""
        turned = position_ids.float().index_select(0, self.axes).permute(1, 2, 0) * self.inverse_frequencies
        turned = torch.cat([turned, turned], -1).unsqueeze(2)
        place = torch.arange(position_ids.shape[2])
        hidden = (place > place.unsqueeze(-1)) | (place < padding.unsqueeze(-1)).unsqueeze(1)  # (B, S, S)
        bias = functional.pad(torch.where(hidden, MASKED, 0.0).unsqueeze(1), (past_key.shape[2], 0))
        return turned.cos(), turned.sin(), bias


class Head(nn.Module):
    """The final norm, and the rows of lm_head for the two verdict tokens."""

    def __init__(self, shape: DecoderShape) -> None:
        super().__init__()
        self.norm, self.verdict = RmsNorm(shape.width, shape.epsilon), Linear(shape.width, 2, bias=False)

    def forward(self, x):
        """(B, S, width) → logits (B, 2) and normed state (B, width) of the last position."""
        state = self.norm(x[:, -1])
        return self.verdict(state), state


def _last(x: torch.Tensor) -> torch.Tensor:
    """(B, S, …) → (B, ROWS_OF_LAST, …), the last position in each row."""
    return x[:, -1:].repeat_interleave(ROWS_OF_LAST, 1)


def axes(shape: DecoderShape) -> torch.Tensor:
    """(head / 2,) int64: for each frequency, whether it turns with time (0), row (1) or column (2)."""
    time, rows, columns = shape.sections
    if not shape.interleaved:
        return torch.tensor([0] * time + [1] * rows + [2] * columns)
    axis = torch.zeros(shape.head // 2, dtype=torch.long)
    axis[1:3 * rows:3], axis[2:3 * columns:3] = 1, 2
    return axis
