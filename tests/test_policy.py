"""Policies: what may stand in a file, what a model reads of it, what the hash covers. Wrong files: test_policy_file."""
import hashlib
import itertools
import json
import re
import unicodedata
from dataclasses import FrozenInstanceError
from pathlib import Path

import pytest
from hypothesis import given, reject
from hypothesis import strategies as st

from safeguard_sdk.errors import PolicyError
from safeguard_sdk.policy import Policy, Rule
from safeguard_sdk.policy_review import review_policy

SHOP = """\
name: shop
version: 1.10
rules:
  - id: weapons
    title: Weapons
    forbids: [guns, knives as weapons]
    allows: kitchen knives
    review_at: 0.4
    unsafe_at: 0.7
  - id: free-words
    text: |
      No drugs.
      Medicine is fine.
"""
RULES = "rules:\n  - id: weapons\n"  # the next line is line 3


def rule_lines(*lines: str) -> str:
    return RULES + "".join(f"    {line}\n" for line in lines)


# What a file says

def test_a_yaml_policy_has_a_name_a_version_and_rules():
    assert Policy.from_yaml(SHOP) == Policy("shop", "1.10", (
        Rule("weapons", "Weapons", ("guns", "knives as weapons"), ("kitchen knives",), review_at=0.4, unsafe_at=0.7),
        Rule("free-words", text="No drugs.\nMedicine is fine."),
    ))


def test_only_an_id_and_something_said_are_required():
    rule, = Policy.from_yaml(rule_lines("forbids: guns")).rules
    assert (rule.title, rule.forbids, rule.allows, rule.text) == ("weapons", ("guns",), (), "")
    assert (rule.review_at, rule.unsafe_at) == (0.5, 0.5)


@pytest.mark.parametrize("id, title", [("hate-symbols", "hate symbols"), ("a__b-", "a b"), ("18plus", "18plus")])
def test_a_title_defaults_to_the_words_of_the_id(id, title):
    assert Rule(id, forbids="x").title == title


def test_no_review_band_unless_asked():
    assert Rule("a", forbids="x", unsafe_at=0.8).review_at == 0.8


@pytest.mark.parametrize("written, version", [
    ("1.10", "1.10"), ("2", "2"), ("2025-06-01", "2025-06-01"), ("'v 3'", "v 3")])
def test_a_version_is_the_text_as_written(written, version):
    assert Policy.from_yaml(f"version: {written}\n" + rule_lines("forbids: guns")).version == version


@pytest.mark.parametrize("written, threshold", [("0", 0.0), ("1", 1.0), (".5", 0.5), ("5e-1", 0.5)])
def test_thresholds_may_be_any_number_from_0_to_1(written, threshold):
    rule, = Policy.from_yaml(rule_lines("forbids: guns", "review_at: 0", f"unsafe_at: {written}")).rules
    assert rule.unsafe_at == threshold


def test_a_policy_cannot_be_changed():
    with pytest.raises(FrozenInstanceError):
        Policy.from_yaml(SHOP).rules[0].unsafe_at = 1.0


# What a model reads

def test_the_canonical_text_of_a_structured_rule():
    assert Policy.from_yaml(SHOP).rules[0].canonical_text == (
        "Rule: Weapons\nForbidden: guns; knives as weapons\nAllowed: kitchen knives")


def test_the_canonical_text_names_an_empty_side():
    assert Rule("a", forbids="guns").canonical_text == "Rule: a\nForbidden: guns\nAllowed: everything else"
    assert Rule("a", allows="guns").canonical_text == "Rule: a\nForbidden: nothing\nAllowed: guns"


def test_free_words_reach_the_model_as_they_stand():
    policy = Policy.from_text("\nNo guns.  \r\n\r\n  - toys are fine\t\r\n\n")
    assert policy.canonical_text == "No guns.\n\n  - toys are fine"


def test_a_blank_line_stands_between_rules():
    first, second = Policy.from_yaml(SHOP).rules
    assert Policy.from_yaml(SHOP).canonical_text == first.canonical_text + "\n\n" + second.canonical_text


