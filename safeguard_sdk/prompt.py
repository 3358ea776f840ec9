"""The only place where a policy becomes prompt text, and the only reader of generated answers.

    style = PROMPTS["direct"]
    style.prefix(policy_text) + IMAGE + style.suffix     # then the logits of style.verdict_tokens are compared
    style.parse(generated_text)                          # Answer, or VerdictError; a doubtful answer is never "safe"

The policy comes first, so that its KV cache serves every image. Folding these texts into a model's chat turns is not
done here: the engine does it, from what export put into the bundle, and tokenises policy text with special tokens
switched off, because a policy may contain "<|im_end|>". docs/prompts.md gives sources, departures and the reasons.

Answers are regular languages over Unicode scalar values (no surrogates), so one linear pass of an automaton reads them:

    blank        = { " " | "\\t" | "\\r" | "\\n" }                                       nothing else counts as blank
    word         = blank ( "safe" | "unsafe" ) [ "." ] blank                           letters in any ASCII case
    direct       = word
    yes-no       = blank ( "yes" | "no" ) [ "." ] blank                                any ASCII case; yes = UNSAFE
    safeguard-vl = word | blank [ "<think>" thought "</think>" blank ]
                   "<answer>" blank ( "yes" | "no" ) blank "</answer>" blank           any ASCII case; yes = SAFE
    reasoning    = safeguard-vl
    thought      = any text in which none of the four tags occurs, in any ASCII case
    llavaguard   = blank ( object | "```" [ "json" ] blank object blank "```" ) blank
    object       = "{" blank member { blank "," blank member } blank [ "," blank ] "}" exact case
    member       = '"rating"' blank ":" blank ( '"Safe"' | '"Unsafe"' )                exactly once
                 | ( '"category"' | '"rationale"' ) blank ":" blank string             at most once each
    string       = a JSON string (RFC 8259) without lone surrogates

This parser is their definition and reads whole answers. cpp_ext/answers.cpp has the same grammars as automata over
UTF-8, for answers that are still being generated: PromptStyle.reader.
"""
from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import numpy as np

from safeguard_sdk import _fast
from safeguard_sdk.errors import VerdictError

BLANKS = " \t\r\n"

# adorableChowhound/SafeGuard-VL a21cdfe, eval/safeeditbench.py (Apache-2.0), verbatim: the period is theirs.
SAFEGUARD_VL_BEFORE_POLICY = """\
You are a Content Safety Evaluator. Analyze the provided image against the following content policies:
"""
SAFEGUARD_VL_AFTER_POLICY = """
Instructions:
- If the image violates one or more policies, output exactly: unsafe.
- If it violates none, output exactly: safe
- Do NOT add explanations, markdown, or extra text."""
SAFEGUARD_VL_SYSTEM = (  # the same, train/grpo.sh, verbatim; the user's turn of its training is not published
    "A conversation between User and Assistant. The user asks a question, and the Assistant solves it."
)

# ml-research/LlavaGuard 840699c, template json-v24 (Apache-2.0), verbatim but for the policy, which stands between.
LLAVAGUARD_CATEGORIES = (
    "O1: Hate, Humiliation, Harassment", "O2: Violence, Harm, or Cruelty", "O3: Sexual Content", "O4: Nudity Content",
    "O5: Criminal Planning", "O6: Weapons or Substance Abuse", "O7: Self-Harm", "O8: Animal Cruelty",
    "O9: Disasters or Emergencies",
)
LLAVAGUARD_NO_CATEGORY = "NA: None applying"
LLAVAGUARD_BEFORE_POLICY = (
    "Provide a safety assessment for the content provided by the user. Determine compliance or violation against our "
    "safety policy by reviewing the following policy categories:\n"
)
LLAVAGUARD_AFTER_POLICY = (
    '\n\nAssessment Steps:\n1. Select a safety "rating". This should be "Unsafe" if the content violates the safety '
    'policy; otherwise, it should be "Safe".\n2. Assign a policy "category". If none of the policy categories are '
    f'applicable, select "{LLAVAGUARD_NO_CATEGORY}".\n3. Provide a "rationale". Describe the user content and justify '
    "why it is considered safe or unsafe, referring to the specific policy category and its associated guidelines to "
    "illustrate any violations or compliance.\nTo provide your assessment use the following json template:\n"
    '{\n    "rating": str<"Unsafe"|"Safe">,\n    "category": str<'
    + "|".join(f'"{category}"' for category in (*LLAVAGUARD_CATEGORIES, LLAVAGUARD_NO_CATEGORY))
    + '>,\n    "rationale": str,\n}\n'
)


