"""The plan of memory on devices agrees with what others have measured there."""

import pytest

from export.plan import BITS, DEVICES, MODELS, PUBLISHED, SYSTEM, need, table


@pytest.mark.parametrize("name", PUBLISHED)
def test_the_sum_is_within_3_percent_of_what_is_published_for_orin_nx(name):
    """Int4 in groups of 128 with 16-bit scales; the rest in fp16; a cache of 2,200 tokens as their engines have."""
    assert need(MODELS[name], 4.125, 16, 16, tokens=2200) == pytest.approx(PUBLISHED[name], rel=0.03)


def test_fewer_bits_and_fewer_tokens_need_less():
    for model in MODELS.values():
        needs = [need(model, *bits, tokens=1024) for bits in BITS.values()]
        assert needs == sorted(needs, reverse=True)
        assert need(model, *BITS["w8"], tokens=512) < needs[1] < need(model, *BITS["w8"], tokens=1024, batch=8)


def test_the_parameters_are_those_of_the_names():
    """In billions, embeddings and lm_head once where they are tied."""
    for name, billions in (("Qwen2.5-VL-3B", 3.75), ("Qwen3-VL-2B", 2.13), ("Qwen3-VL-4B", 4.44)):
        model = MODELS[name]
        assert (model.linear + model.vision + model.table) / 1e9 == pytest.approx(billions, rel=0.02)
    model = MODELS["Qwen2.5-VL-7B"]
    assert (model.linear + model.vision + 2 * model.table) / 1e9 == pytest.approx(8.29, rel=0.02)


def test_the_table_says_what_fits_a_small_module():
    lines = {line.split()[0]: line for line in table("orin-nano-8gb", 1024, text=False)}
    assert "fits" in lines["Qwen3-VL-2B"].split()
    assert "fits" not in lines["Qwen3-VL-8B"].split()
    assert f"{DEVICES['orin-nano-8gb'] - SYSTEM:,} MB for the guard" in lines["orin-nano-8gb:"]
