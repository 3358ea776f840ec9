"""Export: the decoder graph equals transformers', few bits cost what they may; a bundle that costs more is refused."""

from __future__ import annotations

import warnings
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnx import helper, numpy_helper
from products import correlated, matmul
from transformers import LlamaConfig, LlamaModel

from export import quantize
from export.decoder import Decoder, export_decoder
from export.gate import MAX_FLIP_RATE, MAX_MEAN_DRIFT, Parity, ParityError, compare, require
from export.quantize import (
    Blocks,
    embedding_graph,
    quantize_blocks,
    quantize_blocks_in_turn,
    quantize_outputs,
    save_split,
    store_in_few_bits,
)

WIDTH, LAYERS, GROUPS, HEAD = 64, 2, 2, 16
CONFIG = LlamaConfig(vocab_size=50, hidden_size=WIDTH, intermediate_size=96, num_hidden_layers=LAYERS,
                     num_attention_heads=4, num_key_value_heads=GROUPS, rope_theta=5000.0, initializer_range=0.2)
RANDOM = np.random.default_rng(0)
BLOCK = 32


# The decoder.

@pytest.fixture(scope="module")
def llama() -> tuple[LlamaModel, torch.nn.Linear]:
    torch.manual_seed(0)
    model, verdict = LlamaModel(CONFIG).eval(), torch.nn.Linear(WIDTH, 2)
    for name, parameter in model.named_parameters():
        if "norm" in name:
            torch.nn.init.uniform_(parameter, 0.5, 1.5)  # all ones would hide a norm in the wrong place
    return model, verdict


@pytest.fixture(scope="module")
def decoder(llama) -> Decoder:
    return Decoder.from_llama(*llama)


def causal(batch: int, length: int, cached: int) -> torch.Tensor:
    """(batch, 1, length, cached + length): everything cached is seen, and what is new up to itself."""
    return torch.cat([torch.zeros(length, cached), torch.full((length, length), -1e9).triu(1)], 1).expand(
        batch, 1, -1, -1).contiguous()


def feeds(batch: int, length: int, cached: int, seed: int = 0) -> tuple:
    """Embeddings, positions, bias and a cache for all rows, as `Decoder.forward` takes them."""
    generator = torch.Generator().manual_seed(seed)
    past = [torch.randn(1, GROUPS, cached, HEAD, generator=generator) for _ in range(2 * LAYERS)]
    return (torch.randn(batch, length, WIDTH, generator=generator),
            torch.arange(cached, cached + length).repeat(batch, 1), causal(batch, length, cached), past)


def run(decoder: Decoder, given: tuple) -> list[torch.Tensor]:
    with torch.no_grad():
        return list(decoder(*given))


def empty_past() -> list[torch.Tensor]:
    return [torch.zeros(1, GROUPS, 0, HEAD)] * (2 * LAYERS)


@pytest.mark.parametrize("batch, length", [(1, 2), (3, 7)])
def test_the_decoder_equals_transformers(llama, decoder, batch, length):
    model, verdict = llama
    embeddings = feeds(batch, length, 0)[0]
    with torch.no_grad():
        expected = model(inputs_embeds=embeddings, use_cache=True)
        logits = verdict(expected.last_hidden_state[:, -1])
    found, *present = run(decoder, feeds(batch, length, 0))
    torch.testing.assert_close(found, logits, rtol=0, atol=1e-5)
    assert logits.abs().max() > 0.1  # the tolerance means something
    for layer in range(LAYERS):
        cache = expected.past_key_values.layers[layer]
        torch.testing.assert_close(present[2 * layer], cache.keys, rtol=0, atol=1e-5)
        torch.testing.assert_close(present[2 * layer + 1], cache.values, rtol=0, atol=1e-5)


@pytest.mark.parametrize("cached", [1, 5, 11])
def test_over_a_cached_prefix_the_decoder_gives_what_it_gives_for_the_whole(llama, decoder, cached):
    model, verdict = llama
    whole = torch.randn(1, 12 + 1, WIDTH, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        expected = verdict(model(inputs_embeds=whole).last_hidden_state[:, -1])
    _, *past = run(decoder, (whole[:, :cached], torch.arange(cached)[None], causal(1, cached, 0), empty_past()))
    rest = 13 - cached
    found, *_ = run(decoder, (whole[:, cached:], torch.arange(cached, 13)[None], causal(1, rest, cached), past))
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)


def test_one_cached_prefix_serves_all_rows_of_a_batch(decoder):
    embeddings, positions, bias, past = feeds(batch=3, length=4, cached=6)
    together = run(decoder, (embeddings, positions, bias, past))[0]
    alone = [run(decoder, (embeddings[row:row + 1], positions[:1], bias[:1], past))[0] for row in range(3)]
    torch.testing.assert_close(together, torch.cat(alone), rtol=0, atol=1e-5)


