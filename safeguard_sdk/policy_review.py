"""What is legal in a policy and still looks like a mistake. Findings are for people: none of them stops a guard.

    safeguard policy check shop.yaml
"""
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from safeguard_sdk.policy import Policy, Rule
from safeguard_sdk.policy_file import YAML_POLICY

_NOTHING = {"nothing", "none", "no", "n/a", "-"}
_ARTICLES = {"a", "an", "the"}


@dataclass(frozen=True, slots=True)
class Finding:
    """One warning about one rule."""

    rule: str     # the id
    message: str  # what looks wrong, and how to mend it

    def __str__(self) -> str:
        return f"rule '{self.rule}': {self.message}"


def review_policy(policy: Policy, count_tokens: Callable[[str], int] | None = None,
                  max_tokens: int | None = None) -> list[Finding]:
    """Findings in the order of the rules; an empty list where nothing looks wrong.

    count_tokens  tokens of a text, by the tokenizer of the model that will read it
    max_tokens    how many tokens of one rule that model can read
    raises        ValueError if only one of the two is given
    """
    if (count_tokens is None) != (max_tokens is None):
        raise ValueError("count_tokens and max_tokens belong together: give both or neither")
    allowed_in = _allowed_in(policy)
    said_in: dict[object, str] = {}
    findings = []
    for rule in policy.rules:
        messages = [*_emptiness(rule), *_thresholds(rule), *_contradictions(rule, allowed_in)]
        if (first := said_in.setdefault(_content(rule), rule.id)) != rule.id:
            messages.append(f"says the same as rule '{first}'; delete one of them")
        if count_tokens is not None and (tokens := count_tokens(rule.canonical_text)) > max_tokens:
            messages.append(f"is {tokens} tokens long, the model reads {max_tokens}; shorten it, or make it two rules")
        findings += [Finding(rule.id, message) for message in messages]
    return findings


def _emptiness(rule: Rule) -> Iterator[str]:
    if rule.text:
        if YAML_POLICY.search(rule.text):
            yield "is plain text that looks like a YAML policy; read it as YAML to have its rules"
    elif all(phrase.casefold() in _NOTHING for phrase in rule.forbids):
        yield "forbids nothing, so no image should break it; give it forbids, unless that is meant"


def _thresholds(rule: Rule) -> Iterator[str]:
    if rule.unsafe_at == 0:
        yield "unsafe_at is 0, so every image is unsafe; raise it"
    elif rule.review_at == 0:
        yield "review_at is 0, so no image is safe; raise it"


def _contradictions(rule: Rule, allowed_in: dict[str, list[str]]) -> Iterator[str]:
    for phrase in rule.forbids:
        for key, words in _keys(phrase).items():
            allowing = allowed_in.get(key, [])
            if rule.id in allowing:
                yield f"both forbids and allows '{words}'; delete it from one of the two"
            elif allowing:
                yield (f"forbids '{words}', which rule '{allowing[0]}' allows; every rule is judged alone, so such an "
                       f"image still breaks '{rule.id}': allow it here, or delete it there")


def _allowed_in(policy: Policy) -> dict[str, list[str]]:
    """Key of an allowed phrase → ids of the rules that allow it."""
    allowed_in: dict[str, list[str]] = {}
    for rule in policy.rules:
        for key in {key for phrase in rule.allows for key in _keys(phrase)}:
            allowed_in.setdefault(key, []).append(rule.id)
    return allowed_in


def _content(rule: Rule) -> object:
    """Equal for rules that say the same, whatever their titles and the order of their phrases."""
    return rule.text or tuple(frozenset(key for phrase in side for key in _keys(phrase))
                              for side in (rule.forbids, rule.allows))


def _keys(phrase: str) -> dict[str, str]:
    """Key → words as written, for every part of "knives, a gun": case, articles and plurals make no difference."""
    keys = {}
    for part in re.split("[,;]", phrase):
        words = [_singular(word) for word in re.findall(r"\w+", part.casefold()) if word not in _ARTICLES]
        if words:
            keys[" ".join(words)] = part.strip()
    return keys


def _singular(word: str) -> str:
    """A stem that English plurals share with their singular (knives, knife → knif); rough, for warnings only."""
    if word.endswith("s") and not word.endswith(("ss", "us", "is")):
        word = word[:-1]
    if word.endswith("ie"):
        word = word[:-2] + "y"
    word = word.removesuffix("e")
    return word[:-1] + "f" if word.endswith("v") else word