# The hash

def test_the_hash_is_the_sha256_of_the_documented_json():
    form = ('[{"id":"weapons","review_at":0.4,"text":"Rule: Weapons\\nForbidden: guns; knives as weapons\\n'
            'Allowed: kitchen knives","unsafe_at":0.7},'
            '{"id":"free-words","review_at":0.5,"text":"No drugs.\\nMedicine is fine.","unsafe_at":0.5}]')
    assert json.loads(form)  # the text above is JSON
    assert Policy.from_yaml(SHOP).sha256 == hashlib.sha256(form.encode()).hexdigest()
    assert Policy.from_yaml(SHOP).sha256 == "4080234cf21f4d4fe5b83be8a78be3e64400ee11bdb6111ea10b36e4609dc5cc"


@pytest.mark.parametrize("old, new", [
    ("name: shop", "name: other"), ("version: 1.10", "version: 2"), ("\n", "\r\n"), ("\n", "\r"),
    ("[guns, knives as weapons]", "['guns',   \"knives  as weapons \"]"), ("0.7", "0.70"),
    ("rules:", "# a comment\nrules:"),
])
def test_what_no_model_sees_leaves_the_hash_alone(old, new):
    assert old in SHOP
    assert Policy.from_yaml(SHOP.replace(old, new)).sha256 == Policy.from_yaml(SHOP).sha256


@pytest.mark.parametrize("old, new", [
    ("id: weapons", "id: arms"), ("Weapons", "Arms"), ("guns", "rifles"), ("kitchen", "bread"), ("0.4", "0.41"),
    ("0.7", "0.71"), ("fine.", "fine!"), ("[guns, knives as weapons]", "[knives as weapons, guns]"),
])
def test_what_can_change_a_verdict_changes_the_hash(old, new):
    assert old in SHOP
    assert Policy.from_yaml(SHOP.replace(old, new)).sha256 != Policy.from_yaml(SHOP).sha256


def test_composed_and_decomposed_letters_are_the_same_policy():
    composed, decomposed = (unicodedata.normalize(form, "Käse") for form in ("NFC", "NFD"))
    assert composed != decomposed
    assert Rule("a", forbids=decomposed).forbids == (composed,)
    assert Policy.from_text(decomposed).sha256 == Policy.from_text(composed).sha256


def test_minus_zero_is_zero():
    first, second = (Policy.from_text("No guns.", review_at=zero) for zero in (0.0, -0.0))
    assert first.sha256 == second.sha256


# Writing

def test_yaml_is_written_for_people():
    assert Policy.from_yaml(SHOP).to_yaml() == """\
name: shop
version: '1.10'
rules:
  - id: weapons
    title: Weapons
    forbids:
      - guns
      - knives as weapons
    allows:
      - kitchen knives
    review_at: 0.4
    unsafe_at: 0.7
  - id: free-words
    title: free words
    text: |-
      No drugs.
      Medicine is fine.
    review_at: 0.5
    unsafe_at: 0.5
"""


PHRASES = st.text(st.characters(exclude_categories=["C"]), min_size=1, max_size=40) | st.sampled_from(
    ["no", "null", "~", "1.0", "2025-06-01", "- a", "-a", "--- a", "*a", "&a", "a: b", "a #b", "#", "'", '"', "!x"])
LINES = st.text(st.characters(exclude_categories=["C"], include_characters="\n\r\t\x85"), max_size=60) | st.lists(
    st.sampled_from(["", " ", "\t", "  - a", "# a", "---", "...", "a: b", "%a"]), min_size=1, max_size=5).map("\n".join)
SAID = st.fixed_dictionaries({"forbids": st.lists(PHRASES, max_size=3), "allows": st.lists(PHRASES, max_size=2)}) \
    | st.fixed_dictionaries({"text": LINES})
