"""Answers read while they are generated: the automata of cpp_ext/answers.cpp take what PromptStyle.parse takes."""

import json
import re
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from test_prompt import BLANKS, NAMES, NO_VERDICTS, SHOTGUN, near_misses

from safeguard_sdk._fast import AnswerAutomaton
from safeguard_sdk.errors import VerdictError
from safeguard_sdk.prompt import PROMPTS, Answer

ANY_SPEED = settings(deadline=None)
TAG = re.compile("</?(think|answer)>", re.IGNORECASE | re.ASCII)


def parsed(name: str, data: bytes) -> Answer | None:
    """What the definition says: the parser in prompt.py, on text."""
    try:
        return PROMPTS[name].parse(data.decode())
    except (UnicodeDecodeError, VerdictError):
        return None


def reader_after(name, *pieces):
    reader = PROMPTS[name].reader()
    for piece in pieces:
        reader.feed(piece)
    return reader


def answered(name, *pieces):
    reader = reader_after(name, *pieces)
    return reader.answer() if reader.state == "complete" else None


# --- Texts: answers, what almost is one, anything ---------------------------------------------------------------------
def any_case(word):
    return st.tuples(*(st.sampled_from([letter, letter.upper()]) for letter in word)).map("".join)


def in_a_row(*parts):
    """Texts of these parts in this order; a part is a text or a strategy."""
    return st.tuples(*(st.just(part) if isinstance(part, str) else part for part in parts)).map("".join)


def words(safe, unsafe):
    return in_a_row(BLANK, any_case(safe) | any_case(unsafe), st.sampled_from(["", "."]), BLANK)


def escaped(character):
    """A character of a JSON string, in one of the spellings that RFC 8259 allows."""
    units = character.encode("utf-16-be").hex()
    code = "".join(rf"\u{units[i:i + 4]}" for i in range(0, len(units), 4))
    short = json.dumps(character, ensure_ascii=False)[1:-1]
    return st.sampled_from([short, code, code.replace("d", "D"), r"\/" if character == "/" else short])


BLANK = st.text(BLANKS, max_size=2)
CHARACTER = st.sampled_from('a"\\/\n\0{}🔫é\u2028\u07ff\u0800\uffff') | st.characters(exclude_categories=["Cs"])
STRING = in_a_row('"', st.lists(CHARACTER.flatmap(escaped), max_size=8).map("".join),
                  BLANK.map(lambda blank: json.dumps(blank)[1:-1]), '"')
THOUGHT_PART = st.sampled_from(["<", "</", ">", "think", "ANSWER", "/answer>", "<thin\u212a>", "yes", " "]) | CHARACTER
THOUGHT = st.lists(THOUGHT_PART, max_size=10).map("".join).filter(lambda text: not TAG.search(text))


@st.composite
def objects(draw):
    keys = draw(st.permutations(["rating", "category", "rationale"]))[:draw(st.integers(1, 3))]
    keys = keys if "rating" in keys else ["rating", *keys[1:]]
    none = st.just('"NA: None applying"')
    value = {"rating": st.sampled_from(['"Safe"', '"Unsafe"']), "category": STRING | none, "rationale": STRING}
    members = [draw(in_a_row(BLANK, f'"{key}"', BLANK, ":", BLANK, value[key], BLANK)) for key in keys]
    return "{" + ",".join(members) + draw(st.just("") | in_a_row(",", BLANK)) + "}"


TAGGED = words("safe", "unsafe") | in_a_row(
    BLANK, st.just("") | in_a_row(any_case("<think>"), THOUGHT, any_case("</think>"), BLANK),
    any_case("<answer>"), BLANK, any_case("yes") | any_case("no"), BLANK, any_case("</answer>"), BLANK)
VALID = {
    "direct": words("safe", "unsafe"),
    "yes-no": words("no", "yes"),
    "safeguard-vl": TAGGED,
    "reasoning": TAGGED,
    "llavaguard": in_a_row(BLANK, objects() | in_a_row("```", st.sampled_from(["", "json"]), BLANK, objects(), BLANK,
                                                       "```"), BLANK),
}
PIECES_TAGGED = [b"<think>", b"</think>", b"<answer>", b"</answer>", b"<", b">", b"no", b"yes", b".", b" ", b"safe",
                 b"\xed\xa0\x80", b"\xc0\xbc", b"\xf0\x9f\x94"]  # a surrogate, an overlong "<", a part
