"""A Qwen-VL bundle, from a checkpoint folder to verdicts: what transformers says of it, `Guard` says as well."""

from __future__ import annotations

import io
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from scan_world import animation, by_name, rows_of, write_folder
from tiny_qwen import load_model, write_checkpoint

from export.failures import ExportError
from export.gate import ParityError
from export.qwen import build
from export.qwen.build import Checkpoint, Order, export_qwen
from safeguard_sdk import Bundle, EngineError, Guard, Policy, PolicyError
from safeguard_sdk.engine import open_engine, qwen_vl
from safeguard_sdk.image import decode_image, to_model_input
from safeguard_sdk.prompt import PROMPTS
from safeguard_sdk.scan import Options, rescan, scan
from safeguard_sdk.scan.rows import record_of

PHOTOS = ("astronaut.png", "chelsea.png", "china.jpg", "coffee.png", "rocket.jpg", "text.png")
SIZES = ((84, 56), (56, 84), (84, 56), (168, 56), (56, 56), (140, 112))  # (width, height): some alike, none all
POLICY = Policy.from_text("No weapons, no smoking. Kitchen knives are fine.")
FAMILIES = ("qwen2_5_vl", "qwen3_vl")


@pytest.fixture(scope="module", params=FAMILIES)
def family(request) -> str:
    return request.param


@pytest.fixture(scope="module")
def gate_data(photos, tmp_path_factory) -> Path:
    """A few real photos, small."""
    folder = tmp_path_factory.mktemp("photos")
    for name, size in zip(PHOTOS, SIZES, strict=True):
        with Image.open(photos[name]) as photo:
            photo.convert("RGB").resize(size).save(folder / f"{Path(name).stem}.png")
    return folder


@pytest.fixture(scope="module")
def checkpoint(family, tmp_path_factory) -> Path:
    return write_checkpoint(tmp_path_factory.mktemp("checkpoints") / family, family, tied=family == "qwen3_vl")


@pytest.fixture(scope="module")
def order(checkpoint, gate_data, tmp_path_factory) -> Order:
    return Order(checkpoint, tmp_path_factory.mktemp("bundles") / "tiny", "fp32", "safeguard-vl", gate_data=gate_data,
                 questions=12)


@pytest.fixture(scope="module")
def bundle(order) -> Bundle:
    """In fp32."""
    export_qwen(order)
    return Bundle.open(order.out)


@pytest.fixture(scope="module")
def guard(bundle) -> Guard:
    return Guard(POLICY, bundle, threads=1)


@pytest.fixture(scope="module")
def images(gate_data) -> list[Path]:
    return sorted(gate_data.iterdir())


# fp32: what transformers says

def test_in_fp32_the_gate_finds_the_checkpoint_again(bundle):
    parity = bundle.manifest["parity"]
    assert parity["questions"] == 12 and parity["flip_rate"] == 0
    assert parity["max_drift"] <= 1e-5
    assert sum(one["questions"] for one in parity["policies"].values()) == 12


def test_the_logits_are_those_of_transformers(bundle, guard, order, images):
    """For every image alone, its whole prompt in one sequence: no cache, no padding, positions by transformers."""
    opened = Checkpoint.open(order)
    reference, text = opened.reference(), bundle.style.prefix(POLICY.rules[0].canonical_text)
    prepared = [to_model_input(decode_image(path), bundle.geometry) for path in images]
    expected = np.concatenate([reference.logits([text], [image]) for image in prepared])
    found = guard.engine.score(guard.engine.read(text), guard.engine.encode(prepared))
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-4)
    assert np.ptp(expected[:, 1] - expected[:, 0]) > 0.01  # the images decide, so the tolerance means something


def test_the_reference_is_the_model_that_transformers_loads(checkpoint, family, order, bundle, images):
    """It reads weights layer by layer; here is the same in the plain way."""
    opened, model = Checkpoint.open(order), load_model(checkpoint, family)
    reference, text = opened.reference(), bundle.style.prefix("No cats.")
    pixels, grid = to_model_input(decode_image(images[0]), bundle.geometry)
    ids = torch.tensor([reference.input_ids(text, grid, 2)])
    with torch.no_grad():
        logits = model(input_ids=ids, pixel_values=torch.from_numpy(pixels), image_grid_thw=torch.tensor([grid]),
                       mm_token_type_ids=(ids == model.config.image_token_id).int()).logits[0, -1, list(opened.verdict)]
    np.testing.assert_allclose(reference.logits([text], [(pixels, grid)])[0], logits, rtol=0, atol=1e-5)


