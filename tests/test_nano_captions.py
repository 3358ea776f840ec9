"""Stage 1 for nano, for real on a tiny Llama: what it reads, what it learns from, and that stage 2 starts with it."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny_runs import CAPTIONS, LORA, SFT, changed, log_of, weights_of
from tiny_vlm import NANO_TOKENIZER, cut_tokenizer
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast
from typer.testing import CliRunner

from safeguard_sdk import Bundle
from safeguard_sdk.engine import open_engine
from safeguard_sdk.engine.tags import image_tokens
from training.__main__ import app
from training.datasets.captions import Caption
from training.datasets.rows import photo_sha256
from training.errors import TrainingError
from training.nano import captions, start
from training.nano.start import STAGE1, open_start, start_from
from training.vlm.chat import Example
from training.vlm.recipe import Recipe, Sft

pytestmark = [
    pytest.mark.usefixtures("one_thread"),
    # trl 1.16
    pytest.mark.filterwarnings("ignore:`(is_)?gradient_checkpointing` is deprecated:FutureWarning"),
]

SHIPPED = Path(__file__).parents[1] / "training" / "recipes" / "nano-sft.yaml"
LAYERS = 2  # of a reader, of the three that the base has
RECIPE = replace(Recipe.read(SHIPPED), sft=SFT)


def write_base(folder: Path, tokenizer: PreTrainedTokenizerFast) -> Path:
    """In place of SmolLM2: a small model of three layers."""
    torch.manual_seed(0)
    LlamaForCausalLM(LlamaConfig(
        vocab_size=len(tokenizer), hidden_size=32, intermediate_size=64, num_hidden_layers=3, num_attention_heads=4,
        num_key_value_heads=2, tie_word_embeddings=True, initializer_range=0.2,
        eos_token_id=tokenizer.eos_token_id)).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def base(tmp_path_factory) -> Path:
    return write_base(tmp_path_factory.mktemp("base"), cut_tokenizer())


@pytest.fixture(scope="module")
def tokenizer(base):
    return captions.open_base(base)[0]


@pytest.fixture(scope="module")
def examples(photos, tokenizer) -> list[Example]:
    found = [Caption(photos[name], photo_sha256(photos[name], name), text, name) for name, text in CAPTIONS.items()]
    return captions.captioned(found, Bundle.embedded(), tokenizer)


def train(base: Path, examples: list[Example], out: Path, stage: Sft = SFT) -> Path:
    return captions.train(RECIPE, stage, examples, base, out / "sft")


def test_a_photo_is_read_as_the_tags_that_the_reader_reads(examples, tokenizer, photos):
    bundle = Bundle.embedded()
    (seen,) = open_engine(bundle).encode([captions._pixels(examples[2], bundle)])
    ids, _ = image_tokens(seen.seen, lambda text: tokenizer.encode(text, add_special_tokens=False))
    photo, tags = examples[2].before.split(":", 1)
    assert photo == "Photo" and "cat" in tags and examples[2].source == "chelsea.png"
    np.testing.assert_array_equal(tokenizer.encode(tags, add_special_tokens=False), ids)


def test_the_loss_is_taken_on_the_caption_and_its_end_alone(base, examples, tmp_path):
    train(base, examples, tmp_path)
    trainer = captions.make_trainer(SFT, examples, tmp_path / "base", tmp_path / "again")
    batch = trainer.data_collator([trainer.train_dataset[number] for number in range(4)])
    for labels, text in zip(batch["labels"], CAPTIONS.values(), strict=True):
        assert trainer.processing_class.decode(labels[labels != -100]) == f" {text}<|im_end|>"


def test_captions_are_learnt_by_heart_and_the_trained_model_writes_them(base, examples, tmp_path):
    stage = replace(SFT, epochs=100, rows_per_step=4, batch=4, learning_rate=2e-2, save_every=100)
    model = train(base, examples, tmp_path, stage)
    losses = [row["loss"] for row in log_of(tmp_path / "sft") if "loss" in row]
    assert losses[0] > 7 and losses[-1] < 0.2
    tokenizer, language_model = AutoTokenizer.from_pretrained(model), AutoModelForCausalLM.from_pretrained(model)
    for example in examples:
        inputs = tokenizer(example.before + example.after, return_tensors="pt")
        ids = language_model.generate(**inputs, max_new_tokens=20, do_sample=False)[0, inputs["input_ids"].shape[1]:]
        assert tokenizer.decode(ids, skip_special_tokens=True) == f" {example.answer}"


def test_all_weights_but_the_embeddings_are_trained(base, examples, tmp_path):
    before, after = weights_of(base), weights_of(train(base, examples, tmp_path))
    assert changed(before, after) == before.keys() - {"model.embed_tokens.weight"}


def test_a_run_that_was_stopped_ends_with_the_weights_of_one_that_was_not(base, examples, tmp_path):
    whole, stopped = (train(base, examples, tmp_path / name) for name in ("whole", "stopped"))
    shutil.rmtree(stopped)
    *_, before, last = sorted(stopped.parent.glob("checkpoint-*"), key=lambda path: int(path.name.split("-")[1]))
    shutil.rmtree(last)
    assert before.is_dir() and not changed(weights_of(whole), weights_of(train(base, examples, tmp_path / "stopped")))


def test_training_nano_starts_with_what_stage_1_has_made(examples, tmp_path, monkeypatch):
    base = write_base(tmp_path / "base", PreTrainedTokenizerFast(  # whole: stage 2 needs the tokens of its verdicts
        tokenizer_file=str(NANO_TOKENIZER), eos_token="<|im_end|>", pad_token="<|endoftext|>"))
    model = train(base, examples, tmp_path / "stage1", replace(SFT, lora=LORA, epochs=2))
    monkeypatch.setattr(start, "fetch_smollm2", lambda _: base)
    run = tmp_path / "nano"
    run.mkdir()
    start_from(model, run)
    _, reader, origin = open_start(run, tmp_path, LAYERS, rank=2)
    stored = load_file(model / "model.safetensors")
    own = dict(reader.model.get_base_model().named_parameters())
    compared = [name for name in stored if name.endswith(("_proj.weight", "norm.weight")) and "layers.2." not in name]
    assert len(compared) == LAYERS * 9 + 1
    for name in compared:
        mine = own[name.removeprefix("model.").replace("_proj.weight", "_proj.base_layer.weight")]
        assert torch.equal(mine.bfloat16(), stored[name].bfloat16())
    assert origin["training"] == "captions"
    with pytest.raises(TrainingError, match=r"has started from .*; give the same one, or another folder to --out"):
        start_from(Bundle.embedded().path, run)


def test_a_start_that_is_another_model_or_has_too_few_layers_is_refused(base, tmp_path, monkeypatch):
    monkeypatch.setattr(start, "fetch_smollm2", lambda _: base)
    other = tmp_path / "other"
    other.mkdir()
    save_file({"encoder.weight": torch.zeros(2, 2)}, other / "model.safetensors")
    with pytest.raises(TrainingError, match=r"model.safetensors: is no Llama, .* give OUT/sft/model of its stage 1"):
        start_from(other, tmp_path)
    assert not (tmp_path / start.START).exists()
    model = LlamaForCausalLM.from_pretrained(base).model
    weights = {f"model.{name}": tensor.contiguous() for name, tensor in model.named_parameters()}
    save_file({name: tensor for name, tensor in weights.items() if "layers.1." not in name}, other / STAGE1)
    with pytest.raises(TrainingError, match=r"has no layers.1.self_attn.q_proj.weight; `layers` of the recipe"):
        start._first_layers(start._stage1_weights(other / STAGE1)["model"], model)
    with pytest.raises(TrainingError, match=r"has weights that the reader has no place for: \['norm.weight'\]"):
        start._put({"norm.weight": torch.zeros(5)}, model)


# The command.

def run(*arguments: object):
    return CliRunner().invoke(app, ["sft", *map(str, arguments)])


@pytest.fixture
def official(tmp_path, photos, base, monkeypatch) -> Path:
    """Captions as a JSONL file."""
    monkeypatch.setattr(captions, "fetch_smollm2", lambda _: base)
    path = tmp_path / "captions.jsonl"
    path.write_text("".join(json.dumps({"image": str(photos[name]), "answer": text}) + "\n"
                            for name, text in CAPTIONS.items()), encoding="utf-8")
    return path


def test_the_command_trains_by_the_recipe_that_ships(official, tmp_path):
    result = run(SHIPPED, "--captions", official, "--out", tmp_path / "out")
    assert result.exit_code == 0, result.output
    assert f"stage 1: {tmp_path / 'out' / 'sft' / 'model'}" in result.output
    assert (tmp_path / "out" / "sft" / "model" / "model.safetensors").is_file()


def test_a_dry_run_prints_tokens_steps_and_memory_and_writes_nothing(official, tmp_path):
    result = run(SHIPPED, "--captions", official, "--out", tmp_path / "out", "--dry-run")
    assert result.exit_code == 0, result.output
    assert "rows        4 over 4 photos" in result.output and "steps       3" in result.output
    assert "together" in result.output and not (tmp_path / "out").exists()


@pytest.mark.parametrize(("old", "new", "says"), [
    ("max_pixels: 102400", "max_pixels: 50176", "nano is asked by the prompt direct and sees 102400 pixels"),
    ("prompt: direct ", "prompt: yes-no ", "nano is asked by the prompt direct and sees 102400 pixels"),
    ("max_length: 512", "max_length: 12", "sft.max_length is 12; raise it")])
def test_a_recipe_that_nano_cannot_follow_is_refused(official, tmp_path, old, new, says):
    text = SHIPPED.read_text(encoding="utf-8")
    assert old in text
    (tmp_path / "mine.yaml").write_text(text.replace(old, new), encoding="utf-8")
    result = run(tmp_path / "mine.yaml", "--captions", official, "--out", tmp_path / "out")
    assert result.exit_code == 2 and says in result.stderr and not (tmp_path / "out").exists()


def test_a_recipe_with_a_stage_2_says_how_nano_goes_on(official, tmp_path):
    grpo = (SHIPPED.parent / "3b.yaml").read_text(encoding="utf-8").partition("\ngrpo:")[2]
    mine = tmp_path / "mine.yaml"
    mine.write_text(SHIPPED.read_text(encoding="utf-8").replace("grpo: null", f"grpo:{grpo}"), encoding="utf-8")
    result = run(mine, "--captions", official, "--out", tmp_path / "out")
    assert result.exit_code == 2 and "go on with python -m training nano PHOTOS --start" in result.stderr


def test_verdicts_of_one_policy_are_for_the_command_that_compares_them(tmp_path):
    result = run(SHIPPED, "--classify", "--data", "folder=photos", "--out", tmp_path / "out")
    assert result.exit_code == 2 and "python -m training levels" in result.stderr


def test_a_photo_that_cannot_be_decoded_is_named(tmp_path, tokenizer):
    (tmp_path / "bad.jpg").write_bytes(b"no photo")
    with pytest.raises(TrainingError, match=r"line 3: .*bad.jpg.*; take it out of the data"):
        captions.captioned([Caption(tmp_path / "bad.jpg", "0" * 64, "A cat.", "line 3")], Bundle.embedded(), tokenizer)
