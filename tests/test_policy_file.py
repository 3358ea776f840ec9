"""Policy files that are wrong: one error with the file, the line, what is wrong and how to mend it."""
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from safeguard_sdk.errors import PolicyError
from safeguard_sdk.policy import Policy

RULES = "rules:\n  - id: weapons\n"  # the next line is line 3


def rule_lines(*lines: str) -> str:
    return RULES + "".join(f"    {line}\n" for line in lines)


# Files that are no text

@pytest.mark.parametrize("data, message", [
    (b"", r": no policy in it; write `rules:`"),
    (b"# only a comment\n", r": no policy in it"),
    (b"name: caf\xe9\n", r", line 1: byte 0xe9 is not UTF-8; save the file as UTF-8"),
    (RULES.encode() + b"# \xff\n", r", line 3: byte 0xff is not UTF-8"),
    (RULES.encode("utf-16"), r": encoded as UTF-16; save it as UTF-8"),
    (b"\x89PNG\r\n\x1a\n\0\0", r": a binary file; a policy is a \.yaml or plain text file"),
    (b"#" * (1 << 20) + b"\n", r": larger than 1048576 bytes; .* is this the right file\?"),
    (b"rules:\n  - id: a\n    forbids: a\x07b\n", r", line 3: invisible character U\+0007; delete it"),
])
def test_a_file_that_is_no_text_says_so(tmp_path, data, message):
    (tmp_path / "shop.yaml").write_bytes(data)
    with pytest.raises(PolicyError, match=r"shop\.yaml" + message):
        Policy.load(tmp_path / "shop.yaml")


@pytest.mark.parametrize("data, message", [
    (b" \n\t\n", ": the policy is empty; write what is forbidden and what is allowed"),
    ("No\nguns\u202e.".encode(), r", line 2: invisible character U\+202E"),
    (b"name: shop\nrules:\n  - id: guns\n    forbids: guns\n", r": looks like a YAML policy .*; name the file \.yaml"),
    (b"rules:  # ours\n  - title: Guns\n    id: guns\n    forbids: guns\n", r": looks like a YAML policy"),
    (b"\"rules\": [{\"id\": \"guns\", \"forbids\": \"guns\"}]\n", r": looks like a YAML policy"),
])
def test_a_plain_text_file_is_checked_too(tmp_path, data, message):
    (tmp_path / "rules.txt").write_bytes(data)
    with pytest.raises(PolicyError, match=r"rules\.txt" + message):
        Policy.load(tmp_path / "rules.txt")


@pytest.mark.parametrize("asked, meant", [
    ("shpo.yaml", "shop.yaml"), ("shop", "shop.yaml"), ("Generl", "general"), ("l3", "L3")])
def test_a_missing_file_names_the_nearest_and_the_packaged_ones(tmp_path, monkeypatch, asked, meant):
    monkeypatch.chdir(tmp_path)
    Path("shop.yaml").write_text(rule_lines("forbids: guns"))
    with pytest.raises(PolicyError) as caught:
        Policy.load(asked)
    assert str(caught.value) == (f"{asked}: no such file; did you mean '{meant}'? "
                                 "(packaged policies: L1, L2, L3, L4, L5, general)")


@pytest.mark.parametrize("path, message", [("", "a folder; name a policy file in it"), ("a\0b", "cannot be read, ")])
def test_a_path_that_cannot_be_read_says_why(path, message):
    with pytest.raises(PolicyError, match=message):
        Policy.load(path)


# Text that is no policy

