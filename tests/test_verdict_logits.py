"""Log-probabilities of the verdict tokens from the logits of a vocabulary: equal to numpy's, whatever the array."""

import math

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from safeguard_sdk import VerdictError, _fast
from safeguard_sdk.calibration import Calibration
from safeguard_sdk.verdict import calibrated_score, verdict_log_probabilities

ANY_SPEED = settings(deadline=None)
TYPES = ["float32", "float16", "bfloat16"]
VOCABULARIES = [2, 3, 7, 8, 9, 1023, 1024, 1025, 2048, 5001]  # around 8 lanes and blocks of 1024
QWEN = 151_936  # entries in Qwen2.5-VL's vocabulary, padded


def as_type(values, name):
    """float32 → an array as a model gives it; bfloat16 is the upper half of a float32."""
    return (values.view(np.uint32) >> 16).astype(np.uint16) if name == "bfloat16" else values.astype(name)


def exact(logits):
    """The same values in float64."""
    if logits.dtype == np.uint16:
        with np.errstate(invalid="ignore"):  # a signalling NaN
            return (logits.astype(np.uint32) << 16).view(np.float32).astype(np.float64)
    return logits.astype(np.float64)


def reference(logits, safe, unsafe):
    x = exact(logits)
    highest = x.max(axis=-1, keepdims=True)
    total = highest + np.log(np.exp(x - highest).sum(axis=-1, keepdims=True))
    return x[..., [safe, unsafe]] - total


def random_logits(rows, vocabulary, name, spread=5.0, seed=0):
    values = np.random.default_rng(seed).normal(0, spread, (rows, vocabulary))
    return as_type(values.astype(np.float32), name)


# Values

@pytest.mark.parametrize("name", TYPES)
@ANY_SPEED
@given(vocabulary=st.sampled_from(VOCABULARIES), rows=st.integers(1, 3), data=st.data(),
       spread=st.sampled_from([0.0, 0.1, 5.0, 40.0, 10_000.0]), seed=st.integers(0, 2**32 - 1))
def test_they_are_those_of_numpy_in_double_precision(name, vocabulary, rows, data, spread, seed):
    logits = random_logits(rows, vocabulary, name, spread, seed)
    safe, unsafe = data.draw(st.lists(st.integers(0, vocabulary - 1), min_size=2, max_size=2, unique=True))
    np.testing.assert_allclose(verdict_log_probabilities(logits, safe, unsafe), reference(logits, safe, unsafe),
                               rtol=1e-15, atol=1e-6)


FINITE = st.floats(width=32, allow_nan=False, allow_infinity=False)


@ANY_SPEED
@given(arrays(np.float32, st.tuples(st.integers(1, 3), st.integers(2, 40)), elements=FINITE))
@example(np.array([[3e38, -3e38]], np.float32))  # their difference is no float32
@example(np.array([[0.0, -0.0]], np.float32))
@example(np.array([[-87.0, 0.0], [-87.5, 0.0], [-104.0, 0.0]], np.float32))  # where exp becomes subnormal, and zero
def test_no_finite_logit_is_too_large_or_too_small(logits):
    np.testing.assert_allclose(verdict_log_probabilities(logits, 0, 1), reference(logits, 0, 1), rtol=1e-15, atol=1e-6)


@pytest.mark.parametrize("below", [-7.93, -8.0300007, -13.861501, -16.5, -30.25])
def test_a_million_tokens_that_are_all_rounded_the_same_way_stay_within_a_millionth(below):
    logits = np.full(2**20, below, np.float32)
    logits[7] = 0.1  # the difference is rounded to float32 for each of the others alike
    np.testing.assert_allclose(verdict_log_probabilities(logits, 7, 8), reference(logits, 7, 8), rtol=0, atol=1e-6)


@pytest.mark.parametrize("name", ["float16", "bfloat16"])
def test_every_16_bit_number_is_read_as_what_it_is(name):
    bits = np.arange(2**16, dtype=np.uint16)
    column = bits if name == "bfloat16" else bits.view(np.float16)
    found = _fast.verdict_log_probabilities(np.stack([column, np.zeros_like(column)], axis=1), 0, 1)
    values = exact(column)
    readable = values < math.inf  # not NaN either
    lowest = values == -math.inf
    assert np.isnan(found[~readable]).all() and (found[lowest] == [-math.inf, 0]).all()
    finite = readable & ~lowest
    np.testing.assert_allclose(found[finite, 0] - found[finite, 1], values[finite], rtol=1e-12, atol=1e-15)


def test_the_two_verdict_logits_alone_are_a_vocabulary_too():
    logits = np.array([[1.0, 1.0 + math.log(3)], [1000.0, -1000.0]], np.float32)
    found = verdict_log_probabilities(logits, 0, 1)
    np.testing.assert_allclose(np.exp(found), [[0.25, 0.75], [1, 0]], atol=1e-6)


def test_a_row_says_what_the_two_have_together_and_calibrates_as_their_logits_do():
    logits = np.array([2.0, 0.0, 1.0, 0.5], np.float32)
    row = verdict_log_probabilities(logits, 1, 2)
    e = math.e
    assert np.exp(row).sum() == pytest.approx((1 + e) / (e**2 + 1 + e + e**0.5), abs=1e-6)
    calibration = Calibration(0.7, -0.2)
    assert calibrated_score(row, calibration) == pytest.approx(calibrated_score(logits[1:3], calibration), abs=1e-14)