PIECES = {  # what turns one answer into almost another, in UTF-8 and out of it
    "direct": [b"safe", b"un", b".", b" ", b"\xc2\xa0"],
    "yes-no": [b"yes", b"no", b".", b" ", b"\xe2\x80\x8b"],
    "safeguard-vl": PIECES_TAGGED,
    "reasoning": PIECES_TAGGED,
    "llavaguard": [b'"', b"\\", b"\\u", b"\\ud83d", b"\\udd2b", b"{", b"}", b",", b":", b"```", b"json", b'"rating"',
                   b'"category"', b'"rationale"', b'"Safe"', b'"Unsafe"', b'""', b" ", b"\n", b"\xed\xa0\x80", b"\xff"],
}


@st.composite
def texts(draw, name):
    """Bytes: an answer, or one that was cut and mended in up to three places, or something else."""
    data = draw(VALID[name].map(str.encode) | near_misses(name).map(str.encode) | st.binary(max_size=8))
    for _ in range(draw(st.integers(0, 3))):
        start, end = sorted([draw(st.integers(0, len(data))), draw(st.integers(0, len(data)))])
        piece = draw(st.sampled_from([b"", data[start:end], *PIECES[name]]) | st.binary(min_size=1, max_size=2))
        data = data[:start] + piece + data[draw(st.sampled_from([start, end])):]
    return data


# --- The same answers as the parser -----------------------------------------------------------------------------------
@pytest.mark.parametrize("name", NAMES)
@ANY_SPEED
@given(data=st.data())
def test_it_reads_the_answers_that_the_parser_reads(name, data):
    text = data.draw(VALID[name])
    answer = PROMPTS[name].parse(text)  # raises if the strategy leaves the grammar
    assert answered(name, text.encode()) == answer


@pytest.mark.parametrize("name", NAMES)
@settings(ANY_SPEED, max_examples=300)
@given(data=st.data())
def test_any_bytes_are_an_answer_exactly_if_the_parser_takes_them(name, data):
    text = data.draw(texts(name))
    assert answered(name, text) == parsed(name, text)


@pytest.mark.parametrize("name, text", [(name, text) for name, texts in NO_VERDICTS.items() for text in texts])
def test_what_is_no_verdict_to_the_parser_is_none_here(name, text):
    assert answered(name, text.encode()) is None


@pytest.mark.parametrize("sequence", [  # Unicode, table 3-7: on both sides of every boundary
    b"\x7f", b"\xc2\x80", b"\xdf\xbf", b"\xe0\xa0\x80", b"\xec\xbf\xbf", b"\xed\x9f\xbf", b"\xee\x80\x80",
    b"\xef\xbf\xbf", b"\xf0\x90\x80\x80", b"\xf3\xbf\xbf\xbf", b"\xf4\x8f\xbf\xbf",
    b"\x80", b"\xbf", b"\xc1\xbf", b"\xc2", b"\xc2\x7f", b"\xc2\xc0", b"\xe0\x9f\xbf", b"\xe1\x80", b"\xed\xa0\x80",
    b"\xf0\x8f\xbf\xbf", b"\xf1\x80\x80", b"\xf4\x90\x80\x80", b"\xf5\x80\x80\x80", b"\xff"])
@pytest.mark.parametrize("name, before, after", [
    ("safeguard-vl", b"<think>", b"</think><answer>no</answer>"),
    ("safeguard-vl", b"<think>a </answe", b"</think><answer>no</answer>"),
    ("llavaguard", b'{"rating": "Unsafe", "category": "', b'"}')])
def test_only_well_formed_utf_8_is_text(name, before, after, sequence):
    assert answered(name, before, sequence, after) == parsed(name, before + sequence + after)


UNITS = ["0000", "D7ff", "d800", "DBFF", "dC00", "DfFf", "E000", "cD80", "dg00"]  # on both sides of every boundary


