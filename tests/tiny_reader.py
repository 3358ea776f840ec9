"""A reader of two layers with random weights, and a tokenizer for it."""

from __future__ import annotations

import zlib

import torch
from transformers import LlamaConfig, LlamaModel

from training.nano.reader import Reader, with_adapters

VOCABULARY = 97


def encode(text: str) -> list[int]:
    """Every word is a token."""
    return [1 + zlib.crc32(word.encode()) % (VOCABULARY - 1) for word in text.split()]


def new_reader() -> Reader:
    torch.manual_seed(0)
    config = LlamaConfig(vocab_size=VOCABULARY, hidden_size=32, intermediate_size=64, num_hidden_layers=2,
                         num_attention_heads=4, num_key_value_heads=2, initializer_range=0.2)
    config._attn_implementation = "eager"
    return Reader(with_adapters(LlamaModel(config), rank=2), torch.randn(2, 32))