IDS = st.lists(st.from_regex("[a-z0-9][a-z0-9_-]{0,5}", fullmatch=True), min_size=1, max_size=3, unique=True)
THRESHOLDS = st.tuples(st.floats(0, 1), st.floats(0, 1)).map(sorted)


@given(st.data(), IDS)
def test_a_policy_survives_writing_and_reading(data, ids):
    try:
        rules = []
        for id in ids:
            review_at, unsafe_at = data.draw(THRESHOLDS)
            rules.append(Rule(id, data.draw(PHRASES), **data.draw(SAID), review_at=review_at, unsafe_at=unsafe_at))
        policy = Policy(data.draw(PHRASES), data.draw(PHRASES), tuple(rules))
    except PolicyError:  # blank or invisible characters only: nothing to write
        reject()
    again = Policy.from_yaml(policy.to_yaml())
    assert again == policy
    assert again.sha256 == policy.sha256


@pytest.mark.parametrize("text", ["No guns.\t\ufe0f or knives", "a\n\t\u200dof guns"])
def test_a_sign_that_is_legal_after_a_tab_is_so_in_yaml_too(text):
    policy = Policy("shop", "1", (Rule("a", text=text),))
    assert Policy.from_yaml(policy.to_yaml()) == policy


def test_what_becomes_a_latin_letter_counts_as_one():
    with pytest.raises(PolicyError, match=r"invisible character U\+200D"):
        Rule("a", text="\u212a\u200dnives")  # the Kelvin sign, a K in normal form


# Files

def test_yaml_files_are_known_by_their_suffix(tmp_path):
    for name in ("a.yaml", "b.yml", "c.YAML"):
        (tmp_path / name).write_text(SHOP, encoding="utf-8")
        assert Policy.load(tmp_path / name) == Policy.from_yaml(SHOP)


def test_every_other_file_is_plain_text_named_by_its_stem(tmp_path):
    (tmp_path / "rules.txt").write_bytes(b"No guns.\r\n")
    policy = Policy.load(str(tmp_path / "rules.txt"))
    assert (policy.name, policy.version) == ("rules", "1")
    assert policy.rules == (Rule("policy", text="No guns."),)
    assert policy.sha256 == Policy.from_text("No guns.", name="other").sha256


def test_free_words_may_have_thresholds():
    rule, = Policy.from_text("No guns.", review_at=0.2, unsafe_at=0.6).rules
    assert (rule.review_at, rule.unsafe_at) == (0.2, 0.6)


@pytest.mark.parametrize("file, name", [
    ("market.yaml", "market"), ("a\u200cb.yaml", "a?b"), ("two\nlines.yaml", "two lines"), ("\x07.yaml", "?")])
def test_a_yaml_policy_without_a_name_is_named_by_its_file(tmp_path, file, name):
    (tmp_path / file).write_text(rule_lines("forbids: guns"))
    assert Policy.load(tmp_path / file).name == name


@pytest.mark.parametrize(("name", "content"), [("a.yaml", SHOP), ("a.txt", "No guns.")])
def test_a_byte_order_mark_is_no_part_of_a_policy(tmp_path, name, content):
    (tmp_path / name).write_bytes(content.encode())
    plain = Policy.load(tmp_path / name)
    (tmp_path / name).write_bytes(b"\xef\xbb\xbf" + content.encode())
    assert Policy.load(tmp_path / name) == plain


@pytest.mark.parametrize("build, message", [
    (lambda: Policy("shop", "1", ()), "the policy has no rules; give it at least one"),
    (lambda: Policy("", "1", (Rule("a", forbids="x"),)), "name of the policy is '', must be text in one line"),
    (lambda: Policy("shop", 1.0, (Rule("a", forbids="x"),)), "version of the policy is 1.0, must be text in one line"),
    (lambda: Rule("a", forbids={"x"}), "rule 'a': forbids is {'x'}, must be a phrase or a list of phrases"),
    (lambda: Rule("a", forbids=["x", 3]), "rule 'a': forbids is 3, must be text"),
    (lambda: Rule("a", forbids="x", unsafe_at=True), "rule 'a': unsafe_at is True, must be a number in [0, 1]"),
    (lambda: Rule("a", forbids="x", unsafe_at="0.5"), "rule 'a': unsafe_at is '0.5', must be a number in [0, 1]"),
    (lambda: Policy.from_text("  \n"), "the policy is empty; write what is forbidden and what is allowed"),
])
def test_what_is_built_in_code_is_checked_as_strictly(build, message):
    with pytest.raises(PolicyError) as caught:
        build()
    assert str(caught.value) == message