@pytest.mark.parametrize("lines, message", [
    # keys
    (["forbid: guns"], "line 3: rule 'weapons' has the unknown key 'forbid'; did you mean 'forbids'? "
                       "(known: id, title, forbids, allows, text, review_at, unsafe_at)"),
    (["forbids: guns", "colour: red"], "line 4: rule 'weapons' has the unknown key 'colour' "
                                       "(known: id, title, forbids, allows, text, review_at, unsafe_at)"),
    (["forbids: guns", "allows: toys", "forbids: knives"], "line 5: rule 'weapons' has 'forbids' twice, "
                                                           "first in line 3; keep one"),
    (["? [a]", ": b"], "line 3: a key of rule 'weapons' is a list, must be one of "
                       "id, title, forbids, allows, text, review_at, unsafe_at"),
    # texts
    (["forbids: no"], "line 3: rule 'weapons': forbids: YAML reads no as true/false; put it in quotes: \"no\""),
    (["forbids:", "  - guns", "  - 18"], "line 5: rule 'weapons': forbids: YAML reads 18 as a number; "
                                         "put it in quotes: \"18\""),
    (["title: 2025-06-01"], "line 3: rule 'weapons': title: YAML reads 2025-06-01 as a date; "
                            "put it in quotes: \"2025-06-01\""),
    (["forbids:"], "line 3: rule 'weapons': forbids is empty; write a text (in quotes if it starts with #), "
                   "or delete the entry"),
    (["forbids: [guns, ' ']"], "line 3: rule 'weapons': forbids is empty; "
                               "write a text (in quotes if it starts with #), or delete the entry"),
    (["forbids: [[guns]]"], "line 3: rule 'weapons': forbids is a list, must be one text"),
    (["forbids:", "  - guns: all of them"], "line 4: rule 'weapons': forbids is a mapping, must be text; "
                                            "put a text that contains ': ' in quotes"),
    (["forbids:", "  -guns", "  -knives"], "line 4: rule 'weapons': forbids starts with a dash; "
                                           "write a list with a blank after every dash, or use quotes"),
    (["forbids: |", "  guns", "  knives"], "line 3: rule 'weapons': forbids has a phrase of several lines; "
                                           "write a list, one phrase each"),
    (["forbids:", "  - guns", "  - \"a\\0b\""], "line 5: rule 'weapons': forbids has the invisible character U+0000; "
                                                "delete it"),
    (["forbids: !!python/name:os x"], "line 3, column 14: the YAML tag 'tag:yaml.org,2002:python/name:os' is not part "
                                      "of a policy; delete it, or put a text that starts with ! in quotes"),
    (["unsafe_at: !!str 0.5"], "line 3, column 16: the YAML tag 'tag:yaml.org,2002:str' is not part of a policy; "
                               "delete it, or put a text that starts with ! in quotes"),
    (["title: Weapons"], "line 2: rule 'weapons': it says nothing; give it forbids, allows or text"),
    (["forbids: []"], "line 2: rule 'weapons': it says nothing; give it forbids, allows or text"),
    (["forbids: guns", "text: No guns."], "line 4: rule 'weapons': text stands beside forbids or allows; "
                                          "keep the one or the others"),
    # thresholds
    (["forbids: guns", "unsafe_at: 1.5"], "line 4: rule 'weapons': unsafe_at is 1.5, must be a number in [0, 1]"),
    (["forbids: guns", "unsafe_at: -0.1"], "line 4: rule 'weapons': unsafe_at is -0.1, must be a number in [0, 1]"),
    (["forbids: guns", "unsafe_at: nan"], "line 4: rule 'weapons': unsafe_at is nan, must be a number in [0, 1]"),
    *[(["forbids: guns", f"unsafe_at: {written}"], f"line 4: rule 'weapons': unsafe_at is {found}, "
                                                   "must be a number in [0, 1] without quotes, such as 0.5")
      for written, found in [(".nan", "'.nan'"), ("'0.5'", "'0.5'"), ("50%", "'50%'"), ("0,5", "'0,5'"),
                             ("yes", "'yes'"), ("", "empty"), ("[0.5]", "a list")]],
    (["forbids: guns", "review_at: 0.6"], "line 4: rule 'weapons': review_at 0.6 is above unsafe_at 0.5; "
                                          "lower review_at or raise unsafe_at"),
])
def test_a_wrong_rule_is_named_with_its_line(lines, message):
    with pytest.raises(PolicyError) as caught:
        Policy.from_yaml(rule_lines(*lines), where="shop.yaml")
    assert str(caught.value) == f"shop.yaml, {message}"


