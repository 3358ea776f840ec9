"""Which model in which scheme fits which device: memory computed from shapes, in units of 10^6 bytes.

    python -m export plan --device orin-nano-8gb

The same sum with the layout of TensorRT Edge-LLM comes within 3 % of what it publishes for Orin NX (PUBLISHED).
"""

from __future__ import annotations

from dataclasses import dataclass

RUNTIME = 1200   # CUDA context, libraries and workspace on a Jetson; what PUBLISHED leaves over the sum of the tensors
SYSTEM = 1500    # Linux without a desktop, and the program itself
# Linear layers (of w4: 4 bits and a scale of 16 for 64 of them; keys and values in 8), vision tower, lm_head.
BITS = {"fp16": (16.0, 16.0, 16.0), "w8": (8.125, 8.125, 8.125), "w4": (4.5, 8.125, 8.125)}


@dataclass(frozen=True)
class Model:
    """Sizes of a checkpoint: config.json of the published weights."""

    width: int
    layers: int
    heads: int
    groups: int
    inner: int
    vocabulary: int
    vision_depth: int
    vision_width: int
    vision_inner: int
    vision_matrices: int  # of a feed-forward layer: 3 with a gate, else 2
    mergers: int          # one, and one for each feature of deepstack
    head: int = 128

    @property
    def linear(self) -> int:
        """Weights of the language model's layers."""
        attention = self.width * self.head * (2 * self.heads + 2 * self.groups)
        return self.layers * (attention + 3 * self.width * self.inner)

    @property
    def vision(self) -> int:
        block = 4 * self.vision_width**2 + self.vision_matrices * self.vision_width * self.vision_inner
        merged = 4 * self.vision_width
        return self.vision_depth * block + self.mergers * merged * (merged + self.width)

    @property
    def table(self) -> int:
        """Of embeddings, and of lm_head."""
        return self.vocabulary * self.width


MODELS = {
    "Qwen2.5-VL-3B": Model(2048, 36, 16, 2, 11008, 151936, 32, 1280, 3420, 3, 1),
    "Qwen2.5-VL-7B": Model(3584, 28, 28, 4, 18944, 152064, 32, 1280, 3420, 3, 1),
    "Qwen3-VL-2B": Model(2048, 28, 16, 8, 6144, 151936, 24, 1024, 4096, 2, 4),
    "Qwen3-VL-4B": Model(2560, 36, 32, 8, 9728, 151936, 24, 1024, 4096, 2, 4),
    "Qwen3-VL-8B": Model(4096, 36, 32, 8, 12288, 151936, 27, 1152, 4304, 2, 4),
}
DEVICES = {  # memory that Linux sees
    "orin-nano-4gb": 3800, "orin-nano-8gb": 7600, "orin-nx-8gb": 7600, "orin-nx-16gb": 15700, "agx-orin-32gb": 30500,
    "agx-orin-64gb": 62800, "agx-thor-128gb": 125700,
}
# TensorRT Edge-LLM 0.9.0 on Orin NX 16 GB, int4 with vision, embeddings and lm_head in fp16; from its benchmark page.
PUBLISHED = {"Qwen3-VL-2B": 4344, "Qwen3-VL-4B": 5903, "Qwen3-VL-8B": 9065}


def need(model: Model, linear: float, vision: float, head: float, tokens: int, batch: int = 1) -> float:
    """10^6 bytes while it runs: weights at these bits, embeddings and KV cache in 16, activations, runtime.

    head    bits of lm_head; 0 without it
    tokens  of policy, image and question
    """
    weights = (model.linear * linear + model.vision * vision + model.table * (16 + head)) / 8
    cache = 2 * model.layers * model.groups * model.head * tokens * batch * 2
    activations = 2 * tokens * batch * (model.inner * 2 + model.width * 4)
    return (weights + cache + activations) / 1e6 + RUNTIME


def table(device: str, tokens: int, text: bool) -> list[str]:
    """For people: a row for each model, with what it needs in each scheme and whether that fits."""
    room = DEVICES[device] - SYSTEM
    lines = [f"{device}: {DEVICES[device]:,} MB, {room:,} MB for the guard; {tokens} tokens, batch 1, "
             f"{'with' if text else 'without'} text", f"{'model':14} " + " ".join(f"{scheme:>14}" for scheme in BITS)]
    for name, model in MODELS.items():
        cells = []
        for linear, vision, head in BITS.values():
            used = need(model, linear, vision, head if text else 0, tokens)
            cells.append(f"{used:7,.0f} {'fits' if used <= room else 'too big':>6}")
        lines.append(f"{name:14} " + " ".join(cells))
    return lines
