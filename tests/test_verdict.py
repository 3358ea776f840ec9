"""From logits to a verdict: the boundary of every threshold, the gravest rule, and no verdict without a number."""

import math
import pickle

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from safeguard_sdk import Policy, Verdict, VerdictError
from safeguard_sdk.calibration import Calibration
from safeguard_sdk.policy import Rule
from safeguard_sdk.verdict import calibrated_score, decide, label_of

WEAPONS = Rule("weapons", forbids="guns", review_at=0.4, unsafe_at=0.7)
TOBACCO = Rule("tobacco", forbids="cigarettes", review_at=0.5, unsafe_at=0.9)
SHOP = Policy("shop", "1", (WEAPONS, TOBACCO))
IDENTITY = Calibration(1.0, 0.0)
BELOW_ONE = math.nextafter(1, 0)


# Labels

@pytest.mark.parametrize("score, label", [
    (0.0, "safe"), (math.nextafter(0.4, 0), "safe"),
    (0.4, "review"), (math.nextafter(0.7, 0), "review"),
    (0.7, "unsafe"), (1.0, "unsafe"),
])
def test_a_threshold_belongs_to_the_graver_label(score, label):
    assert label_of(score, WEAPONS) == label


@pytest.mark.parametrize("score, label", [(math.nextafter(0.5, 0), "safe"), (0.5, "unsafe")])
def test_there_is_no_review_without_a_band(score, label):
    assert label_of(score, Rule("plain", forbids="guns")) == label


@pytest.mark.parametrize("rule, labels", [
    (Rule("all", forbids="x", unsafe_at=0), ["unsafe", "unsafe", "unsafe"]),
    (Rule("watch", forbids="x", review_at=0, unsafe_at=1), ["review", "review", "unsafe"]),
    (Rule("sure", forbids="x", unsafe_at=1), ["safe", "safe", "unsafe"]),
])
def test_thresholds_may_lie_at_the_ends(rule, labels):
    assert [label_of(score, rule) for score in (0.0, BELOW_ONE, 1.0)] == labels


# The rule that decides

@pytest.mark.parametrize("weapons, tobacco, verdict", [
    (0.1, 0.2, ("safe", 0.2, None)),             # safe: the highest score, and no rule
    (0.3, 0.6, ("review", 0.6, "tobacco")),
    (0.7, 0.8, ("unsafe", 0.7, "weapons")),      # unsafe outweighs review, though its score is lower
    (0.69, 0.5, ("review", 0.69, "weapons")),    # both review: the higher score
    (0.75, 0.95, ("unsafe", 0.95, "tobacco")),
    (0.95, 0.95, ("unsafe", 0.95, "weapons")),   # a tie: the first in the policy
    (0.6, 0.6, ("review", 0.6, "weapons")),
])
def test_the_gravest_label_counts_and_within_it_the_highest_score(weapons, tobacco, verdict):
    assert decide({"weapons": weapons, "tobacco": tobacco}, SHOP) == verdict


def test_a_tie_goes_to_the_first_rule_of_the_policy_whatever_the_order_of_the_scores():
    turned = Policy("shop", "1", (TOBACCO, WEAPONS))
    assert decide({"weapons": 0.95, "tobacco": 0.95}, turned) == ("unsafe", 0.95, "tobacco")


def test_a_rule_without_a_score_is_an_error_and_not_safe():
    with pytest.raises(KeyError, match="tobacco"):
        decide({"weapons": 0.1}, SHOP)


# Scores

@pytest.mark.parametrize("safe, unsafe, score", [
    (0.0, 0.0, 0.5), (1.0, 1.0 + math.log(3), 0.75), (math.log(3), 0.0, 0.25),
    (1000.0, -1000.0, 0.0), (-1000.0, 1000.0, 1.0),  # exp would overflow
])
def test_a_score_is_the_probability_of_unsafe(safe, unsafe, score):
    assert calibrated_score(np.array([safe, unsafe]), IDENTITY) == pytest.approx(score, abs=1e-15)


def test_calibration_scales_and_shifts_the_logit():
    assert calibrated_score(np.array([0.0, 2.0]), Calibration(0.5, -1.0)) == 0.5
    assert calibrated_score(np.array([0.0, 2.0]), Calibration(0.5, math.log(3) - 1)) == pytest.approx(0.75)


@given(st.floats(-4096, 4096, width=32), st.floats(-4096, 4096, width=32))
def test_a_score_lies_in_0_to_1_and_turns_with_its_logits(safe, unsafe):
    score, turned = (calibrated_score(np.array(pair, np.float32), IDENTITY)
                     for pair in ((safe, unsafe), (unsafe, safe)))
    assert 0 <= score <= 1
    assert score == pytest.approx(1 - turned, abs=1e-15)
    assert score >= 0.5 if unsafe >= safe else score <= 0.5


@pytest.mark.parametrize("safe, unsafe", [
    (math.nan, 0.0), (0.0, math.nan), (math.inf, 0.0), (0.0, math.inf), (-math.inf, 0.0), (math.inf, math.inf),
])
def test_logits_that_are_no_numbers_are_an_error_and_never_safe(safe, unsafe):
    with pytest.raises(VerdictError, match=r"run `safeguard info`"):
        calibrated_score(np.array([safe, unsafe], np.float32), IDENTITY)


@pytest.mark.parametrize("scale", [0.0, -1.0, math.nan, math.inf])
def test_a_calibration_cannot_turn_verdicts_round(scale):
    with pytest.raises(ValueError, match="scale above 0"):
        Calibration(scale, 0.0)


# Verdicts

def test_how_long_it_took_is_no_part_of_a_verdict():
    fast, slow = (Verdict("safe", 0.1, None, {"weapons": 0.1}, "p", "b", "s", ms={"vision": ms}) for ms in (1.0, 2.0))
    assert fast == slow
    assert fast != Verdict("safe", 0.2, None, {"weapons": 0.2}, "p", "b", "s")


def test_a_verdict_can_be_sent_to_another_process():
    verdict = Verdict("unsafe", 0.9, "weapons", {"weapons": 0.9}, "p", "b", "s", "Seen: a gun.", {"vision": 1.0})
    assert pickle.loads(pickle.dumps(verdict)) == verdict
