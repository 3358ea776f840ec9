"""Both stages for real on a tiny Qwen2.5-VL: what is trained and on what, what is logged, what a kill costs."""

from __future__ import annotations

import multiprocessing
import os
import shutil
import signal
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import tiny_vlm
import torch
from peft import PeftModel
from safetensors.torch import load_file, save_file
from tiny_runs import (
    CAPTIONS,
    GRPO,
    LORA,
    SFT,
    changed,
    log_of,
    rendered,
    rows,
    weights_of,
)
from transformers import AutoModelForImageTextToText, AutoProcessor, TrainerCallback

from safeguard_sdk.prompt import PROMPTS
from training.errors import TrainingError
from training.vlm import grpo, run, sft
from training.vlm.chat import Example, photo, question_example
from training.vlm.model import geometry_of

pytestmark = [
    pytest.mark.usefixtures("one_thread"),
    # trl 1.16
    pytest.mark.filterwarnings("ignore:`(is_)?gradient_checkpointing` is deprecated:FutureWarning"),
]


@pytest.fixture(scope="module")
def judge(tmp_path_factory, recipe, photos) -> str:
    """A model that answers safe or unsafe by chance, since it was told both of every photo: a start for stage 2."""
    stage = replace(SFT, epochs=10, rows_per_step=8, batch=8, save_every=100)
    examples = [question_example(replace(row, label=label), PROMPTS["direct"], answered=True)
                for row in rows(photos) for label in ("safe", "unsafe")]
    return str(sft.train(recipe, stage, examples, tmp_path_factory.mktemp("judge")))


@pytest.fixture(scope="module")
def stage1(tmp_path_factory, recipe, captions) -> Path:
    """A run of stage 1 that nothing has stopped."""
    out = tmp_path_factory.mktemp("stage1")
    sft.train(recipe, SFT, captions, out)
    return out


@pytest.fixture(scope="module")
def stage2(tmp_path_factory, recipe, questions, judge) -> Path:
    """A run of stage 2 that nothing has stopped."""
    out = tmp_path_factory.mktemp("stage2")
    grpo.train(recipe, GRPO, questions, judge, out)
    return out


class Stopped(Exception):
    pass


class StopAfter(TrainerCallback):
    def __init__(self, step: int, stop) -> None:
        self.step, self.stop = step, stop

    def on_step_end(self, args, state, control, **kwargs) -> None:
        if state.global_step == self.step:
            self.stop()


def stop() -> None:
    raise Stopped


def kill() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


# --- Stage 1 ----------------------------------------------------------------------------------------------------------
def test_the_loss_is_taken_on_the_models_turn_alone(recipe, captions, tmp_path):
    trainer = sft.make_trainer(recipe, SFT, captions, tmp_path)
    batch = trainer.data_collator([trainer.train_dataset[number] for number in range(4)])
    for labels, text in zip(batch["labels"], CAPTIONS.values(), strict=True):
        assert trainer.processing_class.tokenizer.decode(labels[labels != -100]) == f"{text}<|im_end|>\n"


def test_what_stands_before_the_models_turn_has_no_part_in_the_gradient(recipe, captions, tmp_path):
    trainer = sft.make_trainer(recipe, SFT, captions, tmp_path)
    batch = trainer.data_collator([trainer.train_dataset[0]])
    loss = trainer.compute_loss(trainer.model.eval(), dict(batch))
    labels = batch["labels"][0]
    with torch.no_grad():
        logits = trainer.model(**{key: value for key, value in batch.items() if key != "labels"}).logits[0, :-1]
    answer = labels[1:] != -100
    expected = torch.nn.functional.cross_entropy(logits[answer], labels[1:][answer])
    assert 5 < answer.sum() < 15 and loss.item() == pytest.approx(expected.item(), rel=1e-4)


def test_captions_are_learnt_by_heart_and_the_trained_model_writes_them(recipe, captions, tmp_path):
    stage = replace(SFT, epochs=25, rows_per_step=4, batch=4, learning_rate=2e-2, save_every=100)
    model = sft.train(recipe, stage, captions, tmp_path)
    losses = [row["loss"] for row in log_of(tmp_path) if "loss" in row]
    assert len(losses) == 25 and losses[0] > 7 and losses[-1] < 0.2
    written = generated(model, captions)
    assert written == list(CAPTIONS.values())