@pytest.mark.parametrize("first", UNITS)
@pytest.mark.parametrize("second", ["", *UNITS])
def test_escaped_surrogates_come_in_pairs(first, second):
    text = rf'{{"rating": "Safe", "rationale": "\u{first}' + (rf"\u{second}" if second else "") + '"}'
    assert answered("llavaguard", text.encode()) == parsed("llavaguard", text.encode())


# --- While it is generated --------------------------------------------------------------------------------------------
@pytest.mark.parametrize("name", NAMES)
@ANY_SPEED
@given(data=st.data())
def test_no_beginning_of_an_answer_is_dead_and_its_next_byte_is_allowed(name, data):
    text = data.draw(VALID[name]).encode()
    reader = reader_after(name)
    for byte in text:
        assert reader.state != "dead" and reader.allowed()[byte]
        reader.feed(bytes([byte]))
    assert reader.state == "complete"


def suffixes(*texts):
    return [text[start:].encode() for text in texts for start in range(len(text))]


IN_A_CHARACTER = [b"\x80", b"\x90", b"\xa0"]  # one of them goes on with any character that has begun
ENDINGS_TAGGED = suffixes("<think></think><answer>no</answer>", "yes</answer>", "unsafe") + IN_A_CHARACTER
ENDINGS = {  # in every state, the first of these that is admitted leads towards the end
    "direct": suffixes("unsafe"),
    "yes-no": suffixes("yes", "no"),
    "safeguard-vl": ENDINGS_TAGGED,
    "reasoning": ENDINGS_TAGGED,
    "llavaguard": [b'"', *IN_A_CHARACTER, b":", b"}", b",", b"{", *suffixes(r"\udc00", "0"),
                   *suffixes('rating": "Safe"', '"Unsafe"', 'category": ""', 'rationale": ""', "```{", "json{", "```")],
}


@pytest.mark.parametrize("name", NAMES)
@ANY_SPEED
@given(data=st.data())
def test_what_is_not_dead_can_become_an_answer(name, data):
    """So a byte is allowed only if an answer goes on with it: it is allowed exactly if it does not lead to death."""
    text, reader = b"", reader_after(name)
    for byte in data.draw(texts(name)):
        if reader.admits(bytes([byte])):  # else it is left out: what remains is on no way that a strategy has laid
            text += bytes([byte])
            reader.feed(bytes([byte]))
    for _ in range(60):
        if reader.state == "complete":
            break
        ending = next(piece for piece in ENDINGS[name] if reader.admits(piece))
        text += ending
        reader.feed(ending)
    assert reader.state == "complete"
    assert reader.answer() == PROMPTS[name].parse(text.decode())


@pytest.mark.parametrize("name", NAMES)
@ANY_SPEED
@given(data=st.data())
def test_a_byte_is_allowed_exactly_if_feeding_it_is_not_death(name, data):
    text = data.draw(texts(name))
    cut = data.draw(st.integers(0, len(text)))
    allowed = reader_after(name, text[:cut]).allowed()
    assert allowed.shape == (256,) and allowed.dtype == bool
    assert [reader_after(name, text[:cut], bytes([byte])).state != "dead" for byte in range(256)] == allowed.tolist()


@pytest.mark.parametrize("name", NAMES)
@ANY_SPEED
@given(data=st.data())
def test_pieces_may_be_cut_anywhere(name, data):
    text = data.draw(texts(name))
    cut = data.draw(st.integers(0, len(text)))
    begun, whole = reader_after(name, text[:cut]), reader_after(name, text)
    assert begun.admits(text[cut:]) == (whole.state != "dead")
    begun.feed(text[cut:])
    assert (begun.state, answered(name, text[:cut], text[cut:])) == (whole.state, answered(name, text))