@pytest.mark.parametrize("source, message", [
    ("nmae: shop\n" + rule_lines("forbids: guns"),
     "line 1: the policy has the unknown key 'nmae'; did you mean 'name'? (known: name, version, rules)"),
    ("unsafe_at: 0.5\n" + rule_lines("forbids: guns"),
     "line 1: the policy has the unknown key 'unsafe_at'; it belongs to a rule, under its `- id: …` "
     "(known: name, version, rules)"),
    ("version:\n" + rule_lines("forbids: guns"), "line 1: version is empty; "
                                                 "write a text (in quotes if it starts with #), or delete the entry"),
    ("version: yes\n" + rule_lines("forbids: guns"),
     "line 1: version: YAML reads yes as true/false; put it in quotes: \"yes\""),
    ('name: "a\\0b"\n' + rule_lines("forbids: guns"),
     "line 1: name of the policy is 'a\\x00b', must be text in one line"),
    ("name: shop\n", "line 1: the policy has no rules; write `rules:` and under it `- id: …` with `forbids: …`"),
    ("rules: []\n", "line 1: rules is empty, must be a list; start every rule with `- id: …`"),
    ("rules:\n  weapons:\n    forbids: guns\n",
     "line 2: rules is a mapping, must be a list; start every rule with `- id: …`"),
    ("rules:\n  - no guns\n", "line 2: rule 1 is text, must be a mapping; "
                              "write `- id: …` and under it `forbids: …` or `text: …`"),
    ("rules:\n  - forbids: guns\n", "line 2: rule 1 has no id; add a short one, such as `id: weapons`"),
    ("rules:\n  - id: Hand Guns\n    forbids: guns\n",
     "line 2: rule id 'Hand Guns' must be lower-case letters, digits, '-' and '_', such as 'hand-guns'"),
    (rule_lines("forbids: guns") + "  - id: weapons\n    forbids: knives\n",
     "line 4: two rules have the id 'weapons'; rename one of them"),
    ("- id: weapons\n", "line 1: the file is a list; write `rules:` above it"),
    ("No guns.\n", "line 1: the file holds only text; write `rules:` and under it `- id: …` with `text: …`, "
                   "or name the file .txt to have it read as free words"),
])
def test_a_wrong_policy_is_named_with_its_line(source, message):
    with pytest.raises(PolicyError) as caught:
        Policy.from_yaml(source, where="shop.yaml")
    assert str(caught.value) == f"shop.yaml, {message}"


@pytest.mark.parametrize("source, place, mend", [
    ("rules:\n\t- id: weapons\n", "line 2, column 1", "indent with spaces, never with tabs"),
    ("rules:\n  - id: weapons\n   forbids: guns\n", "line 3, column 4",
     "start all lines of one list or mapping in the same column"),
    (rule_lines("forbids: guns: all"), "line 3, column 18",
     "put a text that contains ': ' in quotes, or correct the indentation"),
    (rule_lines("forbids: 'guns"), "line 4, column 1", "close the quotes"),
    (rule_lines("forbids: [guns"), "line 4, column 1", "close the bracket, or put the texts in it in quotes"),
    (rule_lines("forbids: @home"), "line 3, column 14", "put a text that starts with this character in quotes"),
    (rule_lines("forbids: *.exe"), "line 3, column 15", "put a text that starts with '*' in quotes"),
    (rule_lines('forbids: "C:\\photos"'), "line 3, column 18", r"write a backslash as \\, or use single quotes"),
    (rule_lines('forbids: "\\UFFFFFFFF"'), "line 3", r"write a backslash as \\, or use single quotes"),
    (rule_lines("forbids"), "line 4, column 1", "write `key: value`, with a blank after the colon"),
    (rule_lines("forbids: guns") + "---\na: b\n", "line 4, column 1",
     "keep one policy per file: remove the second '---' and what follows"),
    (rule_lines("forbids: &g guns", "allows: *g"), "line 3, column 14",
     "write the text out, in quotes if it starts with & or *"),
    ("a: &a [x, x]\nb: &b [*a, *a]\n", "line 1, column 4", "write the text out, in quotes if it starts with & or *"),
    ("[" * 100_000, "line 1, column 9", "a policy is a list of rules, a rule has lists of phrases"),
])
def test_text_that_is_no_yaml_is_named_with_line_and_column(source, place, mend):
    with pytest.raises(PolicyError) as caught:
        Policy.from_yaml(source, where="shop.yaml")
    message = str(caught.value)
    assert message.startswith(f"shop.yaml, {place}: ")
    assert message.endswith(f"; {mend}")
    assert "\n" not in message


@given(st.text() | st.text(st.sampled_from("\n -:[]{}'\"#&*!|>%@?,\\\tUxab0"), max_size=60).map(rule_lines))
def test_any_text_is_a_policy_or_a_policy_error(text):
    try:
        Policy.from_yaml(text)
    except PolicyError as error:
        assert str(error).startswith("<text>")
