"""How weights reach a bundle: read by row, LoRA merged, quantised row by row; and the host's geometry beside them."""

from __future__ import annotations

import itertools
import json
import warnings
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import helper
from safetensors.torch import load_file, save_file
from tiny_qwen import load_model, write_checkpoint

from export.failures import ExportError
from export.quantize import quantize_blocks, write_blocks
from export.qwen.store import Source, store
from export.qwen.weights import Weights, canonical
from safeguard_sdk.engine import grids
from safeguard_sdk.engine.session import Graph

FAMILY = "qwen2_5_vl"


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory) -> Path:
    return write_checkpoint(tmp_path_factory.mktemp("checkpoints") / FAMILY, FAMILY)


@pytest.fixture(scope="module")
def adapter(checkpoint, tmp_path_factory) -> tuple[Path, dict[str, torch.Tensor]]:
    """A LoRA adapter as peft saves it, and the weights that peft merges it into."""
    from peft import LoraConfig, get_peft_model
    torch.manual_seed(1)
    config = LoraConfig(r=4, lora_alpha=12, target_modules=["q_proj", "v_proj", "down_proj"], init_lora_weights=False)
    folder = tmp_path_factory.mktemp("adapter")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # peft asks transformers for names that are deprecated
        model = get_peft_model(load_model(checkpoint, FAMILY), config)
        model.save_pretrained(folder)
    merged = {canonical(name): tensor for name, tensor in model.merge_and_unload().state_dict().items()}
    return folder, merged


@pytest.mark.parametrize("name, found", [
    ("model.language_model.layers.0.mlp.up_proj.weight", "layers.0.mlp.up_proj.weight"),  # transformers 5, Qwen3-VL
    ("language_model.model.layers.0.mlp.up_proj.weight", "layers.0.mlp.up_proj.weight"),  # transformers 4.52
    ("model.layers.0.mlp.up_proj.weight", "layers.0.mlp.up_proj.weight"),                 # as published
    ("model.visual.merger.mlp.0.bias", "visual.merger.mlp.0.bias"),
    ("visual.merger.mlp.0.bias", "visual.merger.mlp.0.bias"), ("lm_head.weight", "lm_head.weight"),
])
def test_a_tensor_has_one_name_whichever_version_wrote_it(name, found):
    assert canonical(name) == found


def test_an_adapter_is_merged_as_peft_merges_it(checkpoint, adapter):
    folder, merged = adapter
    weights, plain = Weights(folder, base=checkpoint), Weights(checkpoint)
    changed = 0
    for name in plain.names():
        np.testing.assert_allclose(weights.rows(name), merged[name], rtol=0, atol=1e-5)
        changed += not torch.equal(weights.rows(name), plain.rows(name))
    assert changed == len(weights.adapter.low) > 0


def test_rows_of_a_merged_weight_are_those_of_the_whole(checkpoint, adapter):
    weights, name = Weights(adapter[0], base=checkpoint), "layers.1.mlp.down_proj.weight"
    whole = weights.rows(name)
    torch.testing.assert_close(torch.cat([weights.rows(name, 0, 7), weights.rows(name, 7)]), whole, rtol=0, atol=1e-6)


@pytest.mark.parametrize("change, says", [
    ({"peft_type": "IA3"}, "only LORA is merged here"), ({"use_dora": True}, "has use_dora, which is not merged here"),
    ({"bias": "all"}, "trains biases"), ({"modules_to_save": ["lm_head"]}, "has modules_to_save"),
])
def test_an_adapter_of_another_kind_is_refused(adapter, checkpoint, tmp_path, change, says):
    config = json.loads((adapter[0] / "adapter_config.json").read_bytes())
    (tmp_path / "adapter_config.json").write_text(json.dumps(config | change), encoding="utf-8")
    with pytest.raises(ExportError, match=says):
        Weights(tmp_path, base=checkpoint)


def test_an_adapter_whose_base_is_not_here_says_how_to_name_it(adapter, tmp_path):
    config = json.loads((adapter[0] / "adapter_config.json").read_bytes())
    config["base_model_name_or_path"] = "Qwen/Qwen2.5-VL-7B-Instruct"
    (tmp_path / "adapter_config.json").write_text(json.dumps(config), encoding="utf-8")
    with pytest.raises(ExportError, match="no checkpoint folder here; name the folder with --base"):
        Weights(tmp_path)