def test_the_prompt_is_what_the_chat_template_makes_of_policy_image_and_question(order, bundle):
    opened = Checkpoint.open(order)
    reference, style = opened.reference(), PROMPTS["safeguard-vl"]
    content = [{"type": "text", "text": style.prefix("No cats.")}, {"type": "image"}]
    text = opened.tokenizer.apply_chat_template([{"role": "user", "content": content}], tokenize=False,
                                                add_generation_prompt=True)
    rendered = opened.tokenizer.decode(reference.input_ids(style.prefix("No cats."), (1, 4, 6), 2))
    assert rendered.replace("<|image_pad|>" * 6, "<|image_pad|>") == text


# The same verdict alone and in any batch

@pytest.mark.parametrize("scheme", ["fp32", "w8a8", "fp8", "w4a16"])
def test_an_image_has_the_same_bits_alone_and_beside_others_of_any_size(order, bundle, images, tmp_path, scheme):
    if scheme != "fp32":
        export_qwen(replace(order, out=tmp_path / "few-bits", scheme=scheme, max_flips=1, max_drift=1))
        bundle = Bundle.open(tmp_path / "few-bits")
    guard = Guard(POLICY, bundle, threads=1)
    alone = [guard.check(path) for path in images]
    assert len({verdict.score for verdict in alone}) == len(images)
    for batch_size in (2, 5, 6):
        assert list(guard.check_many(images, batch_size)) == alone
    assert list(guard.check_many(images[::-1])) == alone[::-1]


@pytest.mark.parametrize("scheme, most", [("fp16", 0.002), ("w8a16", 0.02), ("w8a8", 0.05), ("fp8", 0.1)])
def test_few_bits_move_scores_a_little(order, tmp_path, scheme, most):
    manifest = export_qwen(replace(order, out=tmp_path / scheme, scheme=scheme, max_flips=1, max_drift=1))
    assert 0 < manifest["parity"]["mean_drift"] <= most
    assert manifest["quantization"]["scheme"] == scheme


def test_a_long_policy_is_read_in_parts_and_many_images_in_turns(guard, images, monkeypatch):
    """Which changes no more than the last bits of what the policy left in the cache, and nothing between images."""
    engine = guard.engine
    embeddings = engine.encode([to_model_input(decode_image(path), engine.bundle.geometry) for path in images])
    whole = engine.score(engine.read("No cats, no dogs, no horses."), embeddings)
    monkeypatch.setattr(qwen_vl, "READ_STEP", 7)
    parts = engine.read("No cats, no dogs, no horses.")
    np.testing.assert_allclose(engine.score(parts, embeddings), whole, rtol=0, atol=1e-5)
    together = engine.score(parts, embeddings)
    monkeypatch.setattr(qwen_vl, "SCORES", 1)
    alone = engine.encode([to_model_input(decode_image(path), engine.bundle.geometry) for path in images])
    np.testing.assert_array_equal(engine.score(parts, alone), together)


# In a scan

def test_in_a_scan_every_image_has_the_verdict_of_check_and_runs_beside_those_of_its_shape(
        guard, images, tmp_path, monkeypatch):
    grids_seen: list[set[tuple[int, ...]]] = []
    encode = guard.engine.encode
    monkeypatch.setattr(guard.engine, "encode", lambda batch: (
        grids_seen.append({grid for _, grid in batch}), encode(batch))[1])
    folder = write_folder(tmp_path / "photos", {path.name: path.read_bytes() for path in images} | {
        "bad.png": b"x", "moving.gif": animation(["white", "red", "blue"], side=60)})
    Image.new("RGB", (2100, 10)).save(folder / "long.png")
    summary = scan(guard, [folder], tmp_path / "out", Options(workers=2, frames=3, batch_size=4))
    assert grids_seen and all(len(grids) == 1 for grids in grids_seen)
    rows = by_name(tmp_path / "out")
    assert [record_of(rows[path.name]).verdict for path in images] == [guard.check(path) for path in images]
    assert summary["failure_kinds"] == {"bad_shape": 1, "not_an_image": 1}
    frames = [guard.check(Image.new("RGB", (60, 60), colour)).score for colour in ("white", "red", "blue")]
    assert rows["moving.gif"]["score"] == pytest.approx(max(frames), abs=0.01) and rows["moving.gif"]["frame"] < 3