def generated(folder: Path | str, examples: list[Example], tokens: int = 20) -> list[str]:
    """What a saved model answers, as any user would ask it."""
    processor, model = AutoProcessor.from_pretrained(folder), AutoModelForImageTextToText.from_pretrained(folder)
    geometry = geometry_of(processor)
    answers = []
    for example in examples:
        inputs = processor(text=rendered(processor, example), images=[photo(example.image, geometry)],
                           return_tensors="pt")
        ids = model.generate(**inputs, max_new_tokens=tokens, do_sample=False)[0, inputs["input_ids"].shape[1]:]
        answers.append(processor.tokenizer.decode(ids, skip_special_tokens=True))
    return answers


def test_all_weights_but_those_of_the_vision_tower_are_trained(tiny, stage1):
    before, after = weights_of(tiny), weights_of(stage1 / "model")
    assert changed(before, after) == {name for name in before if "visual." not in name}


def test_an_adapter_is_merged_into_a_model_that_gives_its_logits(recipe, captions, tmp_path):
    model = sft.train(recipe, replace(SFT, lora=LORA, epochs=2), captions, tmp_path)
    adapted = load_file(tmp_path / "adapter" / "adapter_model.safetensors")
    assert len(adapted) == 2 * 2 * 7 and all(".language_model.layers." in name for name in adapted)
    before, after = weights_of(recipe.model), weights_of(model)
    assert {name.partition("layers.")[2].partition(".")[2] for name in changed(before, after)} == {
        *(f"self_attn.{letter}_proj.weight" for letter in "qkvo"), "mlp.gate_proj.weight", "mlp.up_proj.weight",
        "mlp.down_proj.weight"}
    processor = AutoProcessor.from_pretrained(model)
    inputs = processor(text=rendered(processor, captions[0]), return_tensors="pt",
                       images=[photo(captions[0].image, geometry_of(processor))])
    base = AutoModelForImageTextToText.from_pretrained(recipe.model)
    with torch.no_grad():
        plain = base(**inputs).logits
        expected = PeftModel.from_pretrained(base, tmp_path / "adapter").eval()(**inputs).logits
        found = AutoModelForImageTextToText.from_pretrained(model)(**inputs).logits
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-4)
    assert (found - plain).abs().max() > 0.1


def test_photos_held_out_are_measured_and_not_learnt_from(recipe, captions, tmp_path):
    learnt, measured = sft.held_out(captions, 0.5)
    assert learnt and measured and not {e.image for e in learnt} & {e.image for e in measured}
    trainer = sft.make_trainer(recipe, replace(SFT, validation=0.5), captions, tmp_path)
    assert (len(trainer.train_dataset), len(trainer.eval_dataset)) == (len(learnt), len(measured))
    assert trainer.evaluate()["eval_loss"] > 5


def test_the_processor_of_a_trained_model_has_the_limit_of_the_recipe(stage1):
    size = AutoProcessor.from_pretrained(stage1 / "model").image_processor.size
    assert size["longest_edge"] == tiny_vlm.MAX_PIXELS


# --- Stage 2 ----------------------------------------------------------------------------------------------------------
def test_a_step_of_stage_2_logs_reward_divergence_length_entropy_and_what_is_no_verdict(stage2):
    log = [row for row in log_of(stage2) if "reward" in row]
    assert [row["step"] for row in log] == list(range(1, 9))
    for row in log:
        assert 0 <= row["reward"] == pytest.approx(row["rewards/direct/mean"], abs=1e-6) and row["reward"] <= 1.2
        assert 0 <= row["unparsable"] <= 1 and row["entropy"] > 0 and row["kl"] >= 0
        assert 1 <= row["completions/mean_length"] <= 4 and 0 <= row["completions/clipped_ratio"] <= 1
    assert max(row["reward"] for row in log) > 0.5  # rollouts that are verdicts, and right
    assert max(row["grad_norm"] for row in log) > 0 and max(row["kl"] for row in log[1:]) > 0


def test_the_same_goes_to_tensorboard(stage2):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
    events = EventAccumulator(str(stage2 / "tensorboard"))
    events.Reload()
    wanted = {f"train/{name}" for name in ("reward", "kl", "entropy", "unparsable", "completions/mean_length")}
    assert wanted <= set(events.Tags()["scalars"])