def test_shards_are_read_as_one(checkpoint, tmp_path):
    whole = load_file(checkpoint / "model.safetensors")
    names = sorted(whole)
    files = {name: f"model-{place % 3}.safetensors" for place, name in enumerate(names)}
    for file in set(files.values()):
        save_file({name: whole[name] for name in names if files[name] == file}, tmp_path / file)
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps({"weight_map": files}), encoding="utf-8")
    weights, plain = Weights(tmp_path), Weights(checkpoint)
    assert weights.names() == plain.names()
    assert all(torch.equal(weights.rows(name), plain.rows(name)) for name in plain.names())


def test_an_index_that_leads_out_of_the_folder_is_refused(tmp_path):
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"a": "../b.safetensors"}}))
    with pytest.raises(ExportError, match="lie in the checkpoint's own folder"):
        Weights(tmp_path)


def test_weights_that_are_not_finite_are_refused(tmp_path):
    save_file({"norm.weight": torch.tensor([1.0, float("nan")])}, tmp_path / "model.safetensors")
    with pytest.raises(ExportError, match=r"norm\.weight holds numbers that are not finite"):
        Weights(tmp_path).rows("norm.weight")


# Few bits

INPUTS, OUTPUTS = 70, 48  # inputs that no block divides


def graph_of_product() -> onnx.ModelProto:
    """x @ layer.weight, without the weight."""
    tensor = onnx.TensorProto(name="layer.weight", data_type=1, dims=(INPUTS, OUTPUTS),
                              data_location=onnx.TensorProto.EXTERNAL)
    tensor.external_data.add(key="location", value="")
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["x", "layer.weight"], ["y"])], "product",
        [helper.make_tensor_value_info("x", 1, ["batch", "rows", INPUTS])],
        [helper.make_tensor_value_info("y", 1, ["batch", "rows", OUTPUTS])], [tensor])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)


@pytest.fixture(scope="module")
def product(tmp_path_factory):
    """product(scheme) → the graph of x @ weight in that scheme; and the weight, of which one output is all zero."""
    folder = tmp_path_factory.mktemp("product")
    weight = torch.randn(OUTPUTS, INPUTS, generator=torch.Generator().manual_seed(0)) / 8
    weight[3] = 0
    save_file({"layer.weight": weight}, folder / "model.safetensors")

    def make(scheme: str) -> Graph:
        store(graph_of_product(), Source(Weights(folder), ""), folder / f"{scheme}.onnx", scheme)
        return Graph(folder / f"{scheme}.onnx", "cpu", 1)

    return make, weight.numpy().T


@pytest.mark.parametrize("scheme, most", [
    ("fp32", 1e-6), ("fp16", 1e-3), ("w8a8", 0.02), ("fp8", 0.06), ("w8a16", 0.02), ("w4a16", 0.135)])
def test_each_scheme_costs_what_it_may(product, scheme, most):
    make, weight = product
    x = np.random.default_rng(0).normal(size=(2, 9, INPUTS)).astype(np.float32)
    x[0, 2] = 0
    (found,) = make(scheme).run({"x": x}, ["y"])
    error = np.abs(found - x @ weight).max() / np.abs(x @ weight).max()
    assert error <= most
    assert scheme == "fp32" or error > 0
    assert not found[0, 2].any()
    # TensorRT's scales are above zero, so ours are; a bias of the size of float32's rounding is left of MatMulNBits.
    assert np.abs(found[..., 3]).max() <= (1e-9 if scheme in ("w8a16", "w4a16") else 0)


@pytest.mark.parametrize("scheme", ["w8a8", "fp8", "w8a16", "w4a16"])
def test_a_row_has_the_same_bits_beside_a_row_a_thousand_times_as_large(product, scheme):
    graph = product[0](scheme)
    x = np.random.default_rng(0).normal(size=(4, 16, INPUTS)).astype(np.float32)
    (alone,) = graph.run({"x": x[:1]}, ["y"])
    x[1:] *= 1000
    (beside,) = graph.run({"x": x}, ["y"])
    np.testing.assert_array_equal(beside[:1], alone)


def test_numbers_beyond_float16_are_refused_and_not_made_infinite(tmp_path):
    save_file({"layer.weight": torch.full((8, 8), 1e6)}, tmp_path / "model.safetensors")
    tensor = onnx.TensorProto(name="layer.weight", data_type=1, dims=(8, 8), data_location=1)
    tensor.external_data.add(key="location", value="")
    graph = helper.make_graph([helper.make_node("MatMul", ["x", "layer.weight"], ["y"])], "product", [], [], [tensor])
    with pytest.raises(ExportError, match=r"1e\+06, more than float16 can; export with --quant fp32"):
        store(helper.make_model(graph), Source(Weights(tmp_path), ""), tmp_path / "graph.onnx", "fp16")


