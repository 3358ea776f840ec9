"""Warnings about policies: what is legal and still looks like a mistake."""
import pytest

from safeguard_sdk.policy import Policy, Rule
from safeguard_sdk.policy_review import review_policy


def review(*rules: Rule, **limits) -> list[tuple[str, str]]:
    return [(finding.rule, finding.message) for finding in review_policy(Policy("shop", "1", rules), **limits)]


def test_a_sound_policy_has_no_warnings():
    assert review(Rule("weapons", forbids=["guns", "knives as weapons"], allows="kitchen knives")) == []


@pytest.mark.parametrize("rule", [Rule("a", allows="birds"), Rule("a", forbids=["None"], allows="birds")])
def test_a_rule_that_forbids_nothing_is_reported(rule):
    assert review(rule) == [
        ("a", "forbids nothing, so no image should break it; give it forbids, unless that is meant")]


@pytest.mark.parametrize("forbidden, allowed", [
    ("guns", "guns"), ("Guns", "a gun"), ("the big knives", "big knife"), ("boxes", "box"),
    ("rifles, guns", "toys; gun")])
def test_a_phrase_both_forbidden_and_allowed_is_reported(forbidden, allowed):
    assert [message for _, message in review(Rule("a", forbids=["war", forbidden], allows=["peace", allowed]))] == [
        f"both forbids and allows '{forbidden.split(', ')[-1]}'; delete it from one of the two"]


@pytest.mark.parametrize("forbidden, allowed", [("animals", "birds"), ("knives", "kitchen knives"), ("glass", "glue")])
def test_an_exception_is_no_contradiction(forbidden, allowed):
    assert review(Rule("a", forbids=forbidden, allows=allowed)) == []


def test_a_phrase_forbidden_in_one_rule_and_allowed_in_another_is_reported():
    assert review(Rule("a", forbids="guns"), Rule("b", forbids="wine", allows="gun")) == [
        ("a", "forbids 'guns', which rule 'b' allows; every rule is judged alone, so such an image still breaks 'a': "
              "allow it here, or delete it there")]


@pytest.mark.parametrize("review_at, unsafe_at, messages", [
    (0.01, 0.02, []),
    (0, 0.5, ["review_at is 0, so no image is safe; raise it"]),
    (0, 0, ["unsafe_at is 0, so every image is unsafe; raise it"]),
])
def test_a_threshold_that_flags_everything_is_reported(review_at, unsafe_at, messages):
    rule = Rule("a", forbids="guns", review_at=review_at, unsafe_at=unsafe_at)
    assert [message for _, message in review(rule)] == messages


@pytest.mark.parametrize("first, second", [
    ({"text": "No guns."}, {"text": "No guns. \r\n"}),
    ({"title": "t", "forbids": "guns"}, {"title": "t", "forbids": "guns"}),
    ({"forbids": ["guns", "knives"]}, {"forbids": ["Knives", "guns"]}),
])
def test_a_rule_said_twice_is_reported(first, second):
    assert review(Rule("a", **first), Rule("b", **second)) == [("b", "says the same as rule 'a'; delete one of them")]


def test_a_rule_longer_than_the_model_reads_is_reported():
    rule = Rule("a", text="one two three")
    assert review(rule, count_tokens=lambda text: len(text.split()), max_tokens=3) == []
    assert review(rule, count_tokens=lambda text: len(text.split()), max_tokens=2) == [
        ("a", "is 3 tokens long, the model reads 2; shorten it, or make it two rules")]


def test_a_yaml_policy_that_was_read_as_plain_text_is_reported():
    policy = Policy.from_text("name: shop\nrules:\n  - id: weapons\n    forbids: guns\n")
    assert review(*policy.rules) == [
        ("policy", "is plain text that looks like a YAML policy; read it as YAML to have its rules")]


def test_a_limit_without_a_tokenizer_is_a_mistake_of_the_caller():
    with pytest.raises(ValueError, match="give both or neither"):
        review(Rule("a", forbids="guns"), max_tokens=3)
