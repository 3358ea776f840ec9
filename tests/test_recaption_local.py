"""A model in this process: a Qwen2.5-VL of random weights, with its real processor and chat template."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from PIL import Image
from transformers import (
    PreTrainedTokenizerFast,
    Qwen2_5_VLConfig,
    Qwen2_5_VLForConditionalGeneration,
    Qwen2_5_VLProcessor,
    Qwen2VLImageProcessorPil,
    Qwen2VLVideoProcessor,
)

from safeguard_sdk.bundle import EMBEDDED
from training.errors import TrainingError
from training.recaption.local import LocalModel
from training.recaption.models import ModelError, Question, open_model
from training.recaption.prompts import Sampling

SPECIAL = ["<|im_start|>", "<|im_end|>", "<|vision_start|>", "<|vision_end|>", "<|image_pad|>", "<|video_pad|>"]
TEMPLATE = (  # that of Qwen2.5-VL, for one turn of the user
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n"
    "{% for part in message['content'] %}{% if part['type'] == 'image' %}<|vision_start|><|image_pad|><|vision_end|>"
    "{% else %}{{ part['text'] }}{% endif %}{% endfor %}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}")
GREEDY = Sampling(temperature=0.0, max_tokens=6)


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """About 1.7 million parameters, most of them embeddings."""
    folder = tmp_path_factory.mktemp("model")
    tokenizer = PreTrainedTokenizerFast(tokenizer_file=str(EMBEDDED / "tokenizer.json"), pad_token="<|im_end|>",
                                        eos_token="<|im_end|>", additional_special_tokens=SPECIAL)
    Qwen2_5_VLProcessor(Qwen2VLImageProcessorPil(min_pixels=28 * 28, max_pixels=28 * 28 * 4), tokenizer,
                        Qwen2VLVideoProcessor(), chat_template=TEMPLATE).save_pretrained(folder)
    ids = {name: tokenizer.convert_tokens_to_ids(f"<|{name}|>") for name in
           ("image_pad", "video_pad", "vision_start", "vision_end", "im_end")}
    config = Qwen2_5_VLConfig(
        text_config={"vocab_size": len(tokenizer), "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2,
                     "num_attention_heads": 4, "num_key_value_heads": 2, "tie_word_embeddings": True,
                     "initializer_range": 0.5, "eos_token_id": ids["im_end"], "bos_token_id": None,
                     "rope_scaling": {"type": "mrope", "mrope_section": [1, 1, 2]}},
        vision_config={"depth": 1, "hidden_size": 32, "intermediate_size": 64, "num_heads": 2, "out_hidden_size": 32,
                       "fullatt_block_indexes": [0]},
        image_token_id=ids["image_pad"], video_token_id=ids["video_pad"], vision_start_token_id=ids["vision_start"],
        vision_end_token_id=ids["vision_end"], tie_word_embeddings=True)
    torch.manual_seed(0)
    Qwen2_5_VLForConditionalGeneration(config).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def loaded(folder) -> LocalModel:
    return open_model(str(folder), concurrency=8)


@pytest.fixture
def model(loaded) -> Iterator[LocalModel]:
    """Tests choose at which tokens it ends an answer: random weights end none."""
    ends = loaded._model.generation_config.eos_token_id
    yield loaded
    loaded._model.generation_config.eos_token_id = ends


def question(image: Image.Image, sampling: Sampling = GREEDY, seed: int = 0) -> Question:
    return Question(image, "What is this?", sampling, seed)


def tokens_said(model: LocalModel, image: Image.Image, count: int) -> list[int]:
    """What the bare model says, by its own `generate`."""
    content = [{"type": "image", "image": image}, {"type": "text", "text": "What is this?"}]
    inputs = model._processor.apply_chat_template([{"role": "user", "content": content}], add_generation_prompt=True,
                                                  tokenize=True, return_dict=True, return_tensors="pt")
    return model._model.generate(**inputs, max_new_tokens=count, do_sample=False)[0].tolist()[-count:]


def test_one_question_after_the_other(model):
    assert model.concurrency == 1


def test_an_answer_is_the_text_up_to_its_end(model, small):
    said = tokens_said(model, small, 3)
    assert len(set(said)) == 3
    model._model.generation_config.eos_token_id = [said[2]]
    assert model.ask(question(small)) == model._processor.decode(said, skip_special_tokens=True).strip()


def test_an_answer_without_an_end_is_cut_off_and_no_caption(model, small):
    with pytest.raises(ModelError, match="cut off at 6 tokens") as caught:
        model.ask(question(small))
    assert caught.value.kind == "truncated"


def test_the_picture_is_seen(model, small):
    said = {tuple(tokens_said(model, image, 4)) for image in (small, Image.new("RGB", small.size, "red"))}
    assert len(said) == 2


def test_equal_seeds_draw_equal_answers(model, small):
    model._model.generation_config.eos_token_id = list(range(0, 60_000, 2))  # every other token ends it
    drawn = [model.ask(question(small, Sampling(temperature=1.0, max_tokens=40), seed)) for seed in (1, 1, 2)]
    assert drawn[0] == drawn[1] != drawn[2]


def test_a_model_that_is_closed_is_gone(folder):
    model = LocalModel(str(folder))
    model.close()
    assert not hasattr(model, "_model")


@pytest.mark.parametrize("name", ["no/such/model/anywhere", "{empty}"])
def test_a_model_that_cannot_be_had_is_one_clear_line(tmp_path, monkeypatch, name):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(TrainingError, match="cannot be loaded as a model of images and text") as caught:
        LocalModel(name.format(empty=tmp_path))
    assert "\n" not in str(caught.value)


def test_a_system_text_and_options_go_into_the_chat_template(loaded, small, monkeypatch):
    monkeypatch.setattr(loaded._processor, "chat_template", "{{ tone }}: " + TEMPLATE)
    question = Question(small, "What is this?", GREEDY, 0, system="Be brief.", template_options={"tone": "kind"})
    text = loaded._processor.decode(loaded._read(question)["input_ids"][0])
    assert text.startswith("kind: <|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\n<|vision_start|>")


def test_a_limit_of_pixels_makes_photos_fewer_tokens(folder, small):
    question, patches = Question(small, "What is this?", GREEDY, 0), []
    for limit in (None, 28 * 28):  # of the checkpoint: four times that
        model = LocalModel(str(folder), limit)
        patches.append(int(model._read(question)["image_grid_thw"].prod()))
        model.close()
    assert patches[0] > patches[1] == 4  # the one token that is left
