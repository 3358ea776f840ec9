"""Files in the forms of other guards → rules. Each reader takes (taxonomy, text, name of the file for messages)."""

from __future__ import annotations

import json
import re

from safeguard_sdk.errors import PolicyError
from safeguard_sdk.importing.taxonomy import Taxonomy, rule_of
from safeguard_sdk.policy import Rule
from safeguard_sdk.policy_file import nearest
from safeguard_sdk.prompt import LLAVAGUARD_AFTER_POLICY, LLAVAGUARD_BEFORE_POLICY

Read = tuple[list[Rule], dict[str, str]]

_LLAVAGUARD_HEADING = re.compile(r"(?P<key>O\d+): (?P<name>.+?): ?")
_LLAVAGUARD_SIDES = {"Should not:": "forbids", "Can:": "allows"}
_LLAVAGUARD_STATE = re.compile(r"Category O\d+ is declared as (?P<state>non-violating|sensitive)\. .*")
_NUMBERED = re.compile(r"(?P<key>S\d+): (?P<name>.+?)\.?[ \t]*")
_BLOCK = re.compile(r"<BEGIN UNSAFE CONTENT CATEGORIES>\n(.*?)\n<END UNSAFE CONTENT CATEGORIES>", re.DOTALL)


def read_llavaguard(taxonomy: Taxonomy, text: str, where: str) -> Read:
    """A policy of template json-v24, or the whole prompt around it. The words are the file's own: each category becomes
    a rule that forbids what it "should not" and allows what it "can". Of a category that the text declares as
    non-violating all is allowed, of a sensitive one all is forbidden."""
    text = text.replace("\r\n", "\n")
    text = text.strip().removesuffix("<image>").rstrip()
    text = text.removesuffix(LLAVAGUARD_AFTER_POLICY.rstrip()).removeprefix(LLAVAGUARD_BEFORE_POLICY)
    rules: list[dict] = []
    side = None
    for number, line in enumerate(text.split("\n"), start=1):
        bullet = line.strip().removeprefix("- ").strip()
        if heading := _LLAVAGUARD_HEADING.fullmatch(line):
            side = None
            rules.append({"id": _rule_id(heading["name"]), "title": heading["name"], "forbids": [], "allows": []})
        elif not rules and line.strip():
            raise PolicyError(f"{where}: {line[:60]!r} stands before the first category, which begins like "
                              "'O1: Hate: '")
        elif line.strip() in _LLAVAGUARD_SIDES:
            side = _LLAVAGUARD_SIDES[line.strip()]
        elif state := _LLAVAGUARD_STATE.fullmatch(line.strip()):
            side = "allows" if state["state"] == "non-violating" else "forbids"
            rules[-1][side].append(f"any content of this category: {rules[-1]['title']}")
        elif line.strip().startswith("- ") and side:
            rules[-1][side].append(_phrase(bullet))
        elif line.strip():
            raise PolicyError(f"{where}, line {number} of the policy: {line[:60]!r} is neither a category ('O1: Hate: "
                              "'), nor 'Should not:' or 'Can:', nor a bullet under one of them")
    return [_rule(where, **rule) for rule in rules], {}


def read_numbered(taxonomy: Taxonomy, text: str, where: str) -> Read:
    """Lines `S1: Violent Crimes.`, with or without the prompt around them, and under a category perhaps a description
    in words, which then is its rule; or a JSON list of names. A category is known by its name, whatever its number."""
    if text.lstrip().startswith("["):
        entries = [(f"S{number}", str(name), "") for number, name in enumerate(_json(text, where), start=1)]
    else:
        entries = _numbered_entries(text.replace("\r\n", "\n"), where)
    by_name = {category.name.casefold(): category for category in taxonomy.categories.values()}
    rules, left_out = [], {}
    for key, name, description in entries:
        category = by_name.get(name.casefold())
        if description:
            rules.append(_rule(where, _rule_id(name), name, text=description))
        elif category is None:
            raise _unknown(f"{key}: {name}", by_name, where, "write what it means on the lines below it")
        else:
            rule, lacks = rule_of(category, category.leaves)
            rules += [rule] if rule else []
            left_out |= lacks
    return rules, left_out