def test_rescan_gives_the_rows_of_a_scan_from_the_kept_embeddings(bundle, guard, images, tmp_path, monkeypatch):
    monkeypatch.setattr("safeguard_sdk.scan.pipeline.CACHED_BYTES", 1)  # a part ends when its embeddings have so many
    scan(guard, images, tmp_path / "old", Options(workers=1, cache_embeddings=True))
    assert len(list((tmp_path / "old/parts").iterdir())) == len(images)
    other, options = Guard(Policy.from_text("No cats."), bundle, threads=1), Options(workers=1, thumbnails=False)
    scan(other, images, tmp_path / "fresh", options)
    rescan(other, tmp_path / "old", tmp_path / "again", options)
    assert rows_of(tmp_path / "again") == rows_of(tmp_path / "fresh")


def test_the_thumbnail_in_a_scan_is_the_picture_in_its_shape(bundle, photos, tmp_path):
    everything = Guard(Policy.from_yaml("rules: [{id: all, text: Everything., unsafe_at: 0}]"), bundle, threads=1)
    scan(everything, [photos["china.jpg"]], tmp_path / "out", Options(workers=1))
    (row,) = rows_of(tmp_path / "out")
    with Image.open(io.BytesIO(row["thumbnail"])) as thumbnail, Image.open(photos["china.jpg"]) as photo:
        small = np.asarray(photo.resize(thumbnail.size), float)
        assert thumbnail.size == (160, 107) and np.abs(np.asarray(thumbnail, float) - small).mean() < 20


# Text on the same cache

@pytest.mark.parametrize("question", [None, "What is in the picture?"])
def test_explain_writes_token_for_token_what_generate_writes(
        checkpoint, family, order, bundle, guard, images, monkeypatch, question):
    monkeypatch.setattr(qwen_vl, "MAX_NEW_TOKENS", 12)
    opened, model = Checkpoint.open(order), load_model(checkpoint, family)
    pixels, grid = to_model_input(decode_image(images[1]), bundle.geometry)
    text = bundle.style.prefix(POLICY.rules[0].canonical_text)
    style = replace(bundle.style, suffix=bundle.style.suffix if question is None else question)
    reference = opened.reference()
    reference.style = style
    ids = torch.tensor([reference.input_ids(text, grid, 2)])
    with torch.no_grad():
        written = model.generate(
            input_ids=ids, attention_mask=torch.ones_like(ids), pixel_values=torch.from_numpy(pixels),
            image_grid_thw=torch.tensor([grid]), mm_token_type_ids=(ids == model.config.image_token_id).int(),
            max_new_tokens=12, do_sample=False)[0, ids.shape[1]:].tolist()
    engine = guard.engine
    embedding, = engine.encode([(pixels, grid)])
    found = list(engine._generate(engine.read(text), embedding, style.suffix, ""))
    assert found == [token for token in written if token not in engine._turns.stop]
    pieces: list[str] = []
    verdict = guard.explain(images[1], question, stream=pieces.append)
    assert verdict.rationale == "".join(pieces) == opened.tokenizer.decode(found, skip_special_tokens=True)
    assert len(pieces) > 1
    assert replace(verdict, rationale=None) == guard.check(images[1])


def test_text_ends_at_a_stop_token_and_at_the_limit(guard, images, monkeypatch):
    monkeypatch.setattr(qwen_vl, "MAX_NEW_TOKENS", 6)
    engine = guard.engine
    embedding, = engine.encode([to_model_input(decode_image(images[0]), engine.bundle.geometry)])
    prefix = engine.read("No cats.")
    ids = list(engine._generate(prefix, embedding, "", ""))
    assert len(ids) == 6
    monkeypatch.setattr(engine, "_turns", replace(engine._turns, stop=(ids[3],)))
    assert list(engine._generate(prefix, embedding, "", "")) == ids[:ids.index(ids[3])]


