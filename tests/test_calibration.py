"""What turns logits into scores, and how a bundle says which: one for all rules, and one for rules by their words."""

from __future__ import annotations

import math
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny_bundle import FILES, manifest_of, write_bundle, write_manifest

from safeguard_sdk import Bundle, BundleError
from safeguard_sdk.calibration import Calibration, IsotonicCalibration, read_calibration, text_sha256
from safeguard_sdk.verdict import calibrated_score

STEPS = IsotonicCalibration((-2.0, -1.0, 1.0, 3.0), (0.1, 0.4, 0.4, 0.9))
finite = st.floats(-1e6, 1e6)


@pytest.mark.parametrize("logit, score", [
    (-1e9, 0.1), (-2.0, 0.1), (-1.5, 0.25), (-1.0, 0.4), (0.0, 0.4), (1.0, 0.4), (2.0, 0.65), (3.0, 0.9), (1e9, 0.9)])
def test_an_isotonic_score_lies_on_the_line_through_its_points_and_is_level_beyond_them(logit, score):
    assert STEPS.score(logit) == pytest.approx(score, abs=1e-12)


@settings(deadline=None)
@given(finite, finite)
def test_a_higher_logit_never_has_a_lower_score(one, other):
    low, high = sorted((one, other))
    for calibration in (STEPS, Calibration(0.7, -1.2)):
        assert 0 <= calibration.score(low) <= calibration.score(high) <= 1


@pytest.mark.parametrize("logits, scores", [
    ((0.0,), (0.5,)), ((), ()), ((0.0, 1.0), (0.1,)), ((1.0, 0.0), (0.1, 0.9)), ((0.0, 0.0), (0.1, 0.9)),
    ((0.0, math.nan), (0.1, 0.9)), ((0.0, math.inf), (0.1, 0.9)), ((0.0, 1.0), (0.9, 0.1)), ((0.0, 1.0), (0.5, 0.5)),
    ((0.0, 1.0), (-0.1, 0.9)), ((0.0, 1.0), (0.1, 1.1)), ((0.0, 1.0), (math.nan, 0.9)), ((0.0, 1.0), (0.1, math.nan))])
def test_points_that_are_no_rising_line_are_refused(logits, scores):
    with pytest.raises(ValueError, match="calibration: "):
        IsotonicCalibration(logits, scores)


def test_logits_of_a_model_go_through_an_isotonic_calibration():
    assert calibrated_score(np.array([1.0, 3.0], np.float32), STEPS) == pytest.approx(0.65)


@pytest.mark.parametrize("entry, calibration", [
    ({"scale": 2.0, "shift": -1.0}, Calibration(2.0, -1.0)),  # of a bundle that names no method
    ({"method": "platt", "scale": 2.0, "shift": -1.0, "ece": 0.1}, Calibration(2.0, -1.0)),
    ({"method": "temperature", "scale": 0.5, "shift": 0.0}, Calibration(0.5, 0.0)),
    ({"method": "isotonic", "points": {"logits": [-2, -1, 1, 3], "scores": [0.1, 0.4, 0.4, 0.9]}}, STEPS)])
def test_a_manifest_names_the_method_and_its_numbers(entry, calibration):
    assert read_calibration(entry) == calibration


# In a bundle

WEAPONS = "Rule: weapons\nForbidden: guns\nAllowed: everything else"
OWN = {"method": "platt", "scale": 3.0, "shift": 0.5, "unsafe_at": 0.8}
WHOLE = {"method": "platt", "scale": 2.0, "shift": -1.0, "unsafe_at": 0.6}


def bundle_with(folder, **calibration) -> Bundle:
    write_bundle(folder)
    write_manifest(folder, manifest_of(FILES, calibration=calibration))
    return Bundle.open(folder)


def test_a_rule_has_its_own_calibration_by_the_words_that_the_model_reads(tmp_path):
    bundle = bundle_with(tmp_path, **WHOLE, rules={text_sha256(WEAPONS): OWN})
    assert bundle.calibration_of(WEAPONS) == Calibration(3.0, 0.5)
    assert bundle.calibration_of(WEAPONS + " ") == bundle.calibration == Calibration(2.0, -1.0)


def test_a_bundle_recommends_a_threshold_for_a_rule_or_for_all_or_none(tmp_path):
    bundle = bundle_with(tmp_path, **WHOLE, rules={text_sha256(WEAPONS): OWN})
    assert (bundle.unsafe_at_of(WEAPONS), bundle.unsafe_at_of("other words")) == (0.8, 0.6)
    assert bundle_with(tmp_path, scale=1.0, shift=0.0).unsafe_at_of(WEAPONS) is None


@pytest.mark.parametrize("calibration, says", [
    (WHOLE | {"method": "beta"}, "method 'beta' is not known here; install a newer safeguard"),
    ({"method": "isotonic", "scale": 1.0, "shift": 0.0}, "KeyError 'points'"),
    ({"method": "isotonic", "points": {"logits": [0, 1], "scores": [0.9, 0.1]}}, "turn verdicts round"),
    ({"method": "isotonic", "points": {"logits": "steep", "scores": [0.1, 0.9]}}, "ValueError"),
    (WHOLE | {"rules": {"00": {"scale": -1.0, "shift": 0.0}}}, "scale -1.0"),
    (WHOLE | {"rules": []}, "AttributeError"),
    (WHOLE | {"rules": {"00": 7}}, "AttributeError"),
    (WHOLE | {"unsafe_at": 1.5}, "unsafe_at is 1.5"),
    (WHOLE | {"unsafe_at": float("nan")}, "unsafe_at is nan"),
    (WHOLE | {"unsafe_at": "high"}, "TypeError")])
def test_a_bundle_whose_calibration_is_wrong_does_not_open(tmp_path, calibration, says):
    with pytest.raises(BundleError) as caught:
        bundle_with(tmp_path, **calibration)
    assert says in str(caught.value) and "\n" not in str(caught.value)


def test_an_isotonic_score_rises_where_its_points_rise():
    scores = [STEPS.score(logit) for logit in np.linspace(1, 3, 50)]
    assert all(one < other for one, other in pairwise(scores))
