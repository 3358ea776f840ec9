"""Qwen2.5-VL and Qwen3-VL with some 300,000 random weights, with real processors, chat templates and special tokens.

    tiny_vlm.save(tmp_path / "tiny")   # what from_pretrained reads: weights, config, tokenizer, processor, template

Their tokenizer is nano's, cut to its first tokens and given Qwen's special ones; the templates are those TRL ships.
"""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path

import torch
from tokenizers import Tokenizer
from transformers import (
    PreTrainedModel,
    PreTrainedTokenizerFast,
    ProcessorMixin,
    Qwen2_5_VLConfig,
    Qwen2_5_VLForConditionalGeneration,
    Qwen2_5_VLProcessor,
    Qwen2VLImageProcessorPil,
    Qwen2VLVideoProcessor,
    Qwen3VLConfig,
    Qwen3VLForConditionalGeneration,
    Qwen3VLProcessor,
    Qwen3VLVideoProcessor,
)

NANO_TOKENIZER = Path(__file__).parents[1] / "safeguard_sdk" / "nano" / "tokenizer.json"
TOKENS = 6000  # of nano's 49,152
SPECIAL = ("<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|vision_start|>", "<|vision_end|>", "<|vision_pad|>",
           "<|image_pad|>", "<|video_pad|>")
MAX_PIXELS = 56 * 84  # six tokens a photo of Qwen2.5-VL
TEXT = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2,
        "num_key_value_heads": 1, "head_dim": 16, "max_position_embeddings": 2048, "initializer_range": 0.2,
        "rope_parameters": {"rope_type": "default", "rope_theta": 1e6, "mrope_section": [2, 3, 3]}}
SIGHT = {"depth": 2, "hidden_size": 32, "intermediate_size": 64, "num_heads": 2, "out_hidden_size": 32,
         "initializer_range": 0.2}


def save(folder: Path, family: str = "qwen2_5_vl", seed: int = 0) -> Path:
    """Write the checkpoint into `folder`. The same seed gives the same weights."""
    processor = _processor(family)
    ids = {token: processor.tokenizer.convert_tokens_to_ids(token) for token in SPECIAL}
    torch.manual_seed(seed)
    model = _model(family, len(processor.tokenizer), ids)
    model.generation_config.eos_token_id = [ids["<|im_end|>"], ids["<|endoftext|>"]]  # as the checkpoints have it
    model.generation_config.pad_token_id = ids["<|endoftext|>"]
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder


def _processor(family: str) -> ProcessorMixin:
    package = importlib.util.find_spec("trl").submodule_search_locations[0]
    template = Path(package, "chat_templates", f"{family}.jinja").read_text(encoding="utf-8")
    if family == "qwen3_vl":
        image = Qwen2VLImageProcessorPil(min_pixels=32 * 32, max_pixels=MAX_PIXELS, patch_size=16,
                                         image_mean=[0.5] * 3, image_std=[0.5] * 3)
        return Qwen3VLProcessor(image_processor=image, tokenizer=cut_tokenizer(), chat_template=template,
                                video_processor=Qwen3VLVideoProcessor())
    image = Qwen2VLImageProcessorPil(min_pixels=28 * 28, max_pixels=MAX_PIXELS)
    return Qwen2_5_VLProcessor(image_processor=image, tokenizer=cut_tokenizer(), chat_template=template,
                               video_processor=Qwen2VLVideoProcessor())


def _model(family: str, vocabulary: int, ids: dict[str, int]) -> PreTrainedModel:
    text = {**TEXT, "vocab_size": vocabulary, "bos_token_id": ids["<|endoftext|>"], "eos_token_id": ids["<|im_end|>"]}
    special = {"image_token_id": ids["<|image_pad|>"], "video_token_id": ids["<|video_pad|>"],
               "vision_start_token_id": ids["<|vision_start|>"], "vision_end_token_id": ids["<|vision_end|>"]}
    if family == "qwen3_vl":
        sight = {**SIGHT, "deepstack_visual_indexes": [0], "num_position_embeddings": 16}
        return Qwen3VLForConditionalGeneration(Qwen3VLConfig(text_config=text, vision_config=sight, **special,
                                                             tie_word_embeddings=True))
    sight = {**SIGHT, "fullatt_block_indexes": [1], "window_size": 56, "tokens_per_second": 2}
    return Qwen2_5_VLForConditionalGeneration(Qwen2_5_VLConfig(text_config=text, vision_config=sight, **special,
                                                               tie_word_embeddings=True))


def cut_tokenizer() -> PreTrainedTokenizerFast:
    document = json.loads(NANO_TOKENIZER.read_text(encoding="utf-8"))
    vocabulary = {token: number for token, number in document["model"]["vocab"].items() if number < TOKENS}
    merges = [pair if isinstance(pair, list) else pair.split(" ") for pair in document["model"]["merges"]]
    document["model"]["vocab"] = vocabulary
    document["model"]["merges"] = [pair for pair in merges if {*pair, "".join(pair)} <= vocabulary.keys()]
    return PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer.from_str(json.dumps(document)), eos_token="<|im_end|>", pad_token="<|endoftext|>",
        extra_special_tokens=list(SPECIAL))