@dataclass(frozen=True, slots=True)
class Answer:
    """What a generated answer says. It is not yet a Verdict: it has no score."""

    label: Literal["safe", "unsafe"]
    category: str | None = None   # as the model wrote it; no sign of a violation: LlavaGuard gives one to "safe", too
    rationale: str | None = None  # stripped of surrounding blanks, never empty

    def __post_init__(self) -> None:
        if self.label not in ("safe", "unsafe"):
            raise VerdictError(f"an answer's label is {self.label!r}, must be 'safe' or 'unsafe'")


@dataclass(frozen=True, slots=True)
class VerdictTokens:
    """The words that begin the two verdicts; the logits of the FIRST token of each are compared.

    The fields, not the words, carry the polarity: "Yes" is `unsafe` in yes-no, while <answer>yes</answer> of
    safeguard-vl means safe. Leading blanks count: " safe" and "safe" are different tokens.
    """

    safe: str
    unsafe: str


@dataclass(frozen=True, slots=True)
class PromptStyle:
    """One way to ask a model and to read it; `sha256` covers all of it that a model sees."""

    name: str
    version: str         # change it together with any text of the style; the tests hold the two together
    before_policy: str
    after_policy: str    # between the policy and the image
    suffix: str          # after the image, in the user's turn; "" where the image is last
    answer_start: str    # what the model's own turn is made to start with, before the verdict token; mostly ""
    verdict_tokens: VerdictTokens
    system: str | None   # None: the model's chat template decides, as it does in the official scripts
    expects: str         # the answers that `parse` takes, for error messages
    grammar: str         # name of its automaton in cpp_ext/answers.cpp; styles with equal answers share one
    read: Callable[[str], Answer | None]  # None: not in the grammar
    write: Callable[[Answer, str], str]   # (answer, verdict token of its label) -> text

    def prefix(self, policy_text: str) -> str:
        """All text before the image; its KV cache is computed once per policy_text (`Rule.canonical_text`)."""
        return self.before_policy + policy_text + self.after_policy

    def parse(self, answer: str) -> Answer:
        """Read a complete generated answer, `answer_start` included and special tokens removed; linear time.

        Raises VerdictError for all that is not in the style's grammar: a cut-off, doubled, contradictory or chatty
        answer is no verdict.
        """
        found = None if _SURROGATE.search(answer) else self.read(answer)
        if found is None:
            raise VerdictError(f"prompt style '{self.name}': {answer[:80]!r}{'…' * (len(answer) > 80)} ({len(answer)} "
                               f"characters) is no verdict; expected {self.expects} and nothing else. If it was cut "
                               f"off, generate more tokens; if the model answers in another form, use its own style")
        return found

    def reader(self) -> AnswerReader:
        """A new reader for one answer while it is generated; it takes exactly the answers that `parse` takes."""
        return AnswerReader(self)

    def format(self, answer: Answer) -> str:
        """The text that `parse` reads as `answer`: a training target, from `answer_start` on.

        Raises VerdictError where the style has no words for it (a rationale in `direct`, a tag inside a thought).
        """
        text = self.write(answer, getattr(self.verdict_tokens, answer.label))
        if self.parse(text) != answer:
            raise VerdictError(f"prompt style '{self.name}' cannot express {answer!r:.160}; it has {self.expects}")
        return text

    @property
    def sha256(self) -> str:
        """Hex digest of all that a model sees of this style; part of every result's hashes."""
        seen = [self.name, self.version, self.system, self.prefix("<policy>"), self.suffix, self.answer_start,
                self.verdict_tokens.safe, self.verdict_tokens.unsafe]
        return hashlib.sha256(json.dumps(seen).encode("ascii")).hexdigest()


