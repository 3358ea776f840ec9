"""Export of Qwen-VL checkpoints: each graph equals transformers' model, for every grid, batch and prefix."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from tiny_qwen import CONFIGS, GROUPS, HEADS, LAYERS, WIDTH, load_model, write_checkpoint

from export.qwen.build import Checkpoint, Order, write_files
from safeguard_sdk.engine import grids
from safeguard_sdk.engine.session import Graph

# Patches: one token; a row, a column; windows that are whole, cut at one side and at both; more columns than rows.
GRIDS = ((2, 2), (2, 8), (8, 2), (4, 4), (6, 10), (12, 8))


@pytest.fixture(scope="module", params=CONFIGS)
def family(request) -> str:
    return request.param


@pytest.fixture(scope="module")
def folder(family, tmp_path_factory) -> Path:
    return write_checkpoint(tmp_path_factory.mktemp("checkpoints") / family, family, tied=family == "qwen3_vl")


@pytest.fixture(scope="module")
def model(folder, family):
    return load_model(folder, family)


@pytest.fixture(scope="module")
def graphs(folder, tmp_path_factory) -> dict[str, Graph]:
    """In fp32, out of nothing but names and shapes, and the weights of the folder."""
    out = tmp_path_factory.mktemp("graphs")
    write_files(Checkpoint.open(Order(folder, out)), out, "fp32", text=True)
    return {name: Graph(out / f"{name}.onnx", "cpu", 1) for name in ("vision", "decoder", "lm_head")}


def see(graph: Graph, shape, pixel_values: np.ndarray, grid: tuple[int, int]) -> list[np.ndarray]:
    positions = grids.patch_positions(grid, 2)
    feeds = {"pixel_values": pixel_values, "positions": positions}
    if "window_slots" in graph.inputs:
        feeds |= zip(("window_slots", "window_bias", "window_places"),
                     grids.windows(positions, shape.vision_config.window_size // shape.vision_config.patch_size),
                     strict=True)
    if "position_entries" in graph.inputs:
        feeds |= zip(("position_entries", "position_weights"), grids.position_corners(positions, grid, 6), strict=True)
    return graph.run(feeds, [entry.name for entry in graph.session.get_outputs()])


def noise(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


@pytest.mark.parametrize("grid", GRIDS)
def test_the_vision_graph_equals_transformers_for_two_images_of_one_size(graphs, model, grid):
    values = 3 * 2 * model.config.vision_config.patch_size**2
    pixel_values = noise(2, grid[0] * grid[1], values)
    with torch.no_grad():
        expected = model.model.visual(torch.from_numpy(pixel_values.reshape(-1, values)),
                                      grid_thw=torch.tensor([(1, *grid)] * 2))
    found = see(graphs["vision"], model.config, pixel_values, grid)
    wanted = [expected.pooler_output, *getattr(expected, "deepstack_features", ())]
    assert len(found) == len(wanted)
    for one, other in zip(found, wanted, strict=True):
        assert other.abs().max() > 0.1  # the tolerance means something
        np.testing.assert_allclose(one.reshape(other.shape), other, rtol=0, atol=1e-4)


def prefill(graphs, embeddings: np.ndarray, positions: np.ndarray, past: list, padding: list[int], deepstack=()):
    """verdict_logits, last_state, present…"""
    decoder = graphs["decoder"]
    feeds = {"inputs_embeds": embeddings, "position_ids": positions, "padding": np.array(padding)}
    feeds |= zip((name for name in decoder.inputs if name.startswith("deepstack.")), deepstack, strict=True)
    feeds |= zip((name for name in decoder.inputs if name.startswith("past_")), past, strict=True)
    return decoder.run(feeds, [entry.name for entry in decoder.session.get_outputs()])


def empty_past() -> list[np.ndarray]:
    return [np.zeros((1, GROUPS, 0, WIDTH // HEADS), np.float32)] * (2 * LAYERS)


def deepstack_of(graphs, batch: int, length: int, seed: int = 5) -> list[np.ndarray]:
    count = sum(name.startswith("deepstack.") for name in graphs["decoder"].inputs)
    return [noise(batch, length, WIDTH, seed=seed + layer) for layer in range(count)]


def expected_states(model, embeddings: np.ndarray, positions: np.ndarray, deepstack: list[np.ndarray]) -> torch.Tensor:
    more = {}
    if deepstack:
        mask = torch.ones(embeddings.shape[:2], dtype=torch.bool)
        more = {"visual_pos_masks": mask, "deepstack_visual_embeds": [torch.from_numpy(one).flatten(0, 1)
                                                                     for one in deepstack]}
    with torch.no_grad():
        return model.model.language_model(inputs_embeds=torch.from_numpy(embeddings),
                                          position_ids=torch.from_numpy(positions), use_cache=True, **more)


@pytest.mark.parametrize("batch, length", [(1, 1), (1, 6), (3, 9)])
def test_the_decoder_graph_equals_transformers_with_positions_that_differ_by_axis(graphs, model, batch, length):
    embeddings, deepstack = noise(batch, length, WIDTH), deepstack_of(graphs, batch, length)
    positions = np.random.default_rng(1).integers(0, 40, (3, batch, length))
    expected = expected_states(model, embeddings, positions, deepstack)
    logits, state, *present = prefill(graphs, embeddings, positions, empty_past(), [0] * batch, deepstack)
    np.testing.assert_allclose(state, expected.last_hidden_state[:, -1], rtol=0, atol=1e-4)
    with torch.no_grad():
        whole = model.lm_head(expected.last_hidden_state[:, -1]).numpy()
    np.testing.assert_allclose(graphs["lm_head"].run({"state": state}, ["logits"])[0], whole, rtol=0, atol=1e-4)
    assert np.abs(logits).max() > 0.05
    for layer, cache in enumerate(expected.cache.layers):
        np.testing.assert_allclose(present[2 * layer], cache.keys, rtol=0, atol=1e-4)
        np.testing.assert_allclose(present[2 * layer + 1], cache.values, rtol=0, atol=1e-4)


@pytest.mark.parametrize("cached", [1, 5, 11])
def test_over_a_cached_prefix_the_decoder_gives_what_it_gives_for_the_whole(graphs, cached):
    embeddings, deepstack = noise(1, 13, WIDTH), deepstack_of(graphs, 1, 13)
    positions = np.random.default_rng(1).integers(0, 40, (3, 1, 13))
    whole = prefill(graphs, embeddings, positions, empty_past(), [0], deepstack)
    _, _, *past = prefill(graphs, embeddings[:, :cached], positions[..., :cached], empty_past(), [0],
                          [added[:, :cached] for added in deepstack])
    rest = prefill(graphs, np.repeat(embeddings[:, cached:], 2, 0), np.repeat(positions[..., cached:], 2, 1), past,
                   [0, 0], [np.repeat(added[:, cached:], 2, 0) for added in deepstack])
    for one, other in zip(rest, whole, strict=True):
        np.testing.assert_allclose(one, np.repeat(other, 2, 0), rtol=0, atol=1e-5)


def test_what_fills_up_in_front_is_not_seen(graphs):
    embeddings, deepstack = noise(1, 7, WIDTH), deepstack_of(graphs, 1, 7)
    positions = np.broadcast_to(np.arange(7), (3, 1, 7)).copy()
    plain = prefill(graphs, embeddings, positions, empty_past(), [0], deepstack)[0]
    filled = [np.concatenate([noise(1, 3, WIDTH, seed=9), part], 1) for part in (embeddings, *deepstack)]
    positions = np.concatenate([np.full((3, 1, 3), 17), positions], 2)
    np.testing.assert_allclose(prefill(graphs, filled[0], positions, empty_past(), [3], filled[1:])[0], plain,
                               rtol=0, atol=1e-5)