def test_stage_2_trains_the_language_model_and_leaves_its_start_as_it_was(judge, stage2):
    after = weights_of(stage2 / "model")
    assert len(changed(weights_of(judge), after)) == len([name for name in after if "visual." not in name])


def test_a_rewarded_verdict_becomes_more_likely(recipe, judge, photos, tmp_path):
    """All photos safe: the reward of rollouts rises towards that of a right verdict in its shortest form."""
    examples = [question_example(replace(row, label="safe"), PROMPTS["direct"], answered=False) for row in rows(photos)]
    stage = replace(GRPO, lora=LORA, learning_rate=1e-2, epochs=8, prompts_per_step=8, batch=32, save_every=100)
    grpo.train(recipe, stage, examples, judge, tmp_path)
    rewards = [row["reward"] for row in log_of(tmp_path) if "reward" in row]
    assert len(rewards) == 8 and rewards[0] < 0.95 and min(rewards[-2:]) > 1.0  # 0.7 is that of a coin
    assert set(generated(tmp_path / "model", examples, tokens=3)) == {" safe"}


def test_rollouts_that_are_cut_off_are_learnt_from_only_if_the_recipe_says_so(recipe, questions, tmp_path):
    for skipped in (True, False):
        trainer = grpo.make_trainer(recipe, replace(GRPO, skip_truncated=skipped, max_completion=2), questions[:2],
                                    recipe.model, tmp_path / str(skipped))
        batch = next(iter(trainer.get_train_dataloader()))
        mask = trainer._generate_and_score_completions(batch)["completion_mask"]
        assert mask.shape == (8, 2) and mask.any().item() is not skipped  # random weights never end in two tokens


# --- Stops ------------------------------------------------------------------------------------------------------------
def stopped_run(monkeypatch, train, out: Path, step: int) -> None:
    def with_stop(folder: Path) -> list[TrainerCallback]:
        return [*callbacks(folder), StopAfter(step, stop)]

    callbacks = run.callbacks
    for stage in (sft, grpo):
        monkeypatch.setattr(stage, "callbacks", with_stop)
    with pytest.raises(Stopped):
        train(out)
    for stage in (sft, grpo):
        monkeypatch.setattr(stage, "callbacks", callbacks)


def assert_same_run(found: Path, expected: Path) -> None:
    """The same steps with the same losses, so the same rows in the same order, and the same weights."""
    def steps(out: Path) -> list[tuple]:
        return [(row["step"], row["loss"], row["grad_norm"]) for row in log_of(out) if "loss" in row]

    assert steps(found) == steps(expected)
    assert changed(weights_of(expected / "model"), weights_of(found / "model")) == set()


def test_stage_1_starts_anew_after_a_stop_before_its_first_checkpoint(monkeypatch, tmp_path, recipe, captions, stage1):
    stopped_run(monkeypatch, lambda out: sft.train(recipe, SFT, captions, out), tmp_path, step=2)
    torch.manual_seed(2)  # a new process has another state
    sft.train(recipe, SFT, captions, tmp_path)
    assert_same_run(tmp_path, stage1)


def test_an_adapter_goes_on_after_a_stop_with_the_same_rows_in_the_same_order(monkeypatch, tmp_path, recipe, captions):
    stage = replace(SFT, lora=replace(LORA, dropout=0.1), epochs=3, save_every=2)  # two steps are an epoch
    sft.train(recipe, stage, captions, tmp_path / "whole")
    stopped_run(monkeypatch, lambda out: sft.train(recipe, stage, captions, out), tmp_path / "stopped", step=5)
    torch.manual_seed(5)
    sft.train(recipe, stage, captions, tmp_path / "stopped")
    assert_same_run(tmp_path / "stopped", tmp_path / "whole")


def test_stage_2_goes_on_after_a_stop_with_the_same_rollouts(monkeypatch, tmp_path, recipe, questions, judge, stage2):
    stopped_run(monkeypatch, lambda out: grpo.train(recipe, GRPO, questions, judge, out), tmp_path, 7)
    torch.manual_seed(7)  # it goes on from step 6 of 8, in the middle of the second epoch
    grpo.train(recipe, GRPO, questions, judge, tmp_path)
    assert_same_run(tmp_path, stage2)


