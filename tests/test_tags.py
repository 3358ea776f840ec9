"""Tags: which names of a picture are read, and how a token carries a probability."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from safeguard_sdk import Bundle
from safeguard_sdk.engine.tags import GROUP_STEP, IMAGE_TOKENS, KNOTS, LIMITS, TagTable, image_tokens, knot_weights

TABLE = TagTable(
    names=("tabby cat", "lynx", "tiger", "lion", "puma", "cat", "feline", "animal", "thing", "cat", "smoke"),
    kinds=("class",) * 5 + ("group",) * 4 + ("head",) * 2,
    breadth=(1,) * 5 + (7, 9, 398, 1000) + (1,) * 2,
)


def letters(text: str) -> list[int]:
    return [ord(letter) for letter in text]


def seen(**probabilities: float) -> np.ndarray:
    """Probabilities of TABLE by name; for the two columns called cat: cat is the group, cat_ is the head."""
    columns = [*TABLE.names[:9], "cat_", "smoke"]
    return np.array([probabilities.get(name.replace(" ", "_"), 0.0) for name in columns], np.float32)


tags = st.lists(st.tuples(st.text("abc ", min_size=1, max_size=30), st.floats(0, 1)), max_size=12)
rows = st.lists(st.floats(0, 1, width=32), min_size=11, max_size=11).map(lambda row: np.array(row, np.float32))


# Which tags are read

def test_the_most_probable_tag_is_read_first():
    assert [name for name, _ in TABLE.select(seen(lynx=0.2, tabby_cat=0.7, smoke=0.4))] == [
        "tabby cat", "smoke", "lynx"]


def test_a_name_is_read_once_with_its_higher_probability():
    assert TABLE.select(seen(cat=0.5, cat_=0.75)) == [("cat", 0.75)]


@pytest.mark.parametrize("kind, column", [("class", 0), ("group", 5), ("head", 10)])
def test_a_tag_is_read_from_the_least_probability_of_its_kind_on(kind, column):
    least = np.float32(LIMITS[kind][1])
    row = np.zeros(11, np.float32)
    row[column] = np.nextafter(least, np.float32(1))
    assert [name for name, _ in TABLE.select(row)] == [TABLE.names[column]]
    row[column] = np.nextafter(least, np.float32(0)) - np.float32(1e-6)
    assert TABLE.select(row) == []


def test_of_two_groups_of_like_breadth_one_is_read():
    """Cat (7 classes) and feline (9) say the same; animal (398) says something else."""
    assert [name for name, _ in TABLE.select(seen(cat=0.9, feline=0.9, animal=0.9))] == ["cat", "animal"]


def test_a_group_of_all_classes_tells_nothing_and_comes_last_of_its_kind():
    names = [name for name, _ in TABLE.select(seen(thing=1.0, cat=0.3, animal=0.8))]
    assert names == ["thing", "animal", "cat"]  # there is room for three; they are read by probability
    narrow = TagTable(("thing", "a", "b", "c"), ("group",) * 4, (1000, 3, 9, 27))
    assert "thing" not in dict(narrow.select(np.array([1.0, 0.3, 0.3, 0.3], np.float32)))


def test_ties_keep_the_order_of_the_table():
    assert TABLE.select(seen(puma=0.2, tiger=0.2, lynx=0.2, lion=0.2, tabby_cat=0.2)) == [
        (name, pytest.approx(0.2)) for name in ("tabby cat", "lynx", "tiger", "lion")]


@given(rows)
def test_what_is_read_keeps_every_limit(row):
    chosen = TABLE.select(row)
    names, probabilities = [name for name, _ in chosen], [probability for _, probability in chosen]
    assert len(set(names)) == len(names) <= sum(most for most, _ in LIMITS.values())
    assert probabilities == sorted(probabilities, reverse=True)
    groups = [TABLE.breadth[TABLE.names.index(name)] for name in names if name in ("feline", "animal", "thing")]
    assert all(wide >= GROUP_STEP * narrow for narrow, wide in zip(sorted(groups), sorted(groups)[1:], strict=False))


@given(rows, st.permutations(range(11)))
def test_the_order_of_the_table_changes_nothing_where_there_are_no_ties(row, order):
    row = row + np.arange(11, dtype=np.float32) * np.float32(1e-3)
    worth = row * np.log(1000 / np.array(TABLE.breadth))
    if len(set(row)) < 11 or len(set(worth.tolist())) < 11:
        return
    turned = TagTable(*(tuple(column[place] for place in order) for column in (TABLE.names, TABLE.kinds,
                                                                               TABLE.breadth)))
    assert turned.select(row[list(order)]) == TABLE.select(row)


def test_a_table_survives_its_file(tmp_path):
    TABLE.write(tmp_path / "tags.json")
    assert TagTable.read(tmp_path / "tags.json") == TABLE


def test_the_columns_of_the_embedded_table_are_of_one_length_and_known_kinds():
    table = TagTable.read(Bundle.embedded().path / "tags.json")
    assert len(table.names) == len(table.kinds) == len(table.breadth) > 1000
    assert set(table.kinds) <= set(LIMITS)
    assert min(table.breadth) >= 1


# How they become tokens

def test_tags_are_read_as_names_with_a_comma_each_token_with_the_probability_of_its_tag():
    ids, probabilities = image_tokens([("cat", 0.75), ("dog", 0.25)], letters)
    assert "".join(map(chr, ids)) == " cat, dog,"
    assert probabilities.tolist() == [0.75] * 5 + [0.25] * 5
    assert (ids.dtype, probabilities.dtype) == (np.int64, np.float32)


def test_a_picture_in_which_nothing_is_seen_has_no_tokens():
    ids, probabilities = image_tokens([], letters)
    assert ids.shape == probabilities.shape == (0,)
    assert knot_weights(probabilities).shape == (0, len(KNOTS))


def test_a_name_that_does_not_fit_is_left_out_whole_and_a_shorter_one_after_it_is_not():
    long, longer, short = "a" * 30, "b" * 30, "c" * 10
    ids, _ = image_tokens([(long, 0.9), (longer, 0.8), (short, 0.7)], letters)
    assert "".join(map(chr, ids)) == f" {long}, {short},"


@given(tags)
def test_every_token_belongs_to_a_whole_name_and_there_are_never_too_many(chosen):
    ids, probabilities = image_tokens(chosen, letters)
    assert len(ids) == len(probabilities) <= IMAGE_TOKENS
    rest = "".join(map(chr, ids))
    for name, _ in chosen:
        rest = rest.removeprefix(f" {name},")
    assert rest == ""


# How a token carries its probability

@given(st.lists(st.floats(0, 1, width=32), min_size=1))
def test_weights_of_the_knots_are_shares_of_the_two_nearest(probabilities):
    weights = knot_weights(np.array(probabilities, np.float32))
    assert weights.shape == (len(probabilities), len(KNOTS)) and weights.dtype == np.float32
    np.testing.assert_allclose(weights.sum(1), 1, atol=1e-6)
    assert weights.min() >= 0
    for row in weights:
        used = np.flatnonzero(row)
        assert len(used) <= 2 and used[-1] - used[0] <= 1


@given(st.floats(0, 1, width=32))
def test_the_weighted_knots_are_the_logit_within_their_range(probability):
    (weights,) = knot_weights(np.array([probability], np.float32))
    with np.errstate(divide="ignore"):
        logit = np.log(np.float64(probability)) - np.log1p(-np.float64(probability))
    assert weights @ KNOTS == pytest.approx(np.clip(logit, KNOTS[0], KNOTS[-1]), abs=1e-5)


@pytest.mark.parametrize("knot", range(len(KNOTS)))
def test_on_a_knot_only_that_knot_counts(knot):
    probability = 1 / (1 + np.exp(-KNOTS[knot]))
    (weights,) = knot_weights(np.array([probability]))
    np.testing.assert_allclose(weights, np.eye(len(KNOTS))[knot], atol=1e-6)