def test_a_token_that_cannot_come_has_no_part_in_it():
    logits = random_logits(1, 3000, "float32")
    logits[0, 2:] = -math.inf
    assert verdict_log_probabilities(logits, 0, 1).tolist() == verdict_log_probabilities(logits[:, :2], 0, 1).tolist()


# The same bits

@pytest.mark.parametrize("name", TYPES)
@pytest.mark.parametrize("vocabulary", [*VOCABULARIES, QWEN])
def test_with_and_without_avx2(name, vocabulary):
    logits = random_logits(2, vocabulary, name)
    fast, portable = (_fast.verdict_log_probabilities(logits, 0, 1, portable=portable) for portable in (False, True))
    assert fast.tobytes() == portable.tobytes()


@pytest.mark.parametrize("name", TYPES)
def test_a_row_alone_and_among_others(name):
    logits = random_logits(5, 5001, name)
    together = verdict_log_probabilities(logits, 4, 5000)
    assert all(verdict_log_probabilities(row, 4, 5000).tobytes() == found.tobytes()
               for row, found in zip(logits, together, strict=True))


def unaligned(array):
    room = np.zeros(array.nbytes + 1, np.uint8)
    room[1:] = np.frombuffer(array.tobytes(), np.uint8)
    return room[1:].view(array.dtype).reshape(array.shape)


def read_only(array):
    array = array.copy()
    array.flags.writeable = False
    return array


LAYOUTS = {
    "read-only": read_only,
    "unaligned": unaligned,
    "columns first": np.asfortranarray,
    "every third column of a wider array": lambda array: np.repeat(array, 3, axis=1)[:, ::3],
    "backwards": lambda array: np.ascontiguousarray(array[::-1, ::-1])[::-1, ::-1],
    "the last of (rows, positions, vocabulary)": lambda array: np.stack([array * 0, array], axis=1)[:, -1],
}


@pytest.mark.parametrize("name", TYPES)
@pytest.mark.parametrize("layout", LAYOUTS)
def test_however_the_array_lies(name, layout):
    logits = random_logits(3, 2500, name)
    laid = LAYOUTS[layout](logits)
    assert (laid == logits).all()
    assert verdict_log_probabilities(laid, 0, 2499).tobytes() == verdict_log_probabilities(logits, 0, 2499).tobytes()


def test_one_row_may_stand_for_all():
    row = random_logits(1, 2500, "float32")
    assert verdict_log_probabilities(np.broadcast_to(row, (4, 2500)), 0, 1).tolist() == \
        verdict_log_probabilities(row, 0, 1).tolist() * 4


# What is no score

@pytest.mark.parametrize("name", TYPES)
@pytest.mark.parametrize("value", [math.nan, -math.nan, math.inf])
@pytest.mark.parametrize("place", [0, 1, 5, 1023, 1024, 2499])  # the verdict tokens are 0 and 1
def test_a_logit_that_is_no_number_is_an_error_wherever_it_stands(name, value, place):
    values = np.zeros((3, 2500), np.float32)
    values[1, place] = value
    with pytest.raises(VerdictError, match=r"row 1 .*\(3, 2500\).*run `safeguard info`"):
        verdict_log_probabilities(as_type(values, name), 0, 1)


@pytest.mark.parametrize("tokens", [[0], [1], [0, 1], slice(None)])
def test_a_verdict_token_that_cannot_come_is_an_error(tokens):
    logits = np.zeros(2500, np.float32)
    logits[tokens] = -math.inf
    with pytest.raises(VerdictError, match="none for a verdict token"):
        verdict_log_probabilities(logits, 0, 1)


# Arguments

@pytest.mark.parametrize("shape, found", [((5,), (2,)), ((1, 5), (1, 2)), ((4, 5), (4, 2)), ((0, 5), (0, 2))])
def test_one_pair_for_each_row(shape, found):
    log_probabilities = verdict_log_probabilities(np.zeros(shape, np.float32), 0, 4)
    assert (log_probabilities.shape, log_probabilities.dtype) == (found, np.float64)


@pytest.mark.parametrize("dtype", ["float64", ">f4", ">f2", "int32", "int16", "bool", "object", "complex64", "V2"])
def test_an_array_of_another_type_is_refused(dtype):
    with pytest.raises(TypeError, match="must be float32, float16, or uint16"):
        verdict_log_probabilities(np.zeros(5, dtype), 0, 1)


@pytest.mark.parametrize("shape", [(), (1, 1, 5)])
def test_an_array_of_another_shape_is_refused(shape):
    with pytest.raises(ValueError, match="must be \\(rows, vocabulary\\)"):
        verdict_log_probabilities(np.zeros(shape, np.float32), 0, 1)


@pytest.mark.parametrize("safe, unsafe", [(0, 5), (5, 0), (-1, 0), (0, -1), (0, 2**62)])
def test_a_token_outside_the_vocabulary_is_refused(safe, unsafe):
    with pytest.raises(IndexError, match="none of the 5"):
        verdict_log_probabilities(np.zeros((2, 5), np.float32), safe, unsafe)


def test_two_verdicts_are_two_tokens():
    with pytest.raises(ValueError, match="both 3, must differ"):
        verdict_log_probabilities(np.zeros(5, np.float32), 3, 3)


def test_a_list_is_no_array():
    with pytest.raises(TypeError):
        verdict_log_probabilities([0.0, 1.0], 0, 1)
