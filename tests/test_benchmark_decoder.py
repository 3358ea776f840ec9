"""The benchmark of Qwen-VL bundles runs every system on the same question. Its numbers are not judged here."""

from __future__ import annotations

import json
import sys

import pytest
import torch
import typer
from tiny_qwen import write_checkpoint
from typer.testing import CliRunner

from benchmarks import random_weights
from benchmarks.decoder import app
from benchmarks.decoder_rivals import genai, openvino
from benchmarks.operators import MOST
from export.plan import Model
from export.qwen.build import Order, export_qwen
from export.qwen.shapes import QwenShape
from export.qwen.weights import Weights


def test_it_compares_a_bundle_with_its_checkpoint_and_ends_with_one_line_of_json(photos, tmp_path):
    folder = write_checkpoint(tmp_path / "checkpoint", "qwen2_5_vl")
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "cat.png").write_bytes(photos["chelsea.png"].read_bytes())
    export_qwen(Order(folder, tmp_path / "bundle", "w8a8", gate_data=tmp_path / "photos", questions=2, max_flips=1,
                      max_drift=1))
    result = CliRunner().invoke(app, [str(folder), "--bundle", str(tmp_path / "bundle"), "--policy-tokens", "40",
                                      "--image-tokens", "16", "--runs", "1", "--threads", "1"])
    assert result.exit_code == 0, result.output
    found = json.loads(result.stdout.splitlines()[-1])
    assert set(found["ms"]) == {"ours", "vision", "transformers", "cached", "gemm"} and min(found["ms"].values()) > 0
    assert found["policy_tokens"] >= 40 and found["tokens_after"] > 16
    assert set(found["ms_of_operators"]) == {"vision", "decoder"}
    assert all(times["MatMulIntegerToFloat"] >= 0 and len(times) == MOST + 1
               for times in found["ms_of_operators"].values())


@pytest.mark.parametrize(("module", "open_rival"), [
    ("openvino_genai", lambda folder: openvino(folder, "no guns", "verdict:", 56, 1)),
    ("onnxruntime_genai", lambda folder: genai(folder, [1, 2, 3], 2, 1))])
def test_a_rival_that_is_not_installed_is_an_error_that_says_how_to_get_it(module, open_rival, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(typer.BadParameter, match=f"pip install {module.replace('_', '-')}"):
        open_rival(tmp_path)


def test_random_weights_are_a_whole_checkpoint_in_shards(tmp_path, monkeypatch):
    monkeypatch.setattr(random_weights, "SHARD", 1 << 20)
    model = Model(width=256, layers=2, heads=2, groups=1, inner=384, vocabulary=1000, vision_depth=2, vision_width=64,
                  vision_inner=90, vision_matrices=3, mergers=1)
    random_weights.write_random(model, tmp_path)
    weights, shape = Weights(tmp_path), QwenShape.read(tmp_path)
    assert len(list(tmp_path.glob("*.safetensors"))) > 2
    assert (shape.decoder.width, shape.decoder.tied, shape.vision.out) == (256, True, 256)
    assert weights.shape("layers.1.mlp.down_proj.weight") == (256, 384)
    assert weights.rows("visual.blocks.0.attn.qkv.weight").std() == pytest.approx(0.02, rel=0.1)
    assert torch.equal(weights.rows("norm.weight"), torch.ones(256))
    index = json.loads((tmp_path / "model.safetensors.index.json").read_bytes())
    assert 0 < index["metadata"]["total_size"] < sum(file.stat().st_size for file in tmp_path.glob("*.safetensors"))
    config = json.loads((tmp_path / "config.json").read_bytes())
    assert config["architectures"] == ["Qwen2_5_VLForConditionalGeneration"]
