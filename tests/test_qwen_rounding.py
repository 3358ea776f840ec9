"""w4a16: weights are rounded in turn, each layer on what the rounded layers before it give."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from tiny_qwen import write_checkpoint

from export.parity import draw_questions, pixels_of
from export.quantize import quantize_blocks, quantize_blocks_in_turn, read_blocks
from export.qwen import rounding
from export.qwen.build import Checkpoint, Order
from export.qwen.store import BLOCKS

FAMILY = "qwen2_5_vl"


@pytest.fixture(scope="module")
def opened(tmp_path_factory) -> Checkpoint:
    folder = write_checkpoint(tmp_path_factory.mktemp("checkpoints") / FAMILY, FAMILY)
    return Checkpoint.open(Order(folder, folder / "out", max_image_tokens=9))


@pytest.fixture(scope="module")
def given(opened) -> tuple[list[str], list]:
    """Texts of unequal length, so that some are padded, and images."""
    drawn = draw_questions(None, 6)
    pixels = pixels_of(drawn, opened.geometry)
    return [opened.style.prefix(question.text) for question in drawn], [pixels[question.photo] for question in drawn]


@pytest.fixture(scope="module")
def rounded(opened, given, tmp_path_factory):
    """The files of the rounded weights, and how many weights were said to be done."""
    done: list[int] = []
    return rounding.round_layers(opened.reference(), *given, tmp_path_factory.mktemp("rounded"), done.append), sum(done)


def asked(opened, given, weight_of) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """Logits with other weights in place of the checkpoint's, and the rows that each layer multiplied."""
    reference, rows = opened.reference(), {}

    def replace(name: str):
        def replace_weight(module: torch.nn.Linear, inputs: tuple[torch.Tensor, ...]) -> None:
            rows[name] = inputs[0].flatten(0, -2)[reference.real.flatten()].numpy()
            weight = torch.from_numpy(weight_of(name, module.weight.numpy().T).T.copy())
            module.weight = torch.nn.Parameter(weight, requires_grad=False)
        return replace_weight

    for name, module in rounding.layers_of(reference).items():
        module.register_forward_pre_hook(replace(name))
    return reference.logits(*given, together=len(given[0])), rows


def test_queries_outputs_and_feed_forward_of_the_language_model_are_rounded(opened, rounded):
    files, done = rounded
    parts = {name.removeprefix("layers.").split(".", 1)[1] for name in files}
    assert parts == {f"{part}.weight" for part in ("self_attn.q_proj", "self_attn.o_proj", "mlp.gate_proj",
                                                   "mlp.up_proj", "mlp.down_proj")}  # keys and values keep 8 bits
    assert done == rounding.weights_of(opened.reference()) == sum(opened.weights.rows(name).numel() for name in files)


def test_each_layer_is_rounded_on_what_the_rounded_layers_before_it_give(opened, given, rounded):
    files, _ = rounded
    _, rows = asked(opened, given, lambda name, weight: read_blocks(files[name]).weight[:len(weight)])
    for name, file in files.items():
        weight = opened.weights.rows(name).numpy().T
        again = quantize_blocks_in_turn(weight, rounding.BITS, BLOCKS[rounding.BITS], rows[name])
        np.testing.assert_array_equal(again.levels, read_blocks(file).levels)


def test_each_product_is_kept_better_than_with_weights_rounded_alone(opened, given, rounded):
    files, _ = rounded
    _, rows = asked(opened, given, lambda name, weight: read_blocks(files[name]).weight[:len(weight)])
    for name, file in files.items():
        weight = opened.weights.rows(name).numpy().T
        by_itself = quantize_blocks(weight, rounding.BITS, BLOCKS[rounding.BITS])
        in_turn, alone = (np.square(rows[name] @ (blocks.weight[:len(weight)] - weight)).mean()
                          for blocks in (read_blocks(file), by_itself))
        assert in_turn < 0.8 * alone


def test_the_logits_stay_near_those_of_the_checkpoint(opened, given, rounded):
    files, _ = rounded
    exact, _ = asked(opened, given, lambda name, weight: weight)
    found, _ = asked(opened, given, lambda name, weight: read_blocks(files[name]).weight[:len(weight)])
    assert 0 < np.abs(found - exact).mean() < 0.5 * exact.std()
