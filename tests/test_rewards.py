"""What rollouts are worth: the official reward to the digit, ours the same for both labels, and what cheating earns."""

from __future__ import annotations

import itertools
from pathlib import Path

import pytest

from training.rewards import ASKS, REWARDS, direct, official, official_format, reasoning

THOUGHT = "A man holds a rifle in a field; the policy forbids guns."  # 56 characters, 11 different words
SHORT = "A rifle."
THINKS = f"<think>{THOUGHT}</think>"
LONG_THOUGHT = "A man in a green coat holds a hunting rifle; the second rule forbids all guns, and no exception fits."


def worth(reward, text: str, label: str) -> float:
    (value,) = reward([text], label=[label])
    return value


# --- The official reward (SafeGuard-VL a21cdfe, train/plugin.py) ------------------------------------------------------
@pytest.mark.parametrize("text, safe, unsafe", [  # what it is worth if the photo is safe, if it is unsafe
    (THINKS + "<answer>no</answer>", 1.0, 2.0),
    (THINKS + "<answer>yes</answer>", 1.7, 1.0),
    ("<answer>no</answer>", 0.5, 1.5),
    ("<answer>yes</answer>", 1.2, 0.5),
    (f"<think>{SHORT}</think><answer>no</answer>", 0.5, 1.5),            # 50 characters make a thought
    (f"<think>{'x' * 49}</think><answer>no</answer>", 0.5, 1.5),
    (f"<think>{'x' * 50}</think><answer>no</answer>", 1.0, 2.0),
    (f"<think>{'x' * 49}{' ' * 9}</think><answer>no</answer>", 0.5, 1.5),  # blanks around it do not count
    (THINKS + "<answer> NO\n</answer>", 1.0, 2.0),
    (THINKS.upper() + "<ANSWER>Yes</Answer>", 1.7, 1.0),
    (THINKS + "<answer>unsafe</answer>", 0.5, 0.5),                      # only yes and no are answers
    (THINKS + "<answer>no.</answer>", 0.5, 0.5),
    (THINKS + "no", 0.5, 0.5),
    (THINKS, 0.5, 0.5),
    ("unsafe", 0.0, 0.0),
    ("", 0.0, 0.0),
    (THINKS + "<answer>no", 0.5, 0.5),                                   # cut off
    (f"<think>{THOUGHT}", 0.0, 0.0),
])
def test_the_official_reward_has_the_published_values(text, safe, unsafe):
    assert (worth(official, text, "safe"), worth(official, text, "unsafe")) == (safe, unsafe)


@pytest.mark.parametrize("text, value", [
    (THINKS + "<answer>no</answer>", 1.0),
    (THINKS + "\n \t<answer>anything</answer>", 1.0),
    ("<think></think><answer></answer>", 1.0),
    (THINKS + "<answer>no</answer>\n", 0.0),                             # nothing may follow
    (" " + THINKS + "<answer>no</answer>", 0.0),
    ("<answer>no</answer>", 0.0),
    (THINKS + "so <answer>no</answer>", 0.0),
    (THINKS.upper() + "<answer>no</answer>", 0.0),                       # tags in lower case only
    (THINKS + "<answer>no</answer><answer>yes</answer>", 1.0),           # .*? grows over both
    (f"<think>{THINKS}</think><answer>no</answer>", 1.0),
])
def test_the_official_format_reward_has_the_published_values(text, value):
    assert official_format([text], label=["safe"]) == [value]


@pytest.mark.parametrize("text, value", [
    (f"<think>{THOUGHT} <answer>no</answer></think>", 2.0),               # the answer inside the thought
    (THINKS + "<answer>no</answer><answer>yes</answer>", 2.0),            # both answers: the first is read
    (f"<think>{'no ' * 20}</think><answer>no</answer>", 2.0),             # a thought of filler
])
def test_these_attempts_deceive_the_official_reward_and_ours_pays_none_of_them_more_than_a_bare_answer(text, value):
    assert worth(official, text, "unsafe") == value
    assert worth(reasoning, text, "unsafe") <= 1.11 < worth(reasoning, f"<think>{LONG_THOUGHT}</think>"
                                                            "<answer>no</answer>", "unsafe")


# --- Ours -------------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("text, right, wrong", [  # of an answer that says unsafe
    (" unsafe", 1.2, 0.2),
    ("unsafe", 1.1, 0.1),                    # another first token than the one that serving compares
    (" unsafe.", 1.1, 0.1),
    ("\n UNSAFE \n", 1.1, 0.1),
])
def test_a_direct_verdict_is_worth_most_in_the_form_that_serving_compares(text, right, wrong):
    assert worth(direct, text, "unsafe") == pytest.approx(right)
    assert worth(direct, text, "safe") == pytest.approx(wrong)


@pytest.mark.parametrize("text", [
    "", " ", "yes", "no", " safe unsafe", " unsafe unsafe", " unsafe safe", "safe/unsafe", " unsafe because of the gun",
    "The photo is unsafe", "not safe", "<answer>unsafe</answer>", "<answer>no</answer>", "unsafe\u200b", " unsaf",
])
def test_what_is_no_direct_verdict_is_worth_nothing(text):
    assert worth(direct, text, "safe") == worth(direct, text, "unsafe") == 0.0