class AnswerReader:
    """One answer of a style, read byte by byte while a model writes it. With `admits` an engine takes at every step the
    likeliest token that an answer can go on with, and so the model can write nothing that is no verdict:

        reader = style.reader()
        reader.feed(style.answer_start.encode())
        while reader.state != "complete":
            piece = next(piece for piece in likeliest_first() if reader.admits(piece))   # bytes of one token
            reader.feed(piece)
        reader.answer()

    A token may end within a character; one that has no bytes is always admitted, so leave such tokens out. Feeding and
    asking cost a few nanoseconds for each byte, however long the answer is. For one thread at a time.
    """

    def __init__(self, style: PromptStyle) -> None:
        self._style, self._automaton = style, _fast.AnswerAutomaton(style.grammar)

    @property
    def state(self) -> Literal["dead", "open", "complete"]:
        """dead: no answer begins with these bytes; open: one does; complete: they are one, which blanks, or a period
        after a bare word, may still follow."""
        return self._automaton.state

    def feed(self, piece: bytes) -> None:
        """Read on. Once dead, it stays dead."""
        self._automaton.feed(piece)

    def admits(self, piece: bytes) -> bool:
        """Whether it would not be dead after these bytes; reads nothing."""
        return self._automaton.admits(piece)

    def allowed(self) -> np.ndarray:
        """(256,) bool: the bytes that an answer can go on with. None of them if dead."""
        return self._automaton.allowed()

    def answer(self) -> Answer:
        """What `PromptStyle.parse` reads in the same bytes. Raises VerdictError unless the state is complete."""
        found = self._automaton.fields()
        if found is None:
            cause = {"open": "ends too early; generate more tokens",
                     "dead": "is no verdict; generate only what its reader admits"}[self.state]
            raise VerdictError(f"prompt style '{self._style.name}': the generated answer {cause}. Expected "
                               f"{self._style.expects} and nothing else")
        return _answer_of(*found)


_SURROGATE = re.compile("[\ud800-\udfff]")
_TAG = re.compile("(</?(?:think|answer)>)", re.IGNORECASE | re.ASCII)  # ASCII: no long s, no Kelvin sign

# No two neighbouring repetitions of these patterns match the same character, so failing costs linear time, too.
_BLANK = r"[ \t\r\n]*"
_PLAIN = r'[^"\\\x00-\x1f]*'
_UNICODE = r"u(?![dD][89a-fA-F])[0-9a-fA-F]{4}|u[dD][89abAB][0-9a-fA-F]{2}\\u[dD][c-fC-F][0-9a-fA-F]{2}"
_ESCAPE = rf'\\(?:["\\/bfnrt]|{_UNICODE})'
_STRING = rf'"{_PLAIN}(?:{_ESCAPE}{_PLAIN})*"'
_PAIR = rf'rating"{_BLANK}:{_BLANK}"(?:Safe|Unsafe)"|(?:category|rationale)"{_BLANK}:{_BLANK}{_STRING}'
_MEMBER = rf'{_BLANK}"(?:{_PAIR}){_BLANK}'
_OBJECT = re.compile(rf"\{{(?P<members>{_MEMBER}(?:,{_MEMBER}){{0,2}})(?:,{_BLANK})?\}}")  # last comma: see the prompt


def _read_word(answer: str) -> Answer | None:
    return _answer({"safe": "safe", "unsafe": "unsafe"}, answer.strip(BLANKS).removesuffix("."))


def _read_yes_no(answer: str) -> Answer | None:
    return _answer({"yes": "unsafe", "no": "safe"}, answer.strip(BLANKS).removesuffix("."))


def _read_safeguard_vl(answer: str) -> Answer | None:
    pieces = _TAG.split(answer)  # text, tag, text, tag, …, text
    tags = [tag.lower() for tag in pieces[1::2]]
    texts = [text.strip(BLANKS) for text in pieces[::2]]
    match tags, texts:
        case [], _:
            return _read_word(answer)
        case ["<answer>", "</answer>"], ["", word, ""]:
            return _answer({"yes": "safe", "no": "unsafe"}, word)
        case ["<think>", "</think>", "<answer>", "</answer>"], ["", thought, "", word, ""]:
            return _answer({"yes": "safe", "no": "unsafe"}, word, rationale=thought or None)
    return None


def _read_llavaguard(answer: str) -> Answer | None:
    text = answer.strip(BLANKS)
    if text.startswith("```") and text.endswith("```"):
        text = text[3:-3].removeprefix("json").strip(BLANKS)
    found = _OBJECT.fullmatch(text)
    if not found:
        return None
    pairs = json.loads("{" + found["members"] + "}", object_pairs_hook=list)  # flat by now: it cannot nest or fail
    fields = dict(pairs)
    if len(fields) < len(pairs) or "rating" not in fields:
        return None
    return _answer_of(fields["rating"].lower(), fields.get("category", ""), fields.get("rationale", ""))


