"""Training further from a bundle: the reader begins with the weights that the bundle answers with."""

from __future__ import annotations

import json
import warnings

import numpy as np
import onnx
import pytest
import tiny_bundle
import torch
from onnx import numpy_helper
from transformers import LlamaConfig, LlamaModel

from export.decoder import Decoder, export_decoder
from export.narrow import multiply_in_int8, read_narrow, save_narrow
from export.quantize import embedding_graph, save_split
from export.smoothing import Inputs, smooth
from safeguard_sdk.engine.narrow import widened
from safeguard_sdk.engine.tags import KNOTS
from safeguard_sdk.errors import BundleError
from training.errors import TrainingError
from training.nano import start
from training.nano.reader import Reader
from training.nano.start import START, open_start, start_from

pytestmark = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")  # peft 0.21

WIDTH, LAYERS = 64, 2
CONFIG = LlamaConfig(vocab_size=50, hidden_size=WIDTH, intermediate_size=96, num_hidden_layers=LAYERS,
                     num_attention_heads=4, num_key_value_heads=2, rope_theta=5000.0, initializer_range=0.2)


def new_reader(seed: int) -> Reader:
    torch.manual_seed(seed)
    reader = Reader(LlamaModel(CONFIG), torch.randn(2, WIDTH)).eval()
    torch.nn.init.normal_(reader.verdict.bias)
    for name, parameter in reader.named_parameters():
        if "norm" in name:
            torch.nn.init.uniform_(parameter, 0.5, 1.5)  # the exporter merges constants that are alike
    return reader


def inputs_of(decoder: Decoder) -> dict[str, Inputs]:
    """Inputs that are independent of each other, some larger than others."""
    random = np.random.default_rng(0)
    sizes = {f"layers.{number}.weights.{name}": len(weight) for number, layer in enumerate(decoder.layers)
             for name, weight in layer.weights.items()}
    return {name: Inputs(np.eye(size), random.uniform(0.5, 4, size)) for name, size in sizes.items()}


@pytest.fixture(scope="module")
def trained() -> Reader:
    return new_reader(seed=1)


@pytest.fixture(scope="module")
def bundle(trained, tmp_path_factory):
    """A bundle with the graphs of `trained`, linear layers in 6 bits."""
    folder = tmp_path_factory.mktemp("bundle")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch.export's own code is deprecated; its notes on shared axis names
        layers = Decoder.from_llama(trained.model, trained.verdict)
        smoothed = smooth(layers, inputs_of(layers))
        decoder = export_decoder(layers, folder / "full.onnx")
    for leftover in folder.glob("full.onnx*"):
        leftover.unlink()
    moments = {name: inputs.moments for name, inputs in smoothed.items()}
    files = save_narrow(multiply_in_int8(decoder, dict.fromkeys(moments, 6), moments), folder / "decoder.onnx")
    table, knots = (module.weight.detach().numpy() for module in (trained.model.embed_tokens, trained.probability))
    files += save_split(decoder, folder / "decoder.onnx")
    files += save_split(embedding_graph(table, knots), folder / "embed.onnx")
    contents = {path.name: path.read_bytes() for path in files}
    tiny_bundle.write_manifest(folder, tiny_bundle.manifest_of(contents, training={"recipe": {"steps": 7}}))
    return folder


@pytest.fixture
def base(monkeypatch, trained) -> None:
    """SmolLM2 stands aside for a small model that shares what training leaves alone: embeddings and norms."""
    def load_base(_, layers: int):
        model = LlamaModel(CONFIG)
        model.load_state_dict(trained.model.state_dict())
        for layer in model.layers:
            for linear in (*layer.self_attn.children(), *layer.mlp.children()):
                if isinstance(linear, torch.nn.Linear):
                    torch.nn.init.zeros_(linear.weight)
        return None, model.bfloat16(), torch.zeros(2, WIDTH)
    monkeypatch.setattr(start, "load_base", load_base)
    monkeypatch.setattr(start, "fetch_smollm2", lambda _: None)


def test_the_reader_starts_with_the_weights_of_the_bundle(tmp_path, base, bundle, trained):
    start_from(bundle, tmp_path)
    _, reader, origin = open_start(tmp_path, tmp_path, LAYERS, rank=2)
    merged = reader.model.merge_and_unload().float()
    embeddings = torch.randn(1, 9, WIDTH, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():  # 6 bits, then bfloat16; layer by layer they differ, since smoothing has moved factors
        mine, first = (model(inputs_embeds=embeddings).last_hidden_state for model in (merged, trained.model))
    assert (mine - first).square().mean() < 0.03 * first.square().mean()
    assert torch.equal(reader.probability.weight, trained.probability.weight)
    assert torch.equal(reader.verdict.weight, trained.verdict.weight)
    assert reader.probability.weight.shape == (len(KNOTS), WIDTH)
    assert origin["training"] == {"recipe": {"steps": 7}} and len(origin["sha256"]) == 64


def test_without_a_start_the_base_is_as_it_was(tmp_path, base):
    _, reader, origin = open_start(tmp_path, tmp_path, LAYERS, rank=2)
    assert origin is None and not reader.model.merge_and_unload().layers[0].mlp.up_proj.weight.any()


def test_what_is_read_of_few_bits_is_what_the_engine_multiplies_with(bundle):
    graph = bundle / "decoder.onnx"
    stored = {tensor.name: tensor for tensor in onnx.load(graph, load_external_data=False).graph.initializer}
    levels, weights = widened(graph, threads=1), read_narrow(graph)
    assert len(weights) == 4 * LAYERS and {f"{name}.levels" for name in weights} == levels.keys()
    for name, weight in weights.items():
        scales = numpy_helper.to_array(stored[f"{name}.scales"], str(bundle))
        np.testing.assert_array_equal(weight, levels[f"{name}.levels"].astype(np.float32) * scales)


def test_a_run_that_goes_on_keeps_its_start_and_refuses_another(tmp_path, bundle):
    start_from(bundle, tmp_path)
    before = (tmp_path / START).stat().st_mtime_ns
    start_from(bundle, tmp_path)
    assert (tmp_path / START).stat().st_mtime_ns == before
    state = torch.load(tmp_path / START, weights_only=True)
    state["origin"]["sha256"] = "0" * 64
    torch.save(state, tmp_path / START)
    with pytest.raises(TrainingError, match=r"has started from 000000000000…, .*another folder to --out"):
        start_from(bundle, tmp_path)


def test_a_run_from_smollm2_takes_no_start_afterwards(tmp_path, bundle):
    (tmp_path / "checkpoint.pt").touch()
    with pytest.raises(TrainingError, match="has started from SmolLM2; give another folder"):
        start_from(bundle, tmp_path)


def test_a_start_of_another_depth_is_refused(tmp_path, base, bundle, monkeypatch):
    start_from(bundle, tmp_path)
    shallow = LlamaConfig(**{**CONFIG.to_dict(), "num_hidden_layers": 1})
    monkeypatch.setattr(start, "load_base", lambda *_: (None, LlamaModel(shallow), torch.zeros(2, WIDTH)))
    with pytest.raises(TrainingError, match="`layers` of the recipe must be those of the start"):
        open_start(tmp_path, tmp_path, 1, rank=2)


def test_a_folder_that_is_no_sound_bundle_is_an_error(tmp_path, bundle):
    with pytest.raises(BundleError, match="a bundle is a folder with a manifest"):
        start_from(tmp_path, tmp_path)
    manifest = json.loads((bundle / "manifest.json").read_text(encoding="utf-8"))
    assert manifest["architecture"] == "tags"
