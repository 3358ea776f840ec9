"""Qwen-VL checkpoints of random weights, a few hundred kB each: the real classes of transformers, config, processor and
chat template, with the tokenizer of nano."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from tokenizers import Tokenizer
from transformers import (
    PreTrainedTokenizerFast,
    Qwen2_5_VLConfig,
    Qwen2_5_VLForConditionalGeneration,
    Qwen2VLConfig,
    Qwen2VLForConditionalGeneration,
    Qwen3VLConfig,
    Qwen3VLForConditionalGeneration,
)

NANO_TOKENIZER = Path(__file__).parents[1] / "safeguard_sdk" / "nano" / "tokenizer.json"
SPECIAL = ("<|vision_start|>", "<|vision_end|>", "<|image_pad|>", "<|video_pad|>")
CHAT_TEMPLATE = """\
{% if messages[0]['role'] != 'system' %}<|im_start|>system
You are a helpful assistant.<|im_end|>
{% endif %}{% for message in messages %}<|im_start|>{{ message['role'] }}
{% if message['content'] is string %}{{ message['content'] }}{% else %}{% for part in message['content'] %}\
{% if part['type'] == 'image' %}<|vision_start|><|image_pad|><|vision_end|>{% else %}{{ part['text'] }}{% endif %}\
{% endfor %}{% endif %}<|im_end|>
{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant
{% endif %}"""
WIDTH, LAYERS, HEADS, GROUPS = 64, 3, 4, 2  # of the language model
CONFIGS = {
    "qwen2_vl": (Qwen2VLConfig, Qwen2VLForConditionalGeneration),
    "qwen2_5_vl": (Qwen2_5_VLConfig, Qwen2_5_VLForConditionalGeneration),
    "qwen3_vl": (Qwen3VLConfig, Qwen3VLForConditionalGeneration),
}
VISION = {
    "qwen2_vl": {"depth": 2, "embed_dim": 32, "hidden_size": WIDTH, "num_heads": 2, "mlp_ratio": 2},
    # An inner width that no block divides; windows of 4 patches, so that small images have several, some of them cut.
    "qwen2_5_vl": {"depth": 3, "hidden_size": 32, "num_heads": 2, "intermediate_size": 42, "out_hidden_size": WIDTH,
                   "window_size": 56, "fullatt_block_indexes": [1]},
    "qwen3_vl": {"depth": 3, "hidden_size": 32, "num_heads": 2, "intermediate_size": 48, "out_hidden_size": WIDTH,
                 "num_position_embeddings": 36, "deepstack_visual_indexes": [0, 1]},
}
PIXELS = {"min_pixels": 56 * 56, "max_pixels": 6 * 28 * 6 * 28}


def write_checkpoint(folder: Path, family: str, tied: bool = False) -> Path:
    """Config, weights, tokenizer and processor of a family of CONFIGS, as a checkpoint folder has them."""
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer = write_tokenizer(folder)
    newest = family == "qwen3_vl"
    rope = {"rope_type": "default", "rope_theta": 1e4, "mrope_section": [4, 2, 2] if newest else [2, 3, 3]}
    text = {"vocab_size": len(tokenizer), "hidden_size": WIDTH, "intermediate_size": 96, "num_hidden_layers": LAYERS,
            "num_attention_heads": HEADS, "num_key_value_heads": GROUPS, "rope_parameters": rope, "bos_token_id": None,
            "eos_token_id": tokenizer.eos_token_id, **({"head_dim": WIDTH // HEADS} if newest else {})}
    ids = {name: tokenizer.convert_tokens_to_ids(token) for name, token in (
        ("vision_start_token_id", "<|vision_start|>"), ("vision_end_token_id", "<|vision_end|>"),
        ("image_token_id", "<|image_pad|>"), ("video_token_id", "<|video_pad|>"))}
    kind, model_of = CONFIGS[family]
    config = kind(text_config=text, vision_config=VISION[family], tie_word_embeddings=tied, **ids)
    torch.manual_seed(0)
    model = model_of(config).eval()
    for name, parameter in model.named_parameters():
        if "norm" in name or "ln_q" in name:
            torch.nn.init.uniform_(parameter, 0.5, 1.5)  # all ones would hide a norm in the wrong place
        else:
            torch.nn.init.normal_(parameter, std=0.02 if "embed_tokens" in name else 0.15)  # verdicts that differ
    model.save_pretrained(folder)
    patch = config.vision_config.patch_size
    (folder / "preprocessor_config.json").write_text(json.dumps({
        "image_processor_type": "Qwen2VLImageProcessor", "patch_size": patch, "merge_size": 2, "temporal_patch_size": 2,
        "image_mean": [0.48, 0.46, 0.41], "image_std": [0.27, 0.26, 0.28], **PIXELS}), encoding="utf-8")
    return folder


def write_tokenizer(folder: Path) -> PreTrainedTokenizerFast:
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=Tokenizer.from_file(str(NANO_TOKENIZER)),
                                        eos_token="<|im_end|>", pad_token="<|endoftext|>")
    tokenizer.add_special_tokens({"additional_special_tokens": ["<|im_start|>", *SPECIAL]})
    tokenizer.chat_template = CHAT_TEMPLATE
    tokenizer.save_pretrained(folder)
    return tokenizer


def load_model(folder: Path, family: str):
    return CONFIGS[family][1].from_pretrained(folder, dtype=torch.float32, attn_implementation="eager").eval()
