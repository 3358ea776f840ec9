"""A Qwen2.5-VL checkpoint of random weights in its true shapes, written shard by shard in bf16: for measuring memory
and speed where the real one is not at hand. It has no tokenizer of its own: see `write_random`."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from safetensors.torch import save_file
from transformers import AutoModelForImageTextToText, Qwen2_5_VLConfig

from export.plan import Model

SHARD = 2 << 30  # bytes


def config_of(model: Model) -> Qwen2_5_VLConfig:
    text = {"vocab_size": model.vocabulary, "hidden_size": model.width, "intermediate_size": model.inner,
            "num_hidden_layers": model.layers, "num_attention_heads": model.heads, "num_key_value_heads": model.groups,
            "rope_parameters": {"rope_type": "default", "rope_theta": 1e6, "mrope_section": [16, 24, 24]}}
    vision = {"depth": model.vision_depth, "hidden_size": model.vision_width, "intermediate_size": model.vision_inner,
              "num_heads": 16, "out_hidden_size": model.width, "fullatt_block_indexes": [7, 15, 23, 31]}
    return Qwen2_5_VLConfig(text_config=text, vision_config=vision, tie_word_embeddings=model.width < 3000,
                            architectures=["Qwen2_5_VLForConditionalGeneration"])


def write_random(model: Model, folder: Path) -> None:
    """Config and shards; copy the tokenizer, chat template and processor of any Qwen2.5-VL beside them."""
    folder.mkdir(parents=True, exist_ok=True)
    config = config_of(model)
    with torch.device("meta"):
        whole = AutoModelForImageTextToText.from_config(config, dtype=torch.bfloat16)
    shapes = {name: tuple(parameter.shape) for name, parameter in whole.named_parameters()}
    random = torch.Generator().manual_seed(0)
    shard: dict[str, torch.Tensor] = {}
    files: dict[str, str] = {}
    number, written = 0, 0
    for place, (name, shape) in enumerate(shapes.items()):
        values = torch.empty(shape, dtype=torch.bfloat16)
        if "norm" in name or "ln_q" in name:
            values.fill_(1)
        else:
            values.normal_(0, 0.02, generator=random)
        shard[name], written = values, written + values.nbytes
        if place == len(shapes) - 1 or sum(tensor.nbytes for tensor in shard.values()) > SHARD:
            number += 1
            file = f"model-{number:05}.safetensors"
            save_file(shard, folder / file, {"format": "pt"})
            files |= dict.fromkeys(shard, file)
            shard = {}
    index = {"metadata": {"total_size": written}, "weight_map": files}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index), encoding="utf-8")
    config.save_pretrained(folder)