@pytest.mark.skipif(sys.platform != "linux", reason="forks a process that has loaded torch")
@pytest.mark.filterwarnings("ignore:.*multi-threaded, use of fork:DeprecationWarning")
def test_a_killed_process_costs_the_steps_since_its_last_checkpoint_and_nothing_else(
        monkeypatch, tmp_path, recipe, captions, stage1):
    callbacks = run.callbacks
    monkeypatch.setattr(sft, "callbacks", lambda folder: [*callbacks(folder), StopAfter(5, kill)])
    process = multiprocessing.get_context("fork").Process(target=sft.train, args=(recipe, SFT, captions, tmp_path))
    process.start()
    process.join(timeout=120)
    assert process.exitcode == -signal.SIGKILL
    monkeypatch.setattr(sft, "callbacks", callbacks)
    half = tmp_path / "checkpoint-5"  # killed while it wrote a checkpoint
    half.mkdir()
    (half / "model.safetensors").write_bytes(b"half of a mod")
    with open(tmp_path / "log.jsonl", "a", encoding="utf-8") as log:
        log.write('{"step": 5, "lo')
    sft.train(recipe, SFT, captions, tmp_path)
    assert_same_run(tmp_path, stage1)
    assert not half.exists()


def test_a_finished_run_started_again_trains_no_further(monkeypatch, recipe, captions, stage1):
    monkeypatch.setattr(sft, "make_trainer", lambda *arguments: pytest.fail("a trainer was made"))
    assert sft.train(recipe, SFT, captions, stage1) == stage1 / "model"


@pytest.mark.parametrize("change, message", [
    (lambda recipe, examples: (replace(recipe, sft=replace(SFT, seed=1)), examples), r"another seed \(0, now 1\)"),
    (lambda recipe, examples: (replace(recipe, max_pixels=3136), examples), "another max_pixels"),
    (lambda recipe, examples: (recipe, examples[::-1]), "another rows_sha256"),
])
def test_another_recipe_or_other_data_do_not_go_on_in_the_same_folder(recipe, captions, stage1, change, message):
    other, examples = change(recipe, captions)
    with pytest.raises(TrainingError, match=f"{message}.*give another --out"):
        sft.train(other, other.sft, examples, stage1)


def test_stage_2_does_not_go_on_after_stage_1_was_trained_anew(monkeypatch, recipe, questions, judge, tmp_path):
    start = shutil.copytree(judge, tmp_path / "sft" / "model")
    stopped_run(monkeypatch, lambda out: grpo.train(recipe, GRPO, questions, str(start), out), tmp_path / "grpo", 4)
    weights = load_file(start / "model.safetensors")
    name, first = next(iter(weights.items()))
    save_file(weights | {name: first + 1}, start / "model.safetensors", {"format": "pt"})
    with pytest.raises(TrainingError, match=r"grpo: was begun with another start_sha256 \(.*give another --out"):
        grpo.train(recipe, GRPO, questions, str(start), tmp_path / "grpo")


@pytest.mark.parametrize("loss", [float("nan"), float("inf")])
def test_a_loss_that_is_no_number_stops_the_run(tmp_path, loss):
    class State:
        global_step, is_world_process_zero = 7, True

    with pytest.raises(TrainingError, match=f"the loss is {loss} at step 7; lower learning_rate"):
        run.Log(tmp_path).on_log(None, State, None, {"loss": loss})


def test_qwen3_vl_goes_through_both_stages(tmp_path, recipe, captions, questions):
    other = replace(recipe, model=str(tiny_vlm.save(tmp_path / "tiny", "qwen3_vl")))
    model = sft.train(other, replace(SFT, lora=LORA, epochs=1), captions, tmp_path / "sft")
    stage = replace(GRPO, lora=LORA, epochs=1, prompts_per_step=4, max_completion=2)
    found = grpo.train(other, stage, questions, str(model), tmp_path / "grpo")
    assert changed(weights_of(other.model), weights_of(model))
    assert len([row for row in log_of(tmp_path / "grpo") if "reward" in row]) == 2 and generated(found, questions[:1])
