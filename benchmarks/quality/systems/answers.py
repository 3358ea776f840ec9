"""Readers of generated answers, one for each protocol. The word alone says nothing: "yes" is SAFE to SafeGuard-VL and a
violation to Shieldstral, so a reader belongs to a system and is never guessed from the text.

A reader takes whole answers and raises VerdictError for one that is no verdict: invalid, never safe.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import dataclass

from safeguard_sdk.errors import VerdictError
from safeguard_sdk.prompt import PROMPTS

LLAMA_GUARD_CODE = re.compile(r"S\d{1,2}")
NEMOTRON_LINE = re.compile(r"^(User Safety|Response Safety|Safety Categories):[ \t]*(.*?)[ \t]*$", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class Reading:
    label: str                          # "safe" or "unsafe", as the system means it
    categories: tuple[str, ...] = ()    # of its own taxonomy
    how: str = "strict"                 # which way of reading it took, where there are several


def read_llavaguard(answer: str) -> Reading:
    """Strict JSON, else the first object with balanced braces, else the official last resort: one of the words alone.

    The official reader (ml-research/LlavaGuard 840699c) takes Python literals, cuts at the first closing brace and
    strips "json" out of rationales; what it reads from well-formed answers is what is read here.
    """
    try:
        found = PROMPTS["llavaguard"].parse(answer)
        return Reading(found.label, (found.category,) if found.category else ())
    except VerdictError as error:
        strict = error
    if (fields := _first_object(answer)) is not None and isinstance(fields.get("rating"), str):
        rating, category = fields["rating"].strip().lower(), fields.get("category")
        if rating not in ("safe", "unsafe"):
            raise VerdictError(f"its rating is {fields['rating']!r:.40}, neither Safe nor Unsafe") from strict
        return Reading(rating, (category,) if isinstance(category, str) and not category.startswith("NA") else (),
                       "object")
    safe, unsafe = "Safe" in answer, "Unsafe" in answer or "unsafe" in answer
    if safe == unsafe:
        raise strict
    return Reading("unsafe" if unsafe else "safe", (), "words")


def read_llama_guard(answer: str) -> Reading:
    """`safe`, or `unsafe` and on the second line codes joined by commas."""
    lines = answer.strip().split("\n")
    if lines == ["safe"]:
        return Reading("safe")
    codes = [code.strip() for code in lines[1].split(",")] if len(lines) == 2 else []
    if lines[0].strip() != "unsafe" or not codes or not all(map(LLAMA_GUARD_CODE.fullmatch, codes)):
        raise VerdictError(f"{answer!r:.80} is neither 'safe' nor 'unsafe' with a line of codes such as S1,S9")
    return Reading("unsafe", tuple(codes))


def read_nemotron(answer: str) -> Reading:
    """The line `User Safety: …`, after a thought if there is one; the categories where they were asked for."""
    lines = NEMOTRON_LINE.findall(answer.rpartition("</think>")[2])
    fields = dict(lines)
    label = fields.get("User Safety")
    if len(fields) < len(lines) or label not in ("safe", "unsafe"):
        raise VerdictError(f"{answer!r:.80} has not one line 'User Safety: safe' or 'User Safety: unsafe'")
    categories = fields.get("Safety Categories", "")
    return Reading(label, tuple(name.strip() for name in categories.split(",") if name.strip()))


def _style(name: str) -> Callable[[str], Reading]:
    return lambda answer: Reading(PROMPTS[name].parse(answer).label)


READERS: dict[str, Callable[[str], Reading]] = {
    "word": _style("direct"),                # safe, unsafe, any case, a period or none
    "safeguard-vl": _style("safeguard-vl"),  # the same, or <answer>yes</answer>, which means SAFE
    "yes-violates": _style("yes-no"),        # yes means that the photo breaks the policy
    "llavaguard": read_llavaguard, "llama-guard": read_llama_guard, "nemotron": read_nemotron,
}


def _first_object(text: str) -> dict | None:
    """The first JSON object in a text, wherever it ends."""
    decoder = json.JSONDecoder()
    for brace in re.finditer(r"\{", text):
        try:
            found, _ = decoder.raw_decode(text, brace.start())
        except ValueError:
            continue
        return found
    return None
