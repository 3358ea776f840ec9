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

from export.layers import RmsNorm, rotate

POSITIONS = 1152  # of the rotary tables: a policy of 1,024 tokens, and a picture; SmolLM2 knows 8,192
# A weight of the graph → the linear layers of a LlamaModel whose outputs stand side by side in it: they have one input.
WEIGHTS = {"qkv_proj": ("self_attn", ("q_proj", "k_proj", "v_proj")), "o_proj": ("self_attn", ("o_proj",)),
           "gate_up_proj": ("mlp", ("gate_proj", "up_proj")), "down_proj": ("mlp", ("down_proj",))}


class Layer(nn.Module):
    """One decoder layer with grouped-query attention over cached and new positions.

    last  whether the result is wanted of the last position alone
    """

    def __init__(self, config: LlamaConfig, last: bool) -> None:
        super().__init__()
        width, inner, self.last = config.hidden_size, config.intermediate_size, last
        self.heads, self.groups = config.num_attention_heads, config.num_key_value_heads
        self.head_width = width // self.heads
        cached = self.groups * self.head_width
        shapes = {"qkv_proj": (width, width + 2 * cached), "o_proj": (width, width),
                  "gate_up_proj": (width, 2 * inner), "down_proj": (inner, width)}
        self.weights = nn.ParameterDict({name: nn.Parameter(torch.empty(shape)) for name, shape in shapes.items()})
        self.attention_norm, self.feed_forward_norm = (RmsNorm(width, config.rms_norm_eps) for _ in range(2))

    def forward(self, x, cos, sin, bias, past_key, past_value):
        """x (B · S, width); cos, sin (B, 1, S, head); bias (B, 1, S, P + S); past (1, groups, P, head) of all.

        Returns x, (B, width) if only the last position is wanted, and the new keys and values (B, groups, S, head).
        """
        batch, _, length, _ = cos.shape
        qkv = (self.attention_norm(x) @ self.weights["qkv_proj"]).view(batch, length, -1, self.head_width)
        qk, v = qkv.transpose(1, 2).split((self.heads + self.groups, self.groups), 1)
        q, k = rotate(qk, cos, sin).split((self.heads, self.groups), 1)  # one rotation: each operator costs time
        keys = torch.cat([past_key.expand(batch, -1, -1, -1), k], 2).unsqueeze(2)      # (B, groups, 1, P + S, head)
        values = torch.cat([past_value.expand(batch, -1, -1, -1), v], 2).unsqueeze(2)
        if self.last:
            x, q, bias, length = x.view(batch, length, -1)[:, -1], q[:, :, -1:], bias[:, :, -1:], 1
        q = q.reshape(batch, self.groups, self.heads // self.groups, length, self.head_width)
        attention = q @ keys.transpose(-1, -2) * self.head_width**-0.5 + bias.unsqueeze(1)
        mixed = (attention.softmax(-1) @ values).view(batch, self.heads, length, self.head_width)
        x = x + mixed.transpose(1, 2).reshape(batch * length, -1) @ self.weights["o_proj"]
        gate, up = (self.feed_forward_norm(x) @ self.weights["gate_up_proj"]).chunk(2, -1)
        return x + (nn.functional.silu(gate) * up) @ self.weights["down_proj"], k, v


class Decoder(nn.Module):
    """All layers, the final norm and the verdict head."""

    def __init__(self, config: LlamaConfig) -> None:
        super().__init__()
        self.layers = nn.ModuleList(Layer(config, number == config.num_hidden_layers - 1)
                                    for number in range(config.num_hidden_layers))
        self.norm = RmsNorm(config.hidden_size, config.rms_norm_eps)
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
                for name, (part, linears) in WEIGHTS.items():
                    weights = [getattr(getattr(theirs, part), linear).weight for linear in linears]
                    mine.weights[name].copy_(torch.cat(weights).T)
                mine.attention_norm.load_state_dict(theirs.input_layernorm.state_dict())
                mine.feed_forward_norm.load_state_dict(theirs.post_attention_layernorm.state_dict())
            decoder.norm.load_state_dict(model.norm.state_dict())
            decoder.verdict.load_state_dict(verdict.state_dict())
        return decoder.eval()

    def forward(self, inputs_embeds, position_ids, attention_bias, past):
        """Verdict logits (B, 2) of the last position, and keys and values of the new positions, per layer in turn."""
        cos, sin = self.cos[position_ids].unsqueeze(1), self.sin[position_ids].unsqueeze(1)
        x, present = inputs_embeds.flatten(0, 1), []
        for layer, key, value in zip(self.layers, past[::2], past[1::2], strict=True):
            x, k, v = layer(x, cos, sin, attention_bias, key, value)
            present += [k, v]
        return self.verdict(self.norm(x)), *present


def export_decoder(decoder: Decoder, path: Path) -> onnx.ModelProto:
    """The graph in fp32, batch, length and cached length free; also written to `path` (with its weights beside it)."""
    layer, layers = decoder.layers[0], len(decoder.layers)
    past = [torch.zeros(1, layer.groups, 5, layer.head_width) for _ in range(2 * layers)]
    names = [f"{kind}.{index}" for index in range(layers) for kind in ("key", "value")]
    batch, length, cached = (torch.export.Dim(name, min=low) for name, low in
                             (("batch", 1), ("length", 2), ("cached", 0)))
    everything = torch.export.Dim.AUTO
    program = torch.onnx.export(
        decoder, (torch.zeros(2, 3, decoder.norm.weight.shape[0]), torch.zeros(2, 3, dtype=torch.long),
                  torch.zeros(2, 1, 3, 8), past),
        dynamo=True, verbose=False, opset_version=20,
        input_names=["inputs_embeds", "position_ids", "attention_bias", *(f"past_{name}" for name in names)],
        output_names=["verdict_logits", *(f"present_{name}" for name in names)],
        dynamic_shapes=({0: batch, 1: length}, {0: batch, 1: length}, {0: batch, 2: length, 3: everything},
                        [{2: cached}] * (2 * layers)),
    )
    program.save(path, external_data=True)
    return onnx.load(path)