@pytest.mark.parametrize("name, text, state", [
    ("direct", "", "open"), ("direct", " un", "open"), ("direct", "unsafe", "complete"),
    ("direct", "safe. ", "complete"), ("direct", "safe..", "dead"), ("direct", "unsafer", "dead"),
    ("yes-no", "ye", "open"), ("yes-no", "yep", "dead"),
    ("safeguard-vl", "<think>safe", "open"), ("safeguard-vl", "<think><answer", "open"),
    ("safeguard-vl", "<think><answer>", "dead"), ("safeguard-vl", "<answer>yes</answer>", "complete"),
    ("llavaguard", '{"rating": "S', "open"), ("llavaguard", '{"rating": "s', "dead"),
    ("llavaguard", '{"category": "O1"}', "dead"),  # a rating must come
    ("llavaguard", '{"rating": "Safe", "rat', "open"), ("llavaguard", '{"rating": "Safe", "rati', "open"),
    ("llavaguard", '{"rating": "Safe", "ratin', "dead"),  # it has come
    ("llavaguard", '{"rating": "Safe", "rationale": "', "open"), ("llavaguard", SHOTGUN, "complete"),
    ("llavaguard", "```" + SHOTGUN, "open"), ("llavaguard", "```json" + SHOTGUN + "```", "complete"),
])
def test_states(name, text, state):
    assert reader_after(name, text.encode()).state == state


def test_allowed_bytes_are_what_a_constrained_decoder_chooses_from():
    def choices(name, text):
        return bytes(byte for byte in range(256) if reader_after(name, text).allowed()[byte])

    assert choices("direct", b"") == b"\t\n\r SUsu"
    assert choices("safeguard-vl", b"<think>hm</think>") == b"\t\n\r <"
    assert choices("llavaguard", b'{"rating": "') == b"SU"  # answer_start ends so
    assert choices("llavaguard", b'{"rating": "Safe", "ra') == b"t"
    assert choices("llavaguard", rb'{"category": "\ud83d') == b"\\"
    assert choices("llavaguard", b'{"category": "\xed') == bytes(range(0x80, 0xa0))  # no surrogates
    assert choices("direct", b"no") == b""


def test_a_model_that_is_held_to_what_is_admitted_cannot_write_anything_else():
    style = PROMPTS["llavaguard"]
    reader, text = style.reader(), style.answer_start.encode()
    reader.feed(text)
    likeliest_first = [b"Sorry", b"\xff", b"Unsafe", b"rationale", b"category", b'": "', b'",', b'"', b"}", b" "]
    while reader.state != "complete":
        piece = next(piece for piece in likeliest_first if reader.admits(piece))
        reader.feed(piece)
        text += piece
        likeliest_first.append(likeliest_first.pop(0))  # so that it does not say the same again and again
    assert style.parse(text.decode()) == reader.answer() and reader.answer().label == "unsafe"


# --- Errors, and what it costs ----------------------------------------------------------------------------------------
@pytest.mark.parametrize("text, message", [("<think>A gun", "ends too early"), ("Sorry", "is no verdict")])
def test_there_is_no_answer_unless_it_is_complete(text, message):
    with pytest.raises(VerdictError, match=f"'safeguard-vl': the generated answer {message}"):
        reader_after("safeguard-vl", text.encode()).answer()


@pytest.mark.parametrize("name", NAMES)
def test_what_is_dead_stays_dead(name):
    reader = reader_after(name, b"\xff", PROMPTS[name].format(Answer("safe")).encode())
    assert reader.state == "dead" and not reader.admits(b"safe") and not reader.allowed().any()


def test_every_style_has_a_grammar_and_nothing_else_has():
    assert {AnswerAutomaton(style.grammar).state for style in PROMPTS.values()} == {"open"}
    with pytest.raises(ValueError, match="'shieldgemma'"):
        AnswerAutomaton("shieldgemma")


def test_text_is_fed_as_bytes():
    with pytest.raises(TypeError):
        PROMPTS["direct"].reader().feed("safe")


@pytest.mark.parametrize("name, before, unit, after", [
    ("safeguard-vl", "<think>", "</think", "</think><answer>no</answer>"),
    ("safeguard-vl", "<think>", "🔫", "</think><answer>no</answer>"),
    ("llavaguard", '{"rating": "Unsafe", "rationale": "', r"\ud83d\udd2b\"", '"}'),
    ("direct", "unsafe", " ", ""),
])
def test_a_long_answer_is_read_in_linear_time(name, before, unit, after):
    text = before + unit * 200_000 + after
    began = time.perf_counter()
    assert answered(name, text.encode()) == PROMPTS[name].parse(text)
    assert time.perf_counter() - began < 2  # some 0.05 s; quadratic time would be minutes