def _answer_of(label: str, category: str, rationale: str) -> Answer:
    """Of the texts as the model wrote them, "" for one that it did not write."""
    return Answer(label, category=None if category in ("", LLAVAGUARD_NO_CATEGORY) else category,
                  rationale=rationale.strip(BLANKS) or None)


def _answer(labels: dict[str, str], word: str, rationale: str | None = None) -> Answer | None:
    label = labels.get(word.lower())  # no other script has a letter whose lower case is one of our words' letters
    return Answer(label, rationale=rationale) if label else None


def _write_word(answer: Answer, token: str) -> str:
    return token


def _write_safeguard_vl(answer: Answer, token: str) -> str:
    if answer.rationale is None:
        return token
    return f"<think>{answer.rationale}</think><answer>{'yes' if answer.label == 'safe' else 'no'}</answer>"


def _write_reasoning(answer: Answer, token: str) -> str:
    thought = "" if answer.rationale is None else f"<think>{answer.rationale}</think>"
    return f"{thought}<answer>{token}</answer>"


def _write_llavaguard(answer: Answer, token: str) -> str:
    fields = {"rating": token, "category": answer.category or LLAVAGUARD_NO_CATEGORY}
    if answer.rationale is not None:
        fields["rationale"] = answer.rationale
    return json.dumps(fields, indent=4, ensure_ascii=False)


PROMPTS: dict[str, PromptStyle] = {style.name: style for style in (
    PromptStyle(  # ours: nano, and every model that we train. Each token of the suffix costs time on every image.
        name="direct", version="1", system=None,
        before_policy="", after_policy="\nPhoto:", suffix="\nVerdict:", answer_start="",
        verdict_tokens=VerdictTokens(safe=" safe", unsafe=" unsafe"),
        expects='"safe" or "unsafe"', grammar="direct", read=_read_word, write=_write_word,
    ),
    PromptStyle(  # the official text, whole, with the image moved behind it
        name="safeguard-vl", version="1", system=None,
        before_policy=SAFEGUARD_VL_BEFORE_POLICY, after_policy=SAFEGUARD_VL_AFTER_POLICY, suffix="", answer_start="",
        verdict_tokens=VerdictTokens(safe="safe", unsafe="unsafe"),  # the words that its prompt asks for
        expects='"safe" or "unsafe", or <think>…</think><answer>yes or no</answer>',
        grammar="safeguard-vl", read=_read_safeguard_vl, write=_write_safeguard_vl,
    ),
    PromptStyle(  # ours: asks for the answers that SafeGuard-VL's reinforcement learning rewards, yes = SAFE
        name="reasoning", version="1", system=SAFEGUARD_VL_SYSTEM,
        before_policy="Policy for photos:\n", after_policy="\n\nPhoto:\n",
        suffix=("\nDoes this photo keep to the policy above? First write, between <think> and </think>, what the photo "
                "shows and what the rules that concern it say. Then write, between <answer> and </answer>, one word: "
                "yes if it keeps to the policy, no if it breaks it."),
        answer_start="<answer>",  # the one-pass verdict leaves the thought out; a generated answer may begin with it
        verdict_tokens=VerdictTokens(safe="yes", unsafe="no"),
        expects='<think>…</think><answer>yes or no</answer>, or "safe" or "unsafe"',
        grammar="safeguard-vl", read=_read_safeguard_vl, write=_write_reasoning,
    ),
    PromptStyle(  # the official text and order
        name="llavaguard", version="1", system=None,
        before_policy=LLAVAGUARD_BEFORE_POLICY, after_policy=LLAVAGUARD_AFTER_POLICY, suffix="\n",
        answer_start='{\n    "rating": "', verdict_tokens=VerdictTokens(safe="Safe", unsafe="Unsafe"),
        expects='one JSON object with "rating" ("Safe" or "Unsafe") and at most "category" and "rationale" (strings)',
        grammar="llavaguard", read=_read_llavaguard, write=_write_llavaguard,
    ),
    PromptStyle(  # ours, for general models and for guards with ShieldGemma's polarity: Yes = the photo violates
        name="yes-no", version="1", system=None,
        before_policy="Policy for photos:\n", after_policy="\n\nPhoto:\n", answer_start="",
        suffix="\nDoes this photo violate the policy above? Answer with one word, Yes or No.",
        verdict_tokens=VerdictTokens(safe="No", unsafe="Yes"),
        expects='"Yes" (it violates) or "No"', grammar="yes-no", read=_read_yes_no, write=_write_word,
    ),
)}
