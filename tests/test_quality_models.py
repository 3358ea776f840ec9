"""Models that are not asked by a chat template, with random weights: ShieldGemma 2 and InstructBLIP."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
import transformers
from tokenizers import Tokenizer

from benchmarks.quality.cases import Case
from benchmarks.quality.systems import open_system
from safeguard_sdk.bundle import EMBEDDED
from safeguard_sdk.image import decode_image

IMAGE_TOKENS = 16
GEMMA = {"boi_token": "<start_of_image>", "eoi_token": "<end_of_image>", "image_token": "<image_soft_token>"}
SHIELDGEMMA_TEMPLATE = (  # the part of the published one that a policy goes through
    "{% for message in messages %}<start_of_turn>user\n{% for part in message['content'] %}"
    "{% if part['type'] == 'image' %}<start_of_image>{% else %}<BEGIN_SAFETY_POLICY>\n{{ part['text'] }}\n"
    "</END_SAFETY_POLICY>{% endif %}{% endfor %}<end_of_turn>\n<start_of_turn>model\n{% endfor %}")


def tokenizer(special: list[str] | dict[str, str]) -> transformers.PreTrainedTokenizerFast:
    """That of nano with special tokens, by the names that a processor asks for them if it does."""
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer.from_file(str(EMBEDDED / "tokenizer.json")), pad_token="<|endoftext|>",
        eos_token="<|endoftext|>", bos_token="<|endoftext|>", extra_special_tokens=special)


@pytest.fixture(scope="module")
def photo(photos):
    return decode_image(photos["astronaut.png"])


def case(policy: str) -> Case:
    return Case("1", b"", "0", policy, "Policy L3", "unsafe")


@pytest.fixture(scope="module")
def shieldgemma(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("shieldgemma")
    words = tokenizer(GEMMA)
    torch.manual_seed(0)
    config = transformers.ShieldGemma2Config(
        text_config={"model_type": "gemma3_text", "vocab_size": len(words), "hidden_size": 32, "intermediate_size": 64,
                     "num_hidden_layers": 2, "num_attention_heads": 2, "num_key_value_heads": 1, "head_dim": 16},
        vision_config={"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 1, "num_attention_heads": 2,
                       "image_size": 32, "patch_size": 8},
        mm_tokens_per_image=IMAGE_TOKENS, boi_token_index=words.boi_token_id, eoi_token_index=words.eoi_token_id,
        image_token_index=words.image_token_id,
        yes_token_index=words.encode("Yes")[0], no_token_index=words.encode("No")[0])
    transformers.ShieldGemma2ForImageClassification(config).save_pretrained(folder)
    processor = transformers.ShieldGemma2Processor(
        transformers.Gemma3ImageProcessor(size={"height": 32, "width": 32}), words, chat_template=SHIELDGEMMA_TEMPLATE,
        image_seq_length=IMAGE_TOKENS)
    processor.save_pretrained(folder)
    return folder


def test_shieldgemma_is_asked_about_the_cases_policy_and_gives_the_probability_of_yes(shieldgemma, photo):
    system = open_system(f"shieldgemma-2:{shieldgemma}", "safeeditbench")
    answers = [system.judge(case(policy), photo) for policy in ("No guns.", "No spaceships, no flags.", "No guns.")]
    system.close()
    assert all(0 < answer.score < 1 for answer in answers)
    assert all(answer.label == ("unsafe" if answer.score >= 0.5 else "safe") for answer in answers)
    assert answers[0] == answers[2] and answers[0].score != answers[1].score


def test_instructblip_goes_on_from_the_prompt_as_plain_text(tmp_path, photo):
    words = tokenizer(["<image>"])
    torch.manual_seed(0)
    config = transformers.InstructBlipConfig(
        vision_config={"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2,
                       "image_size": 32, "patch_size": 8},
        qformer_config={"vocab_size": len(words), "hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1,
                        "num_attention_heads": 2, "encoder_hidden_size": 16, "pad_token_id": 0},
        text_config={"model_type": "llama", "vocab_size": len(words), "hidden_size": 16, "intermediate_size": 32,
                     "num_hidden_layers": 1, "num_attention_heads": 2, "num_key_value_heads": 2,
                     "bos_token_id": words.bos_token_id, "eos_token_id": words.eos_token_id},
        num_query_tokens=4, image_token_index=words.convert_tokens_to_ids("<image>"))
    transformers.InstructBlipForConditionalGeneration(config).save_pretrained(tmp_path)
    transformers.InstructBlipProcessor(
        transformers.BlipImageProcessor(size={"height": 32, "width": 32}), words, tokenizer([]),
        num_query_tokens=4).save_pretrained(tmp_path)
    assert json.loads((tmp_path / "config.json").read_text())["model_type"] == "instructblip"
    system = open_system(f"instructblip:{tmp_path}", "safeeditbench")
    answer = system.judge(case("No guns."), photo)
    system.close()
    assert answer.label == "invalid" and answer.note  # babble of random weights, and no verdict