def test_padding_before_an_image_that_is_masked_changes_nothing(decoder):
    embeddings, positions, bias, past = feeds(batch=1, length=4, cached=6)
    padded = torch.cat([torch.full((1, 3, WIDTH), 9.0), embeddings], 1)
    places = torch.cat([torch.zeros(1, 3, dtype=torch.long), positions], 1)
    mask = causal(1, 7, 6)
    mask[..., 6:9] = -1e9
    torch.testing.assert_close(run(decoder, (padded, places, mask, past))[0],
                               run(decoder, (embeddings, positions, bias, past))[0], rtol=0, atol=1e-5)


@pytest.fixture(scope="module")
def exported(decoder, tmp_path_factory) -> bytes:
    path = tmp_path_factory.mktemp("decoder") / "decoder.onnx"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch.export's own code is deprecated; its notes on shared axis names
        return export_decoder(decoder, path).SerializeToString()


def session(model: onnx.ModelProto | bytes | Path) -> onnxruntime.InferenceSession:
    source = str(model) if isinstance(model, Path) else model if isinstance(model, bytes) else model.SerializeToString()
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    return onnxruntime.InferenceSession(source, options, providers=["CPUExecutionProvider"])


def run_graph(graph: onnxruntime.InferenceSession, given: tuple) -> list[np.ndarray]:
    names = [entry.name for entry in graph.get_inputs()]
    arrays = [*given[:3], *given[3]]
    return graph.run(None, {name: array.numpy() for name, array in zip(names, arrays, strict=True)})


@pytest.mark.parametrize("batch, length, cached", [
    (1, 2, 0), (1, 9, 0),    # a prefix is read: nothing is cached
    (1, 8, 5), (7, 8, 5),    # an image, and several
    (2, 3, 40)])
def test_the_exported_graph_equals_the_decoder_at_every_size(decoder, exported, batch, length, cached):
    given = feeds(batch, length, cached, seed=2)
    expected, found = run(decoder, given), run_graph(session(exported), given)
    assert len(found) == len(expected) == 1 + 2 * LAYERS
    for mine, theirs in zip(found, expected, strict=True):
        assert mine.shape == theirs.shape
        np.testing.assert_allclose(mine, theirs.numpy(), rtol=0, atol=1e-5)


def test_the_graph_names_its_inputs_and_outputs_as_the_engine_does(exported):
    names = [f"{kind}.{layer}" for layer in range(LAYERS) for kind in ("key", "value")]
    graph = session(exported)
    assert [entry.name for entry in graph.get_inputs()] == [
        "inputs_embeds", "position_ids", "attention_bias", *(f"past_{name}" for name in names)]
    assert [entry.name for entry in graph.get_outputs()] == ["verdict_logits", *(f"present_{name}" for name in names)]


# Few bits.

@pytest.mark.parametrize("bits", [4, 8])
def test_weights_that_lie_on_a_grid_are_kept_exactly(bits):
    levels = RANDOM.integers(1, 2**bits, (3, 2, BLOCK))
    levels[..., 0] = 2**bits - 1  # the largest is in use
    scales = 2.0 ** RANDOM.integers(-8, 0, (3, 2)).astype(np.float32)
    weight = Blocks(levels, scales, bits).weight
    np.testing.assert_array_equal(quantize_blocks(weight, bits, BLOCK).weight, weight)


@pytest.mark.parametrize("bits", [4, 8])
def test_the_error_of_a_block_is_at_most_half_a_step(bits):
    weight = RANDOM.normal(size=(4 * BLOCK, 24)).astype(np.float32) * RANDOM.uniform(0.01, 10, 24).astype(np.float32)
    error = (quantize_blocks(weight, bits, BLOCK).weight - weight).T.reshape(24, 4, BLOCK)
    blocks = weight.T.reshape(24, 4, BLOCK)
    step = np.abs(blocks).max(2) / (2**(bits - 1) - 1)
    assert (np.sqrt((error**2).mean(2)) <= step / 2).all()  # root of the mean square


@pytest.mark.parametrize("bits", [4, 8])
@pytest.mark.parametrize("shift", [-5.0, 0.0, 5.0])  # a block may be all negative or all positive
def test_zero_stays_exactly_zero(bits, shift):
    weight = (RANDOM.normal(size=(2 * BLOCK, 6)) + shift).astype(np.float32)
    weight[::3] = 0
    assert (quantize_blocks(weight, bits, BLOCK).weight[::3] == 0).all()


