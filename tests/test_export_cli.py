"""`python -m export`: what goes in, what comes out, and what one line says where it fails."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from PIL import Image
from tiny_qwen import write_checkpoint
from typer.testing import CliRunner

from export.__main__ import app
from safeguard_sdk import Bundle, Guard, Policy


@pytest.fixture(scope="module")
def gate_data(photos, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("photos")
    for name in ("chelsea.png", "china.jpg"):
        with Image.open(photos[name]) as photo:
            photo.convert("RGB").resize((84, 56)).save(folder / f"{Path(name).stem}.png")
    return folder


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory) -> Path:
    return write_checkpoint(tmp_path_factory.mktemp("checkpoints") / "tiny", "qwen2_vl")


def run(*arguments):
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def error_of(result) -> str:
    lines = result.stderr.splitlines()
    assert "Traceback" not in result.output
    return next(line for line in lines if line.startswith("error: "))


def test_a_checkpoint_becomes_a_bundle_that_a_guard_runs(checkpoint, gate_data, tmp_path):
    out = tmp_path / "bundle"
    result = run(checkpoint, "--out", out, "--quant", "fp16", "--prompt", "yes-no", "--gate-data", gate_data,
                 "--gate-questions", 6)
    assert result.exit_code == 0, result.output
    shown = json.loads(result.stdout)
    assert shown["quantization"]["scheme"] == "fp16" and shown["parity"]["questions"] == 6
    assert Bundle.open(out).style.name == "yes-no"
    verdict = Guard(Policy.packaged("general"), out).check(gate_data / "chelsea.png")
    assert 0 < verdict.score < 1
    again = run("gate", out, checkpoint, "--gate-data", gate_data, "--questions", 6)
    assert again.exit_code == 0 and again.stdout.splitlines()[0].startswith("policy")


def test_engines_for_a_named_gpu_come_with_the_bundle(checkpoint, gate_data, tmp_path):
    pytest.importorskip("tensorrt_rtx", reason="TensorRT for RTX is not installed: pip install tensorrt-rtx-cu12")
    out = tmp_path / "bundle"
    result = run(checkpoint, "--out", out, "--quant", "w8a8", "--target", "tensorrt-rtx", "--capability", "86",
                 "--gate-data", gate_data, "--gate-questions", 2)
    assert result.exit_code == 0, result.output
    facts = json.loads((out / "engines" / "engines.json").read_bytes())
    assert (facts["bundle_sha256"], facts["capability"]) == (Bundle.open(out).sha256, "86")
    assert {path.name for path in (out / "engines").glob("*.engine")} == set(facts["engines"])


def test_a_bundle_whose_engines_cannot_be_built_stays_and_says_so(checkpoint, gate_data, tmp_path):
    pytest.importorskip("tensorrt_rtx", reason="TensorRT for RTX is not installed: pip install tensorrt-rtx-cu12")
    out = tmp_path / "bundle"
    result = run(checkpoint, "--out", out, "--quant", "fp16", "--target", "tensorrt-rtx", "--capability", "87",
                 "--gate-data", gate_data, "--gate-questions", 2)
    assert result.exit_code == 2
    assert f"{out}: is whole and has passed its gate, but has no engines: TensorRT" in error_of(result)
    assert Bundle.open(out).manifest["parity"]["questions"] == 2


def test_engines_that_cannot_be_built_are_refused_before_the_export(checkpoint, tmp_path):
    result = run(checkpoint, "--out", tmp_path / "bundle", "--quant", "fp8", "--target", "tensorrt",
                 "--capability", "87")
    assert result.exit_code == 2 and "engines of fp8 need a GPU of compute capability 8.9 or later" in error_of(result)
    (tmp_path / "reader.pt").touch()
    result = run(tmp_path, "--out", tmp_path / "bundle", "--quant", "fp16", "--target", "tensorrt")
    assert result.exit_code == 2 and "runs in ONNX Runtime only" in error_of(result)
    assert not (tmp_path / "bundle").exists()


def test_a_bundle_beyond_the_gate_is_status_1_with_a_table_and_no_folder(checkpoint, gate_data, tmp_path):
    result = run(checkpoint, "--out", tmp_path / "bundle", "--gate-data", gate_data, "--gate-questions", 6,
                 "--max-drift", 0)
    assert result.exit_code == 1
    assert "no bundle was written" in error_of(result)
    assert any(line.startswith("all ") for line in result.stderr.splitlines())
    assert list(tmp_path.iterdir()) == []


WRONG = {
    "an empty folder": ("{empty}", [], "has neither model.safetensors nor"),
    "no photos": ("{checkpoint}", ["--gate-data", "{empty}"], "has no photos"),
    "a base without adapter": ("{checkpoint}", ["--base", "{checkpoint}"], "so it is no adapter and has no base"),
}


@pytest.mark.parametrize("wrong", WRONG)
def test_status_2_and_one_line_for(wrong, checkpoint, tmp_path):
    places = {"empty": tmp_path / "empty", "checkpoint": checkpoint}
    places["empty"].mkdir()
    source, options, says = WRONG[wrong]
    result = run(source.format(**places), "--out", tmp_path / "out", *(option.format(**places) for option in options))
    assert result.exit_code == 2
    assert says in error_of(result)


@pytest.mark.parametrize("options, says", [
    (["--quant", "int3"], "fp32, fp16, w8a8"), (["--prompt", "haiku"], "direct"),
    (["--target", "coreml"], "tensorrt-rtx")])
def test_an_unknown_choice_names_the_known_ones(checkpoint, tmp_path, options, says):
    result = run(checkpoint, "--out", tmp_path / "out", *options)
    assert result.exit_code == 2 and says in result.stderr


def test_plan_lists_models_and_an_unknown_device_lists_devices():
    assert "Qwen3-VL-2B" in run("plan", "--device", "orin-nano-8gb").stdout
    result = run("plan", "--device", "toaster")
    assert result.exit_code == 2 and "orin-nano-8gb" in result.stderr
