"""The ONNX engine: where it runs, what it refuses, and that its shortcuts equal the plain computation."""

import sys
from dataclasses import replace

import numpy as np
import onnxruntime
import pytest
from tiny_bundle import write_bundle

from safeguard_sdk import Bundle, EngineError, Guard, Policy, PolicyError, VerdictError
from safeguard_sdk.engine import ImageEmbedding, Prefix, open_engine
from safeguard_sdk.engine.onnx import LENGTH_STEP, MASKED, OnnxEngine
from safeguard_sdk.engine.session import PROVIDERS, open_session
from safeguard_sdk.engine.tags import KNOTS
from safeguard_sdk.image import decode_image, to_pixel_values

PHOTOS = ("astronaut.png", "chelsea.png", "china.jpg")
TEXT = "Rule: animals\nForbidden: cats; dogs; birds; horses\nAllowed: statues of cats\nPhoto:"


@pytest.fixture(scope="module")
def engine() -> OnnxEngine:
    return open_engine(Bundle.embedded())


@pytest.fixture(scope="module")
def pixel_values(engine, photos) -> np.ndarray:
    geometry = engine.bundle.geometry
    return np.stack([to_pixel_values(decode_image(photos[name]), geometry) for name in PHOTOS])


class Plays:
    """A session that gives one recorded output."""

    def __init__(self, output: np.ndarray) -> None:
        self.output = output

    def run(self, names, feeds) -> list[np.ndarray]:
        return [self.output]


# Where it runs

def test_every_graph_runs_where_it_was_asked_to(engine):
    assert {graph: providers[0] for graph, providers in engine.providers.items()} == dict.fromkeys(
        ("vision", "embed", "decoder"), "CPUExecutionProvider")


def test_the_threads_of_a_graph_do_not_spin_while_the_next_graph_runs():
    """The key is one of onnxruntime_session_options_config_keys.h."""
    options = open_session(Bundle.embedded().path / "embed.onnx", "cpu", 0).get_session_options()
    assert options.get_session_config_entry("session.force_spinning_stop") == "1"


def test_an_unknown_provider_is_an_error_that_names_the_known_ones():
    with pytest.raises(EngineError, match="unknown execution provider 'gpu'; known: cpu, cuda, tensorrt"):
        Guard(Policy.packaged("L1"), provider="gpu")


def test_a_negative_number_of_threads_is_an_error_about_the_threads():
    with pytest.raises(EngineError, match="threads is -3, must be 0 for all cores, or a number of threads"):
        Guard(Policy.packaged("L1"), threads=-3)


def test_a_manifest_that_prepares_other_pictures_than_the_graph_takes_is_refused():
    bundle = Bundle.embedded()
    other = replace(bundle, geometry=replace(bundle.geometry, side=319))
    with pytest.raises(EngineError, match="takes pictures of 320 × 320, the manifest says 319 × 319; export"):
        open_engine(other)


@pytest.mark.parametrize("provider", ["cuda", "tensorrt"])
def test_a_provider_that_is_not_here_is_an_error_that_says_what_runs_and_never_another_one(provider):
    if PROVIDERS[provider] in onnxruntime.get_available_providers():
        pytest.skip(f"this ONNX Runtime has {PROVIDERS[provider]}")
    with pytest.raises(EngineError, match=rf"{PROVIDERS[provider]} is not in the ONNX Runtime .* runs on: cpu; "):
        open_engine(Bundle.embedded(), provider)


def test_without_onnx_runtime_the_error_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "onnxruntime", None)  # import now raises ImportError
    monkeypatch.delitem(sys.modules, "safeguard_sdk.engine.onnx")
    with pytest.raises(EngineError, match=r"pip install 'safeguard\[cpu\]', or 'safeguard\[gpu\]'") as caught:
        Guard(Policy.packaged("L1"))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("graph", [b"", b"no graph", b"\x08\x0a" * 40])
def test_a_graph_that_does_not_load_is_an_error_in_one_line(tmp_path, graph):
    write_bundle(tmp_path, {"vision.onnx": graph})
    with pytest.raises(EngineError, match=r"vision\.onnx: ONNX Runtime .* cannot load it") as caught:
        open_engine(Bundle.open(tmp_path))
    assert "\n" not in str(caught.value)


def test_a_bundle_without_a_graph_is_an_error(tmp_path):
    write_bundle(tmp_path, {})
    with pytest.raises(EngineError, match=r"vision\.onnx"):
        open_engine(Bundle.open(tmp_path))


# Reading a policy

def test_reading_gives_one_pair_of_keys_and_values_a_layer(engine):
    prefix = engine.read(TEXT)
    assert prefix.length == engine.count_tokens(TEXT)
    assert len(prefix.keys_values) == len(engine._past)
    assert {array.shape()[2] for array in prefix.keys_values} == {prefix.length}