def test_where_outputs_have_one_scale_it_is_said_for_each_block_and_the_error_is_at_most_half_a_step():
    weight = RANDOM.normal(size=(3 * BLOCK, 6)).astype(np.float32) * RANDOM.uniform(0.01, 10, 6).astype(np.float32)
    blocks = quantize_outputs(weight, 8, BLOCK)
    assert blocks.scales.shape == (6, 3) and (blocks.scales == blocks.scales[:, :1]).all()
    assert (np.sqrt(np.square(blocks.weight - weight).mean(0)) <= np.abs(weight).max(0) / 127 / 2).all()


def test_a_block_of_zeros_stays_zero():
    assert (quantize_blocks(np.zeros((BLOCK, 2), np.float32), 4, BLOCK).weight == 0).all()


@pytest.mark.parametrize("reach", [3 * BLOCK, 2 * BLOCK + 5])  # the whole weight, and less
def test_rounded_in_turn_the_product_is_kept_better(reach, monkeypatch):
    monkeypatch.setattr(quantize, "REACH", reach)
    rows, weight = correlated(RANDOM, 500, 3 * BLOCK), RANDOM.normal(size=(3 * BLOCK, 40)).astype(np.float32)
    alone, in_turn = quantize_blocks(weight, 4, BLOCK), quantize_blocks_in_turn(weight, 4, BLOCK, rows)
    lost = [float(np.square(rows @ (blocks.weight - weight)).mean()) for blocks in (alone, in_turn)]
    assert lost[1] < 0.5 * lost[0]


def test_inputs_that_fill_no_block_are_rounded_in_turn_too():
    rows, weight = correlated(RANDOM, 500, 70), RANDOM.normal(size=(70, 8)).astype(np.float32)
    found = quantize_blocks_in_turn(weight, 4, BLOCK, rows).weight
    assert found.shape == (96, 8)
    assert np.square(rows @ (found[:70] - weight)).mean() < 0.02 * np.square(rows @ weight).mean()


def test_matrices_are_stored_in_a_quarter_and_computed_in_32_bits():
    weight = RANDOM.normal(size=(64, 64)).astype(np.float32) * RANDOM.uniform(0.01, 3, (64, 1)).astype(np.float32)
    weight[5] = 0
    x = np.eye(64, dtype=np.float32)
    model = matmul(weight)
    before = model.ByteSize()
    store_in_few_bits(model)
    assert model.ByteSize() < 0.35 * before
    found = session(model).run(None, {"x": x})[0]
    step = np.abs(weight).max(1, keepdims=True) / 127
    assert (np.abs(found - weight) <= 0.5 * step + 1e-6).all()


def test_long_vectors_are_stored_in_16_bits():
    bias = RANDOM.normal(size=2048).astype(np.float32)
    shapes = [helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, [None, 2048]) for name in ("x", "y")]
    graph = helper.make_graph([helper.make_node("Add", ["x", "bias"], ["y"])], "add", shapes[:1], shapes[1:],
                              [numpy_helper.from_array(bias, "bias")])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    store_in_few_bits(model)
    found = session(model).run(None, {"x": np.zeros((1, 2048), np.float32)})[0][0]
    np.testing.assert_array_equal(found, bias.astype(np.float16).astype(np.float32))


def test_small_tensors_stay_in_32_bits():
    model = matmul(np.ones((8, 8), np.float32))
    store_in_few_bits(model)
    assert [tensor.data_type for tensor in model.graph.initializer] == [onnx.TensorProto.FLOAT]


def test_the_embedding_graph_gives_rows_of_the_table_and_adds_the_mixture_of_knots():
    table = RANDOM.normal(size=(30, 48)).astype(np.float32) * RANDOM.uniform(0.01, 3, (30, 1)).astype(np.float32)
    table[4] = 0  # padding tokens are rows of zeros
    knots = RANDOM.normal(size=(10, 48)).astype(np.float32)
    ids = RANDOM.integers(0, 30, (2, 5))
    ids[0, 0] = 4
    weights = np.zeros((2, 5, 10), np.float32)
    weights[1, 2, 3:5] = 0.25, 0.75
    found = session(embedding_graph(table, knots)).run(None, {"ids": ids, "knots": weights})[0]
    step = np.abs(table).max(1)[ids][..., None] / 31
    assert (np.abs(found - (table[ids] + weights @ knots)) <= 0.6 * step + 1e-5).all()
    assert (found[0, 0] == 0).all()


# Files.

