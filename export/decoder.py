"""The decoder graph of a Llama-like model: one prefill over a KV cache, verdict logits of the last position out.

Written as plain matrix products over weights stored (in, out), so that each weight is one MatMul of the exported graph
and can be quantised there. Equal to transformers' LlamaModel (tests/test_export.py).
"""

from __future__ import annotations

from pathlib import Path

import onnx
import torch
from torch import nn
from transformers import LlamaConfig, LlamaModel

PROJECTIONS = ("q_proj", "k_proj", "v_proj", "o_proj")
POSITIONS = 2048  # of the rotary tables; SmolLM2 knows 8192, no policy and picture need them
FEED_FORWARD = ("gate_proj", "up_proj", "down_proj")


class Layer(nn.Module):
    """One decoder layer with grouped-query attention over cached and new positions."""

    def __init__(self, config: LlamaConfig) -> None:
        super().__init__()
        width, inner = config.hidden_size, config.intermediate_size
        self.heads, self.groups = config.num_attention_heads, config.num_key_value_heads
        self.head_width, self.epsilon = width // self.heads, config.rms_norm_eps
        cached = self.groups * self.head_width
        shapes = {"q_proj": (width, width), "k_proj": (width, cached), "v_proj": (width, cached),
                  "o_proj": (width, width),
                  "gate_proj": (width, inner), "up_proj": (width, inner), "down_proj": (inner, width)}
        self.weights = nn.ParameterDict({name: nn.Parameter(torch.empty(shape)) for name, shape in shapes.items()})
        self.attention_norm, self.feed_forward_norm = (nn.Parameter(torch.empty(width)) for _ in range(2))

    def forward(self, x, cos, sin, bias, past_key, past_value):
        """x (B, S, width); cos, sin (B, 1, S, head); bias (B, 1, S, P + S); past (1, groups, P, head) of all."""
        batch, length, width = x.shape
        normed = rms_norm(x, self.attention_norm, self.epsilon)
        q = (normed @ self.weights["q_proj"]).view(batch, length, self.heads, self.head_width).transpose(1, 2)
        k = (normed @ self.weights["k_proj"]).view(batch, length, self.groups, self.head_width).transpose(1, 2)
        v = (normed @ self.weights["v_proj"]).view(batch, length, self.groups, self.head_width).transpose(1, 2)
        q, k = rotate(q, cos, sin), rotate(k, cos, sin)
        keys = torch.cat([past_key.expand(batch, -1, -1, -1), k], 2).unsqueeze(2)      # (B, groups, 1, P + S, head)
        values = torch.cat([past_value.expand(batch, -1, -1, -1), v], 2).unsqueeze(2)
        q = q.view(batch, self.groups, self.heads // self.groups, length, self.head_width)
        attention = q @ keys.transpose(-1, -2) * self.head_width**-0.5 + bias.unsqueeze(1)
        mixed = (attention.softmax(-1) @ values).view(batch, self.heads, length, self.head_width)
        x = x + mixed.transpose(1, 2).reshape(batch, length, width) @ self.weights["o_proj"]
        normed = rms_norm(x, self.feed_forward_norm, self.epsilon)
        gate = nn.functional.silu(normed @ self.weights["gate_proj"])
        return x + (gate * (normed @ self.weights["up_proj"])) @ self.weights["down_proj"], k, v


class Decoder(nn.Module):
    """All layers, the final norm and the verdict head."""

    def __init__(self, config: LlamaConfig) -> None:
        super().__init__()
        self.layers = nn.ModuleList(Layer(config) for _ in range(config.num_hidden_layers))
        self.norm, self.epsilon = nn.Parameter(torch.empty(config.hidden_size)), config.rms_norm_eps
        self.verdict = nn.Linear(config.hidden_size, 2)
        head_width = config.hidden_size // config.num_attention_heads
        theta = config.rope_parameters["rope_theta"]
        frequency = theta ** (-torch.arange(0, head_width, 2).double() / head_width)
        angles = torch.arange(POSITIONS).double()[:, None] * frequency.repeat(2)
        self.register_buffer("cos", angles.cos().float())  # (positions, head)
        self.register_buffer("sin", angles.sin().float())

    @classmethod
    def from_llama(cls, model: LlamaModel, verdict: nn.Linear) -> Decoder:
        decoder = cls(model.config)
        with torch.no_grad():
            for mine, theirs in zip(decoder.layers, model.layers, strict=True):
                for names, module in ((PROJECTIONS, theirs.self_attn), (FEED_FORWARD, theirs.mlp)):
                    for name in names:
                        mine.weights[name].copy_(getattr(module, name).weight.T)
                mine.attention_norm.copy_(theirs.input_layernorm.weight)
                mine.feed_forward_norm.copy_(theirs.post_attention_layernorm.weight)
            decoder.norm.copy_(model.norm.weight)
            decoder.verdict.load_state_dict(verdict.state_dict())
        return decoder.eval()

    def forward(self, inputs_embeds, position_ids, attention_bias, past):
        """Verdict logits (B, 2) of the last position, and keys and values of the new positions, per layer in turn."""
        cos, sin = self.cos[position_ids].unsqueeze(1), self.sin[position_ids].unsqueeze(1)
        x, present = inputs_embeds, []
        for layer, key, value in zip(self.layers, past[::2], past[1::2], strict=True):
            x, k, v = layer(x, cos, sin, attention_bias, key, value)
            present += [k, v]
        return self.verdict(rms_norm(x[:, -1], self.norm, self.epsilon)), *present


def export_decoder(decoder: Decoder, path: Path) -> onnx.ModelProto:
    """The graph in fp32, batch, length and cached length free; also written to `path` (with its weights beside it)."""
    layer, layers = decoder.layers[0], len(decoder.layers)
    past = [torch.zeros(1, layer.groups, 5, layer.head_width) for _ in range(2 * layers)]
    names = [f"{kind}.{index}" for index in range(layers) for kind in ("key", "value")]
    batch, length, cached = (torch.export.Dim(name, min=low) for name, low in
                             (("batch", 1), ("length", 2), ("cached", 0)))
    everything = torch.export.Dim.AUTO
    program = torch.onnx.export(
        decoder, (torch.zeros(2, 3, decoder.norm.shape[0]), torch.zeros(2, 3, dtype=torch.long),
                  torch.zeros(2, 1, 3, 8), past),
        dynamo=True, verbose=False, opset_version=20,
        input_names=["inputs_embeds", "position_ids", "attention_bias", *(f"past_{name}" for name in names)],
        output_names=["verdict_logits", *(f"present_{name}" for name in names)],
        dynamic_shapes=({0: batch, 1: length}, {0: batch, 1: length}, {0: batch, 2: length, 3: everything},
                        [{2: cached}] * (2 * layers)),
    )
    program.save(path, external_data=True)
    return onnx.load(path)


def rms_norm(x: torch.Tensor, weight: torch.Tensor, epsilon: float) -> torch.Tensor:
    return x * torch.rsqrt(x.square().mean(-1, keepdim=True) + epsilon) * weight


def rotate(x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
    """Rotary position embedding of (B, heads, S, head), halves paired (Su et al. 2021, arXiv:2104.09864)."""
    first, second = x.chunk(2, -1)
    return x * cos + torch.cat([-second, first], -1) * sin