def test_a_prefix_knows_what_memory_it_takes_wherever_it_lies(engine):
    prefix = engine.read("No guns.")
    assert prefix.nbytes == sum(value.numpy().nbytes for value in prefix.keys_values) > 0
    assert Prefix((np.zeros((1, 2, 3, 5), np.float32),), 3).nbytes == 30 * 4
    for dtype, size in ((np.float32, 4), (np.float16, 2)):
        on_device = onnxruntime.OrtValue.ortvalue_from_numpy(np.zeros((1, 2, 3, 5), dtype))
        assert Prefix((on_device, on_device), 3).nbytes == 2 * 30 * size


def test_a_text_may_be_as_long_as_the_bundle_says_and_not_a_token_longer(engine):
    most = engine.bundle.max_policy_tokens
    text = "cat" + " cat" * (most - 1)
    assert engine.count_tokens(text) == most
    assert engine.read(text).length == most
    with pytest.raises(PolicyError, match=f"the text is {most + 1} tokens long, nano reads at most {most}; shorten it"):
        engine.read(text + " cat")


def test_special_tokens_of_the_tokenizer_are_plain_letters_in_a_text(engine):
    assert engine.count_tokens("<|im_end|>") > 1


# Looking at images

def test_every_image_has_one_embedding_that_says_what_was_seen(engine, pixel_values):
    embeddings = engine.encode(pixel_values)
    assert len(embeddings) == len(PHOTOS)
    for embedding in embeddings:
        assert embedding.tokens.dtype == np.float32 and embedding.tokens.ndim == 2
        assert embedding.seen and all(0 < probability <= 1 for _, probability in embedding.seen)


def test_probabilities_that_are_no_numbers_are_an_error_and_not_an_empty_picture(engine, pixel_values, monkeypatch):
    broken = engine._vision.run({"pixel_values": pixel_values}, ["probabilities"])[0]
    broken[1, 7] = np.nan
    monkeypatch.setattr(engine, "_vision", Plays(broken))
    with pytest.raises(VerdictError, match="probabilities that are no numbers"):
        engine.encode(pixel_values)


def test_a_picture_in_which_nothing_is_seen_still_gets_a_score(engine, pixel_values, monkeypatch):
    rows = engine._vision.run({"pixel_values": pixel_values[:1]}, ["probabilities"])[0]
    monkeypatch.setattr(engine, "_vision", Plays(np.zeros_like(rows)))
    (embedding,) = engine.encode(pixel_values[:1])
    assert embedding.seen == ()
    assert np.isfinite(engine.score(engine.read(TEXT), [embedding])).all()


# Scoring

def plain_logits(engine: OnnxEngine, text: str, image: ImageEmbedding) -> np.ndarray:
    """One causal pass over text and image together: no cache, no padding."""
    ids = np.array([engine._encode_text(text)])
    policy = engine._embeddings(ids, np.zeros((1, ids.shape[1], len(KNOTS)), np.float32))[0]
    tokens = np.concatenate([policy, image.tokens])
    length = len(tokens)
    _, heads, _, width = engine._decoder.inputs[engine._past[0]]
    empty = dict.fromkeys(engine._past, np.zeros((1, heads, 0, width), np.float32))
    return engine._decoder.run({
        "inputs_embeds": tokens[None], "position_ids": np.arange(length)[None],
        "attention_bias": np.triu(np.full((length, length), MASKED, np.float32), 1)[None, None], **empty},
        ["verdict_logits"])[0]


def test_the_cached_policy_changes_nothing(engine, pixel_values):
    assert engine.count_tokens(TEXT) % LENGTH_STEP == 0  # whole tiles of the kernels in either way, so no tolerance
    for embedding in engine.encode(pixel_values):
        image = ImageEmbedding(embedding.tokens[:LENGTH_STEP])
        np.testing.assert_array_equal(engine.score(engine.read(TEXT), [image]), plain_logits(engine, TEXT, image))


def test_the_padding_changes_nothing_but_the_rounding_of_activations_to_int8(engine, pixel_values):
    for embedding in engine.encode(pixel_values):
        image = ImageEmbedding(embedding.tokens[:LENGTH_STEP + 1])  # the most padding there is
        plain = plain_logits(engine, TEXT, image)
        np.testing.assert_allclose(engine.score(engine.read(TEXT), [image]), plain, rtol=0.1, atol=0.1)


@pytest.mark.parametrize("lengths", [
    (1, 2, 7, 8, 9, 16, 17, 50),  # both sides of the step that images are padded to
    (8, 8, 8),
    (50, 1),
])
def test_the_logits_of_an_image_are_the_same_alone_and_beside_images_of_any_length(engine, lengths):
    noise = np.random.default_rng(0)
    width = engine._decoder.inputs["inputs_embeds"][2]
    images = [ImageEmbedding(noise.normal(0, 0.1, (length, width)).astype(np.float32)) for length in lengths]
    prefix = engine.read(TEXT)
    alone = np.concatenate([engine.score(prefix, [image]) for image in images])
    np.testing.assert_array_equal(engine.score(prefix, images), alone)
    np.testing.assert_array_equal(engine.score(prefix, images[::-1]), alone[::-1])


def test_no_images_no_logits(engine):
    assert engine.score(engine.read(TEXT), []).shape == (0, 2)
