"""The benchmark of preparing images compares systems that give the model the same thing."""

import numpy as np
import pytest

from benchmarks import preprocess


@pytest.fixture(scope="module")
def systems() -> dict[str, preprocess.System]:
    pytest.importorskip("transformers")
    return {system.name: system for system in preprocess.systems()}


def test_ours_and_the_pil_processor_give_the_same_bits(systems):
    jpeg = preprocess.photo(384, 288)
    ours, theirs = systems[preprocess.OURS], systems["transformers PIL"]
    patches, grid = ours.patches(ours.decode(jpeg))
    features = theirs.patches(theirs.decode(jpeg))
    assert len(patches) == np.prod(grid) <= preprocess.TOKENS * preprocess.MERGE**2
    np.testing.assert_array_equal(patches, features["pixel_values"].numpy())


def test_the_bare_decoder_works_at_the_scale_of_ours(systems):
    jpeg = preprocess.photo(1633, 1225)
    rgb, bare = (systems[name].decode(jpeg) for name in (preprocess.OURS, preprocess.FLOOR))
    assert rgb.shape[:2] == (bare.height, bare.width)


def test_every_round_has_every_system_and_a_ratio_is_to_ours(systems):
    times = preprocess.latencies(list(systems.values()), preprocess.photo(64, 48), rounds=2)
    assert {name: rows.shape for name, rows in times.items()} == dict.fromkeys(systems, (2, 2))
    twice = {preprocess.OURS: np.array([[1.0, 2.0], [2.0, 4.0]]), "other": np.array([[2.0, 4.0], [4.0, 8.0]])}
    assert preprocess.summary(twice)["times_ours"] == {preprocess.OURS: 1.0, "other": 2.0}