def read_texts(taxonomy: Taxonomy, text: str, where: str) -> Read:
    """A JSON object key → policy in words, as `custom_policies` of ShieldGemma 2's processor; or its configuration,
    which holds one as `policy_definitions`. Each is a rule in the file's own words."""
    document = _json(text, where)
    document = document.get("policy_definitions", document) if isinstance(document, dict) else document
    if not isinstance(document, dict) or not all(isinstance(words, str) for words in document.values()):
        raise PolicyError(f"{where}: is no JSON object of keys and texts, such as {{\"guns\": \"No guns: …\"}}")
    return [_rule(where, _rule_id(key), key, text=words) for key, words in document.items()], {}


def read_keys(taxonomy: Taxonomy, text: str, where: str) -> Read:
    """A response of the moderation API, or a JSON list of its categories: a rule for every category that is named."""
    document = _json(text, where)
    try:
        keys = list(document if isinstance(document, list) else document["results"][0]["categories"])
    except (KeyError, IndexError, TypeError) as error:
        raise PolicyError(f"{where}: is neither a response with results and categories nor a list of categories "
                          f"({error!r})") from error
    for key in keys:
        if not isinstance(key, str) or key not in taxonomy.categories:
            raise _unknown(str(key), taxonomy.categories, where, "write a rule for it yourself")
    return taxonomy.rules_of(keys)


def read_risks(taxonomy: Taxonomy, text: str, where: str) -> Read:
    """risk_mapping.json of AIR-Bench, or a part of it: a rule for each group, of the risks that the file names."""
    rules, left_out = [], {}
    try:
        groups = {key: (group["name"], [risk["name"] for risk in group["items"]])
                  for tier in _json(text, where).values() for key, group in tier["subcategories"].items()}
    except (KeyError, TypeError, AttributeError) as error:
        raise PolicyError(f"{where}: has not the form of risk_mapping.json ({error!r})") from error
    for key, (name, risks) in groups.items():
        category = taxonomy.categories.get(key)
        if category is None or category.name != name:
            raise _unknown(f"{key} {name}", [one.title for one in taxonomy.categories.values()], where,
                           "write a rule for it yourself")
        if unknown := [str(risk) for risk in risks if not isinstance(risk, str) or risk not in category.leaves]:
            raise _unknown(f"{key} {name}, {unknown[0]}", category.leaves, where, "write a rule for it yourself")
        rule, lacks = rule_of(category, risks)
        rules += [rule] if rule else []
        left_out |= lacks
    return rules, left_out


def _numbered_entries(text: str, where: str) -> list[tuple[str, str, str]]:
    """(key, name, description) of each category."""
    block = _BLOCK.search(text)
    entries: list[tuple[str, str, list[str]]] = []
    for line in (block[1] if block else text).split("\n"):
        if found := _NUMBERED.fullmatch(line):
            entries.append((found["key"], found["name"], []))
        elif entries and line.strip():
            entries[-1][2].append(line.strip())
        elif line.strip():
            raise PolicyError(f"{where}: {line[:60]!r} stands before the first category, which begins like "
                              "'S1: Violent Crimes.'")
    return [(key, name, "\n".join(words)) for key, name, words in entries]


def _json(text: str, where: str):
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise PolicyError(f"{where}: is no JSON ({error})") from error


def _rule(where: str, id: str, title: str, **fields: object) -> Rule:
    try:
        return Rule(id, title, **fields)
    except PolicyError as error:
        raise PolicyError(f"{where}: {error}") from error


def _rule_id(name: str) -> str:
    return re.sub("[^a-z0-9]+", "-", name.lower()).strip("-")


def _phrase(bullet: str) -> str:
    return bullet.removeprefix("Contain ").rstrip().removesuffix(".")


def _unknown(name: str, known, where: str, mend: str) -> PolicyError:
    return PolicyError(f"{where}: no category {name!r:.80} is known{nearest(name, list(known))}; {mend}")