def test_a_split_graph_has_no_file_beyond_the_limit_and_computes_the_same(exported, tmp_path, monkeypatch):
    limit = 140_000  # bytes; the rotary tables have 131,072
    monkeypatch.setattr(quantize, "FILE_LIMIT", limit)
    files = save_split(onnx.load_from_string(exported), tmp_path / "decoder.onnx")
    assert set(files) == set(tmp_path.iterdir()) and len(files) > 3
    assert all(file.stat().st_size <= limit for file in files if file.suffix == ".bin")
    assert files[0].stat().st_size < 60_000  # the graph itself holds no weights
    given = feeds(batch=2, length=3, cached=4)
    for mine, theirs in zip(run_graph(session(files[0]), given), run_graph(session(exported), given), strict=True):
        np.testing.assert_array_equal(mine, theirs)


def test_a_shipped_graph_tells_nothing_of_the_machine_that_exported_it(exported, tmp_path):
    assert b"decoder.py" in exported  # torch notes the source of every node
    written = save_split(onnx.load_from_string(exported), tmp_path / "decoder.onnx")[0].read_bytes()
    assert b".py" not in written and str(Path(quantize.__file__).parent).encode() not in written


def test_the_limit_holds_with_the_padding_between_tensors(tmp_path, monkeypatch):
    monkeypatch.setattr(quantize, "FILE_LIMIT", 1100 + 1030)  # both fit, the 52 bytes between them do not
    model = matmul(np.ones((4, 4), np.float32))
    model.graph.initializer.extend(numpy_helper.from_array(np.ones(size, np.uint8), str(size)) for size in (1100, 1030))
    files = save_split(model, tmp_path / "two.onnx")
    assert sorted(file.stat().st_size for file in files[1:]) == [1030, 1100]


def test_a_tensor_beyond_the_limit_is_an_error_and_no_larger_file(tmp_path, monkeypatch):
    monkeypatch.setattr(quantize, "FILE_LIMIT", 2000)
    with pytest.raises(ValueError, match=r"big\.onnx: weight has 4096 bytes, a file may have 2000"):
        save_split(matmul(np.ones((32, 32), np.float32)), tmp_path / "big.onnx")


# The gate.

def parity(flip_rate: float = 0.0, mean_drift: float = 0.0) -> Parity:
    return Parity(questions=100, flip_rate=flip_rate, mean_drift=mean_drift, p99_drift=0.5, max_drift=0.9)


def test_a_bundle_at_the_limits_passes():
    require(parity(flip_rate=MAX_FLIP_RATE, mean_drift=MAX_MEAN_DRIFT))


@pytest.mark.parametrize("beyond", [{"flip_rate": MAX_FLIP_RATE + 1e-4}, {"mean_drift": MAX_MEAN_DRIFT + 1e-4},
                                    {"mean_drift": float("nan")}, {"flip_rate": float("nan")}])
def test_a_bundle_beyond_either_limit_is_refused_with_the_next_step(beyond):
    with pytest.raises(ParityError, match=r"100 verdicts differ .* no bundle was written: quantise fewer layers"):
        require(parity(**beyond))


def test_what_has_become_of_the_bundle_is_said_by_whoever_asks():
    with pytest.raises(ParityError, match=r"; it is as it was: quantise fewer layers") as caught:
        require(parity(flip_rate=1), so="it is as it was")
    assert "no bundle was written" not in str(caught.value)


def test_parity_is_measured_on_calibrated_scores():
    logit_of_09 = np.log(9.0)
    same = compare(np.array([logit_of_09, -1.0]), np.array([logit_of_09, -1.0]), scale=1.0, shift=0.0)
    assert same == Parity(2, 0.0, 0.0, 0.0, 0.0)
    moved = compare(np.array([0.0, logit_of_09]), np.array([-logit_of_09, logit_of_09]), scale=1.0, shift=0.0)
    assert moved.flip_rate == 0.5                           # 0.5 counts as unsafe, 0.1 does not
    assert moved.mean_drift == pytest.approx(0.2) and moved.max_drift == pytest.approx(0.4)
    shifted = compare(np.array([0.0]), np.array([-logit_of_09]), scale=2.0, shift=2 * logit_of_09)
    assert shifted.flip_rate == 0                           # 0.988 and 0.5
    assert shifted.max_drift == pytest.approx(81 / 82 - 0.5)


def test_parity_is_written_with_five_digits():
    assert parity(mean_drift=1 / 3).as_json() == {
        "questions": 100, "flip_rate": 0.0, "mean_drift": 0.33333, "p99_drift": 0.5, "max_drift": 0.9}


def test_calibration_finds_scale_and_shift_of_the_logit():
    from export.nano import fit_calibration  # loads the vision packages of training
    random = np.random.default_rng(0)
    logits = random.normal(0, 3, 20_000)
    broken = random.random(20_000) < 1 / (1 + np.exp(-(0.6 * logits - 0.5)))
    scale, shift = fit_calibration(logits, broken)
    assert scale == pytest.approx(0.6, abs=0.03) and shift == pytest.approx(-0.5, abs=0.06)