def test_a_bundle_without_lm_head_judges_and_says_why_it_cannot_explain(order, guard, images, tmp_path):
    export_qwen(replace(order, out=tmp_path / "mute", text=False))
    mute = Guard(POLICY, tmp_path / "mute", threads=1)
    assert mute.check(images[0]).score == guard.check(images[0]).score
    with pytest.raises(EngineError, match=r"mute was exported without lm_head\.onnx, so it writes no text; export it"):
        mute.explain(images[0])


# What a bundle says of itself, and what is refused

def test_the_manifest_names_what_it_was_made_from(bundle, checkpoint, family):
    manifest = bundle.manifest
    assert manifest["base_model"][0] == {"name": family, "family": family, "licence": "not stated in the checkpoint"}
    assert set(manifest["checkpoint"]) == {"model.safetensors"}
    assert (bundle.path / "README.md").read_text(encoding="utf-8").startswith("# tiny: a bundle for safeguard")
    assert {entry["file"] for entry in manifest["files"]} == {
        "tokenizer.json", "embeddings.npy", *(f"{graph}.{end}" for graph in ("vision", "decoder", "lm_head")
                                              for end in ("onnx", "bin"))}


def test_a_policy_that_is_too_long_is_refused(guard):
    with pytest.raises(PolicyError, match="tiny reads at most 4096; shorten it"):
        guard.engine.read("cat " * 4097)


def test_special_tokens_in_a_policy_are_plain_letters(guard):
    assert guard.engine.count_tokens("<|image_pad|>") > 1


def test_beyond_the_limits_of_the_gate_there_is_no_bundle_and_the_old_one_stays(order, tmp_path):
    out = tmp_path / "refused"
    out.mkdir()
    (out / "old").write_text("still here", encoding="utf-8")
    with pytest.raises(ParityError, match="no bundle was written"):
        export_qwen(replace(order, out=out, scheme="w8a8", max_drift=0))
    assert [path.name for path in tmp_path.iterdir()] == ["refused"]
    assert [path.name for path in out.iterdir()] == ["old"]


def test_another_bundle_of_the_same_weights_is_told_apart_by_the_gate(order, bundle, tmp_path):
    """So it does not just compare a bundle with itself."""
    other = write_checkpoint(tmp_path / "other", order.checkpoint.name, tied=order.checkpoint.name == "qwen3_vl")
    from safetensors.torch import load_file, save_file
    weights = load_file(other / "model.safetensors")
    weights = {name: tensor + 0.1 if name.endswith("mlp.down_proj.weight") else tensor
               for name, tensor in weights.items()}
    save_file(weights, other / "model.safetensors", {"format": "pt"})
    questions = build.draw_questions(order.gate_data, 6)
    report = build.gate(open_engine(bundle), Checkpoint.open(replace(order, checkpoint=other)), questions)
    assert report.whole.mean_drift > 0.001


DAMAGE = {
    "no weights": (lambda folder: (folder / "model.safetensors").unlink(), "has neither model.safetensors nor"),
    "cut weights": (lambda folder: (folder / "model.safetensors").write_bytes(b"\0" * 64), "cannot be read as safe"),
    "no processor": (lambda folder: (folder / "preprocessor_config.json").unlink(), "has no preprocessor_config.json"),
    "another family": (lambda folder: _change(folder / "config.json", model_type="llama"), "model_type is 'llama'"),
    "no config": (lambda folder: (folder / "config.json").unlink(), "config.json: cannot be read"),
    "no chat template": (lambda folder: (folder / "chat_template.jinja").unlink(), "has no chat template"),
    "another patch": (lambda folder: _change(folder / "preprocessor_config.json", patch_size=8), "different check"),
}


def _change(path: Path, **entries) -> None:
    path.write_text(json.dumps(json.loads(path.read_bytes()) | entries), encoding="utf-8")


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_checkpoint_with(damage, gate_data, tmp_path):
    folder = write_checkpoint(tmp_path / "checkpoint", "qwen2_5_vl")
    spoil, says = DAMAGE[damage]
    spoil(folder)
    with pytest.raises(ExportError, match=says) as caught:
        export_qwen(Order(folder, tmp_path / "out", gate_data=gate_data))
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "out").exists()


def test_the_engine_is_chosen_by_the_architecture_of_the_bundle(bundle):
    assert type(open_engine(bundle)).__name__ == "QwenVlEngine"
    assert type(open_engine(Bundle.embedded())).__name__ == "OnnxEngine"