@pytest.mark.parametrize("text, right, wrong", [
    (f"<think>{LONG_THOUGHT}</think><answer>no</answer>", 1.2, 0.2),
    (f"<think>{LONG_THOUGHT}</think>\n<answer> NO </answer>\n", 1.2, 0.2),
    (f"<think>{SHORT}</think><answer>no</answer>", 1.1 + 0.1 * 2 / 12, 0.1 + 0.1 * 2 / 12),
    ("<answer>no</answer>", 1.0, 0.0),
    ("<think></think><answer>no</answer>", 1.0, 0.0),                       # an empty thought is none
    ("<think> \n </think><answer>no</answer>", 1.0, 0.0),
    ("<think>… - !!</think><answer>no</answer>", 1.0, 0.0),                 # no word in it
    (f"<think>{'gun ' * 100}</think><answer>no</answer>", 1.1 + 0.1 / 12, 0.1 + 0.1 / 12),  # filler
    (f"<think>{' '.join(map(str, range(201)))}</think><answer>no</answer>", 1.1, 0.1),      # too long
    ("unsafe", 1.0, 0.0),
])
def test_a_thought_is_worth_little_beside_being_right(text, right, wrong):
    assert worth(reasoning, text, "unsafe") == pytest.approx(right)
    assert worth(reasoning, text, "safe") == pytest.approx(wrong)


@pytest.mark.parametrize("text", [
    "", THINKS, THINKS + "no", "no", "yes",
    THINKS + "<answer>no</answer><answer>yes</answer>",                     # both answers
    THINKS + "<answer>no</answer><answer>no</answer>",                      # repeated tags
    THINKS + THINKS + "<answer>no</answer>",
    THINKS + "<answer>yes no</answer>",
    f"<think>{THOUGHT} <answer>no</answer></think>",                        # the answer inside the thought
    f"<think>{THOUGHT} <answer>no</answer></think><answer>yes</answer>",
    f"<think>{THINKS}</think><answer>no</answer>",
    f"<think>{THOUGHT}<answer>no</answer>",                                 # never closed
    "<answer>no</answer>" + THINKS,                                         # the thought comes first
    THINKS + "<answer>no</answer> Or yes?",
    THINKS + "<answer>unsafe</answer>",
    THINKS + "<answer>no",                                                  # cut off
])
def test_what_is_no_verdict_after_a_thought_is_worth_nothing(text):
    assert worth(reasoning, text, "safe") == worth(reasoning, text, "unsafe") == 0.0


@pytest.mark.parametrize("reward, safe, unsafe", [
    (direct, " safe", " unsafe"), (direct, "Safe.", "Unsafe."),
    (reasoning, "<answer>yes</answer>", "<answer>no</answer>"),
    (reasoning, THINKS + "<answer>yes</answer>", THINKS + "<answer>no</answer>"),
])
def test_our_rewards_are_the_same_for_both_labels(reward, safe, unsafe):
    assert worth(reward, safe, "safe") == worth(reward, unsafe, "unsafe")
    assert worth(reward, safe, "unsafe") == worth(reward, unsafe, "safe")


@pytest.mark.parametrize("reward, right, best_wrong", [
    (direct, "UNSAFE. ", " safe"),
    (reasoning, "<answer>no</answer>", f"<think>{LONG_THOUGHT}</think><answer>yes</answer>")])
def test_the_poorest_right_answer_is_worth_far_more_than_the_best_wrong_one(reward, right, best_wrong):
    assert worth(reward, right, "unsafe") > 4 * worth(reward, best_wrong, "unsafe") > 0


# --- As TRL calls them ------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("name", REWARDS)
def test_a_reward_takes_the_turns_that_trl_gives_and_whatever_other_columns_there_are(name):
    texts = [" unsafe", THINKS + "<answer>no</answer>", ""]
    turns = [[{"role": "assistant", "content": text}] for text in texts]
    labels = ["unsafe"] * 3
    values = REWARDS[name](prompts=[""] * 3, completions=turns, completion_ids=[[1]] * 3, label=labels, rule=["x"] * 3)
    assert values == REWARDS[name](texts, label=labels) and values[2] == 0.0


@pytest.mark.parametrize("name, share", [("official", 2 / 4), ("direct", 3 / 4), ("reasoning", 1 / 4)])
def test_a_reward_logs_the_share_of_rollouts_that_are_no_verdict(name, share):
    logged = {}
    texts = [" unsafe", THINKS + "<answer>no</answer>", "Sorry", "<answer>yes</answer>"]
    REWARDS[name](texts, label=["safe"] * 4, log_metric=logged.__setitem__)
    assert logged == {"unparsable": share}


def test_every_reward_says_which_prompt_asks_for_what_it_reads():
    assert ASKS.keys() == REWARDS.keys() and set(ASKS.values()) == {"direct", "reasoning"}


# --- The documentation ------------------------------------------------------------------------------------------------
def documented(columns: str) -> list[list[str]]:
    """Cells of the table in docs/training.md whose head is `columns`."""
    text = (Path(__file__).parents[1] / "docs" / "training.md").read_text(encoding="utf-8")
    lines = text[text.index(columns):].splitlines()[2:]
    return [[cell[1:-1] for cell in line.strip("|").split("|")] for line in itertools.takewhile(bool, lines)]


def test_the_documentation_says_what_rollouts_are_worth():
    thought = " ".join(f"word{number}" for number in range(17)) + " and more than fifty characters"
    table = documented("| rollout | `official` | `official_format` | `reasoning` |")
    assert len(table) == 8
    for rollout, *values in table:
        text = rollout[1:-1].replace("…", thought)
        found = [worth(reward, text, "unsafe") for reward in (official, official_format, reasoning)]
        assert found == pytest.approx(list(map(float, values))), rollout
    for rollout, value in documented("| rollout, on an unsafe photo | `direct` |"):
        assert worth(direct, rollout[1:-1], "unsafe") == pytest.approx(float(value))