# The documentation

def test_the_documented_policy_is_read_as_documented():
    page = (Path(__file__).parent.parent / "docs" / "policy.md").read_text(encoding="utf-8")
    blocks = dict(reversed(re.findall(r"```(\w+)\n(.*?)```", page, re.DOTALL)))  # the first block of each language
    policy = Policy.from_yaml(blocks["yaml"])
    assert policy.rules[0].canonical_text + "\n" == blocks["text"]
    weapons = json.loads(blocks["json"])[0]
    assert weapons == {"id": "weapons", "text": policy.rules[0].canonical_text, "review_at": 0.4, "unsafe_at": 0.7}


# Packaged policies

def test_the_packaged_policies():
    assert Policy.packaged_names() == ("L1", "L2", "L3", "L4", "L5", "general")
    for name in Policy.packaged_names():
        assert Policy.load(name) == Policy.packaged(name)
        assert Policy.packaged(name).name == name


def test_a_file_comes_before_a_packaged_policy_of_the_same_name(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("general").mkdir()
    assert Policy.load("general") == Policy.packaged("general")  # a folder is no file
    Path("general").rmdir()
    Path("general").write_text("No guns.")
    assert Policy.load("general").canonical_text == "No guns."


@pytest.mark.parametrize("name", ["generl", "../policies/general", "general.yaml"])
def test_an_unknown_packaged_policy_names_the_known_ones(name):
    with pytest.raises(PolicyError, match=r"\(there are: L1, L2, L3, L4, L5, general\)"):
        Policy.packaged(name)


def test_each_level_forbids_whatever_the_level_below_forbids_and_more():
    levels = [{phrase for rule in Policy.packaged(name).rules for phrase in rule.forbids}
              for name in ("L1", "L2", "L3", "L4", "L5")]
    assert levels[0] == set()
    for below, level in itertools.pairwise(levels):
        assert below < level


def test_packaged_rules_are_short_enough_for_a_small_model_and_raise_no_warnings():
    for name in Policy.packaged_names():
        findings = review_policy(Policy.packaged(name), count_tokens=lambda text: len(text.split()), max_tokens=50)
        assert [finding.rule for finding in findings] == (["anything"] if name == "L1" else [])


@pytest.mark.parametrize("hidden", ["\u200b", "\u200e", "\u2060", "\u00ad", "\u3164", "\u180e", "\ufff9", "\U000e0067",
                                    "\u200d", "\ufe0f", "\U000e0100"])
def test_what_a_reader_does_not_see_within_a_word_is_an_error(hidden):
    with pytest.raises(PolicyError, match=rf"invisible character U\+{ord(hidden):04X}; delete it"):
        Rule("weapons", forbids=f"gu{hidden}ns")


@pytest.mark.parametrize("text", ["می\u200cخواهم", "क्\u200dष", "no 👩\u200d🍳 please", "no ❤\ufe0f or ☠\ufe0f"])
def test_joiners_that_a_script_or_an_emoji_needs_stay(text):
    assert Rule("words", text=text).canonical_text == text


def test_blanks_of_any_width_are_read_as_plain_ones():
    assert Rule("words", text="No\u00a0guns,\u2009no\u3000knives.") == Rule("words", text="No guns, no knives.")


def test_a_packaged_policy_is_found_where_the_present_folder_is_closed(monkeypatch):
    def closed(self: Path) -> bool:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "is_file", closed)
    assert Policy.load("L1") == Policy.packaged("L1")