# Geometry

GRIDS = ((2, 2), (2, 8), (8, 2), (8, 8), (10, 6), (12, 18))


@pytest.mark.parametrize("grid", GRIDS)
def test_windows_and_positions_are_those_of_transformers(grid):
    from transformers import vision_utils
    thw = torch.tensor([(1, *grid)])
    positions = grids.patch_positions(grid, 2)
    np.testing.assert_array_equal(positions, vision_utils.get_vision_position_ids(thw, 2))
    index, bounds = vision_utils.get_vision_window_index(thw, 2, window_size=8 * 14, patch_size=14)
    patches = (index[:, None] * 4 + torch.arange(4)).flatten().tolist()
    expected = [set(patches[start:end]) for start, end in itertools.pairwise(bounds)]
    slots, bias, places = grids.windows(positions, 8)
    assert [set(row[hidden == 0].tolist()) for row, hidden in zip(slots, bias, strict=True)] == expected
    np.testing.assert_array_equal(slots.reshape(-1)[places], np.arange(len(positions)))
    entries, weights = grids.position_corners(positions, grid, 48)
    one, other = vision_utils.get_vision_interpolation_indices_and_weights(thw, 48, align_corners=True,
                                                                           spatial_merge_size=2)
    np.testing.assert_array_equal(entries, one)
    np.testing.assert_allclose(weights, other, rtol=0, atol=1e-6)


@pytest.mark.parametrize("grid", [(1, 1), (2, 3), (5, 2)])
def test_positions_in_the_text_are_those_of_transformers(checkpoint, grid):
    model, before, after = load_model(checkpoint, FAMILY), 7, 4
    kinds = torch.tensor([[0] * before + [1] * (grid[0] * grid[1]) + [0] * after])
    ids = torch.where(kinds == 1, model.config.image_token_id, 5)
    expected, _ = model.model.get_rope_index(ids, kinds, torch.tensor([(1, 2 * grid[0], 2 * grid[1])]))
    found = grids.token_positions(grid, before, after)
    np.testing.assert_array_equal(np.concatenate([np.broadcast_to(np.arange(before), (3, before)), found], 1),
                                  expected[:, 0])


def test_the_graph_multiplies_with_the_weights_that_were_rounded_in_turn(tmp_path):
    weight = torch.randn(OUTPUTS, INPUTS, generator=torch.Generator().manual_seed(1))
    save_file({"layer.weight": weight}, tmp_path / "model.safetensors")
    other = quantize_blocks(weight.numpy().T + 1, 4, 64)  # told apart from what the checkpoint holds
    write_blocks(other, tmp_path / "rounded.npz")
    model = graph_of_product()
    store(model, Source(Weights(tmp_path), "", rounded={"layer.weight": tmp_path / "rounded.npz"}),
          tmp_path / "product.onnx", "w4a16")
    (found,) = Graph(tmp_path / "product.onnx", "cpu", 1).run({"x": np.eye(INPUTS, dtype=np.float32)[None]}, ["y"])
    np.testing.assert_allclose(found[0], other.weight[:INPUTS], rtol=0, atol=0.05)


def test_a_layer_with_values_far_beyond_the_others_is_kept_in_blocks(checkpoint, photos, tmp_path):
    from export.parity import Question, pixels_of
    from export.qwen.build import Checkpoint, Order
    from export.qwen.sensitivity import losses, sensitive
    weights = load_file(checkpoint / "model.safetensors")
    folder = write_checkpoint(tmp_path / "outliers", FAMILY)
    spoilt = next(name for name in weights if name.endswith("layers.1.mlp.up_proj.weight"))
    weights[spoilt][5] *= 1000  # one value of every row in front of down_proj
    weights[spoilt.replace("up_proj", "down_proj")][:, 5] /= 1000
    save_file(weights, folder / "model.safetensors", {"format": "pt"})
    opened = Checkpoint.open(Order(folder, tmp_path / "out", max_image_tokens=9))
    question = Question("general", "rule", "No cats.", photos["chelsea.png"])
    found = losses(opened.reference(), ["No cats."], [pixels_of([question], opened.geometry)[question.photo]])
    assert "layers.1.mlp.down_proj.weight" in sensitive(found)
    assert found["layers.1.mlp.down_proj.weight"] > 10 * found["layers.0.mlp.down_proj.weight"]
    assert "visual.blocks.0.mlp.down_proj.weight" in found
