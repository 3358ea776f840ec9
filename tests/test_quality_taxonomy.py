"""Fixed categories under policies in words: which of them count, and what they cannot say."""

from __future__ import annotations

from itertools import pairwise

import published_data
import pytest

from benchmarks.errors import BenchmarkError
from benchmarks.quality.cases import Case
from benchmarks.quality.systems import taxonomy as module
from benchmarks.quality.systems.taxonomy import Taxonomy
from training.datasets.llavaguard import DEFAULT_POLICY
from training.datasets.unsafebench import CATEGORIES, POLICY

OPENAI = ("harassment", "harassment/threatening", "hate", "hate/threatening", "illicit", "illicit/violent", "self-harm",
          "self-harm/intent", "self-harm/instructions", "sexual", "sexual/minors", "violence", "violence/graphic")


def case(policy: str, name: str) -> Case:
    return Case("1", b"", "0", policy, name, "safe")


@pytest.mark.parametrize("system, categories", [
    ("llama-guard", [f"S{number}" for number in range(1, 15)]), ("openai-moderation", OPENAI),
    ("multiheaded", ("sexual", "violent", "disturbing", "hateful", "political"))])
def test_the_table_has_every_category_of_a_system(system, categories):
    assert set(Taxonomy.read(system, "unsafebench").hazards_of) == set(categories)


def test_the_table_has_every_label_that_the_installed_nudenet_has():
    nudenet = pytest.importorskip("nudenet", reason="pip install nudenet")
    assert set(Taxonomy.read("nudenet", "unsafebench").hazards_of) == set(vars(nudenet.nudenet)["__labels"])


def test_under_unsafebench_what_no_category_stands_for_is_named():
    table = Taxonomy.read("nudenet", "unsafebench")
    asked = case(POLICY, "UnsafeBench")
    assert "FEMALE_BREAST_EXPOSED" in table.counting(asked) and "BELLY_EXPOSED" not in table.counting(asked)
    assert set(table.cannot_express(asked)) == set(CATEGORIES) - {"Sexual"}


def test_the_levels_of_safeeditbench_count_more_and_more_and_the_first_nothing():
    table = Taxonomy.read("llama-guard", "safeeditbench")
    counting = [table.counting(case("text", f"Policy L{level}")) for level in range(1, 6)]
    assert counting[0] == frozenset()
    assert all(less <= more for less, more in pairwise(counting)) and "S10" in counting[2]
    assert counting[2] == table.counting(case("text", "L3"))  # our own policies have the short names


def test_a_category_that_a_variant_of_llavaguards_policy_allows_does_not_count():
    table = Taxonomy.read("nudenet", "llavaguard")
    assert "FEMALE_BREAST_EXPOSED" in table.counting(case(DEFAULT_POLICY, "default"))
    assert not table.counting(case(published_data.allowing("O4: Nudity Content"), "v2"))


def test_under_a_policy_that_the_table_does_not_know_the_systems_own_verdict_is_taken_and_told():
    table = Taxonomy.read("openai-moderation", "policyflip")
    asked = case("No dogs.", "seen, known")
    assert "violence" in table.counting(asked) and "hate" not in table.counting(asked)  # it judges hate in text only
    assert table.gaps([asked]) == {"seen, known": "not in the table: its own verdict is taken"}


def test_a_category_that_the_table_does_not_know_is_an_error_and_not_dropped():
    with pytest.raises(BenchmarkError, match=r"taxonomies\.yaml has no category S15"):
        Taxonomy.read("llama-guard", "unsafebench").violated(case(POLICY, "UnsafeBench"), ["S1", "S15"])


def test_a_hazard_that_is_mistyped_in_the_table_is_an_error(tmp_path, monkeypatch):
    (tmp_path / "taxonomies.yaml").write_text(module.FILE.read_text().replace("[nudity]", "[nudty]", 1))
    monkeypatch.setattr(module, "FILE", tmp_path / "taxonomies.yaml")
    monkeypatch.setattr(module, "_document", module._document.__wrapped__)
    with pytest.raises(BenchmarkError, match="unknown hazard nudty"):
        Taxonomy.read("nudenet", "unsafebench")
