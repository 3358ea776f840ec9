"""Policy files: bytes → text → plain values that know their line. What the values mean is policy.py's matter.

YAML is composed into nodes and never constructed, so every message can name its line, a key given twice is seen,
`version: 1.10` keeps its zero, and `no` is not turned into False behind the author's back.
"""
import difflib
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import yaml

from safeguard_sdk.errors import PolicyError

MAX_BYTES = 1 << 20  # 1 MiB; a policy is a page or two, whatever is larger is another file
MAX_DEPTH = 8        # a policy nests four deep; the composer recurses, so depth must end somewhere
POLICY_KEYS = ("name", "version", "rules")
RULE_KEYS = ("id", "title", "forbids", "allows", "text", "review_at", "unsafe_at")

# What a reader of the policy does not see and the model does, or what makes text read otherwise than it looks: control
# characters, surrogates, byte order marks, soft hyphens, blanks without width, fillers, marks of direction, tags. Tab
# and the line ends (LF, CR, NEL) are text. Joiners and variation selectors, parts of letters in Persian and Hindi and
# of emoji, have no business in a Latin word; nor is the escape \t one.
BAD_CHARACTER = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x84\x86-\x9f\xad\u034f\u115f\u1160\u17b4\u17b5\u180e\u200b"
                           "\u200e\u200f\u202a-\u202e\u2060-\u206f\u3164\ufeff\uffa0\ufff9-\ufffb\ufffe\uffff\ud800-\udfff"
                           "\U000e0000-\U000e007f]"
                           "|(?<=[A-Za-z])(?<!\\\\[A-Za-z])[\u200c\u200d\ufe00-\ufe0f\U000e0100-\U000e01ef]")

# In what is said to be plain text: the key `rules`, and below it `id`, either in quotes or not.
YAML_POLICY = re.compile(r"^['\"]?rules['\"]?\s*:.*(?:^\s*(?:-\s+)?|[{,]\s*)['\"]?id['\"]?\s*:",
                         re.MULTILINE | re.DOTALL)

_TAG = "tag:yaml.org,2002:"
_READ_AS = {_TAG + "bool": "true/false", _TAG + "int": "a number", _TAG + "float": "a number",
            _TAG + "timestamp": "a date"}
_VERSION_TAGS = (_TAG + "int", _TAG + "float", _TAG + "timestamp")  # 2, 1.10 and 2025-06-01 need no quotes
_MENDS = (  # part of PyYAML's description, how to mend it; the first that fits
    (r"'\t'", "indent with spaces, never with tabs"),
    ("single document", "keep one policy per file: remove the second '---' and what follows"),
    ("mapping values are not allowed", "put a text that contains ': ' in quotes, or correct the indentation"),
    ("escape", "write a backslash as \\\\, or use single quotes"),
    ("quoted scalar", "close the quotes"),
    ("an alias", "put a text that starts with '*' in quotes"),
    ("an anchor", "put a text that starts with '&' in quotes"),
    ("cannot start any token", "put a text that starts with this character in quotes"),
    ("expected <block end>", "start all lines of one list or mapping in the same column"),
    ("could not find expected ':'", "write `key: value`, with a blank after the colon"),
    ("expected ',' or", "close the bracket, or put the texts in it in quotes"),
)


@dataclass(frozen=True, slots=True)
class Entry:
    """One mapping of a policy file."""

    values: dict[str, object]  # by key: str, float or list of str
    lines: dict[tuple, int]    # by place: () the mapping, (key,) a value, (key, 0) its first item

    def line(self, place: tuple) -> int:
        """Line of the nearest thing known about `place`: the item, else its key, else the mapping."""
        return self.lines.get(place) or self.lines.get(place[:1]) or self.lines[()]


def read_text(path: Path, where: str) -> str:
    """Text of a policy file, without byte order mark. Raises PolicyError, or OSError where the file cannot be read."""
    with path.open("rb") as file:
        data = file.read(MAX_BYTES + 1)
    if len(data) > MAX_BYTES:
        raise PolicyError(f"{where}: larger than {MAX_BYTES} bytes; a policy is a few rules in words, "
                          "is this the right file?")
    if data.startswith((b"\xff\xfe", b"\xfe\xff")):
        raise PolicyError(f"{where}: encoded as UTF-16; save it as UTF-8")
    if b"\0" in data:
        raise PolicyError(f"{where}: a binary file; a policy is a .yaml or plain text file in UTF-8")
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise PolicyError(f"{where}, line {line}: byte 0x{data[error.start]:02x} is not UTF-8; "
                          "save the file as UTF-8") from error


def check_characters(text: str, where: str) -> None:
    """Raises PolicyError with the line of the first character that no policy may hold."""
    if bad := BAD_CHARACTER.search(text):
        line = text.count("\n", 0, bad.start()) + 1
        raise PolicyError(f"{where}, line {line}: invisible character U+{ord(bad[0]):04X}; delete it")


def read_yaml(source: str, where: str) -> tuple[Entry, list[Entry]]:
    """The policy's own values, and one Entry a rule. Raises PolicyError: where, line, what is wrong, how to mend it."""
    check_characters(source, where)
    root = _compose(source, where)
    if root is None:
        raise PolicyError(f"{where}: no policy in it; write `rules:` and under it `- id: …` with `forbids: …`")
    if isinstance(root, yaml.SequenceNode):
        raise _error(root, "the file is a list; write `rules:` above it")
    if isinstance(root, yaml.ScalarNode):
        raise _error(root, "the file holds only text; write `rules:` and under it `- id: …` with `text: …`, "
                           "or name the file .txt to have it read as free words")
    top = _pairs(root, POLICY_KEYS, "the policy")
    if "rules" not in top:
        raise _error(root, "the policy has no rules; write `rules:` and under it `- id: …` with `forbids: …`")
    rules = top.pop("rules")
    if not isinstance(rules, yaml.SequenceNode) or not rules.value:
        raise _error(rules, f"rules is {_kind(rules)}, must be a list; start every rule with `- id: …`")
    values = {key: _text(node, key, _VERSION_TAGS if key == "version" else ()) for key, node in top.items()}
    lines = {(key,): _line(node) for key, node in top.items()} | {(): _line(root)}
    lines |= {("rules", index): _line(node) for index, node in enumerate(rules.value)}
    return Entry(values, lines), [_rule(node, number) for number, node in enumerate(rules.value, start=1)]


def dump_yaml(document: dict) -> str:
    """YAML in block style: keys in the given order, texts of several lines as they stand, no anchors."""
    return yaml.dump(document, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=110)


def nearest(word: str, known: Iterable[str]) -> str:
    """"; did you mean 'forbids'?" for the known word most like `word`, "" where none is."""
    by_lower = {name.lower(): name for name in known}
    found = difflib.get_close_matches(word.lower(), by_lower, n=1, cutoff=0.6)
    return f"; did you mean '{by_lower[found[0]]}'?" if found else ""


class _Loader(yaml.SafeLoader):
    """Composes a shallow tree of nodes without anchors: nothing in it can be larger than the file."""

    depth = 0

    def compose_node(self, parent: yaml.Node | None, index: object) -> yaml.Node:
        event = self.peek_event()
        if event.anchor:
            raise yaml.MarkedYAMLError(problem="anchors (&) and aliases (*) are not part of a policy; write the text "
                                               "out, in quotes if it starts with & or *", problem_mark=event.start_mark)
        if self.depth == MAX_DEPTH:
            raise yaml.MarkedYAMLError(problem=f"nested more than {MAX_DEPTH} deep; a policy is a list of rules, "
                                               "a rule has lists of phrases", problem_mark=event.start_mark)
        if event.tag not in (None, "!"):
            raise yaml.MarkedYAMLError(problem=f"the YAML tag {event.tag!r:.60} is not part of a policy; delete it, or "
                                               "put a text that starts with ! in quotes", problem_mark=event.start_mark)
        self.depth += 1
        node = super().compose_node(parent, index)
        self.depth -= 1
        return node


class _Dumper(yaml.SafeDumper):
    def ignore_aliases(self, data: object) -> bool:
        return True

    def increase_indent(self, flow: bool = False, indentless: bool = False) -> None:
        super().increase_indent(flow, indentless=False)  # lists stand indented under their key


def _represent_text(dumper: _Dumper, text: str) -> yaml.Node:
    style = "|" if "\n" in text else "'" if text.startswith("-") else None
    return dumper.represent_scalar(_TAG + "str", text, style=style)


_Dumper.add_representer(str, _represent_text)


def _compose(source: str, where: str) -> yaml.Node | None:
    loader = _Loader(source)
    loader.name = where  # from here into the mark of every node
    try:
        return loader.get_single_node()
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        told = f"{error.context or ''} {error.problem}"
        mend = next((mend for part, mend in _MENDS if part in told), "check quotes, brackets and indentation before it")
        what = error.problem if "; " in error.problem else f"not valid YAML, {error.problem}; {mend}"
        raise PolicyError(f"{where}, line {mark.line + 1}, column {mark.column + 1}: {what}") from error
    except (ValueError, OverflowError) as error:  # from chr() on "\UFFFFFFFF"
        raise PolicyError(f"{where}, line {loader.line + 1}: not valid YAML, an escape is no character; "
                          r"write a backslash as \\, or use single quotes") from error
    finally:
        loader.dispose()


def _rule(node: yaml.Node, number: int) -> Entry:
    if not isinstance(node, yaml.MappingNode):
        raise _error(node, f"rule {number} is {_kind(node)}, must be a mapping; write `- id: …` and under it "
                           "`forbids: …` or `text: …`")
    named = [value.value for key, value in node.value if key.value == "id" and isinstance(value, yaml.ScalarNode)]
    what = f"rule '{named[0]:.60}'" if named else f"rule {number}"
    pairs = _pairs(node, RULE_KEYS, what)
    if "id" not in pairs:
        raise _error(node, f"{what} has no id; add a short one, such as `id: weapons`")
    values: dict[str, object] = {}
    lines: dict[tuple, int] = {(): _line(node)}
    for key, value in pairs.items():
        lines[key,] = _line(value)
        if key in ("forbids", "allows"):
            items = value.value if isinstance(value, yaml.SequenceNode) else [value]
            values[key] = [_text(item, f"{what}: {key}") for item in items]
            lines |= {(key, index): _line(item) for index, item in enumerate(items)}
        elif key in ("review_at", "unsafe_at"):
            values[key] = _number(value, f"{what}: {key}")
        else:
            values[key] = _text(value, f"{what}: {key}")
    return Entry(values, lines)


def _pairs(mapping: yaml.MappingNode, known: tuple[str, ...], what: str) -> dict[str, yaml.Node]:
    """Key → value node. Unknown keys and keys given twice are errors."""
    pairs: dict[str, tuple[yaml.Node, yaml.Node]] = {}
    for key, value in mapping.value:
        name = key.value
        if not isinstance(name, str):
            raise _error(key, f"a key of {what} is {_kind(key)}, must be one of {', '.join(known)}")
        if name in pairs:
            raise _error(key, f"{what} has '{name}' twice, first in line {_line(pairs[name][0])}; keep one")
        if name not in known:
            hint = "; it belongs to a rule, under its `- id: …`" if name in RULE_KEYS else nearest(name, known)
            raise _error(key, f"{what} has the unknown key {name!r:.60}{hint} (known: {', '.join(known)})")
        pairs[name] = key, value
    return {name: value for name, (_, value) in pairs.items()}


def _text(node: yaml.Node, what: str, as_written: tuple[str, ...] = ()) -> str:
    """Text of a node as it stands in the file; so are values with the tags `as_written`, which YAML reads otherwise."""
    if isinstance(node, yaml.SequenceNode):
        raise _error(node, f"{what} is a list, must be one text")
    if isinstance(node, yaml.MappingNode):
        raise _error(node, f"{what} is a mapping, must be text; put a text that contains ': ' in quotes")
    if node.tag == _TAG + "null" or not node.value.strip():
        raise _error(node, f"{what} is empty; write a text (in quotes if it starts with #), or delete the entry")
    if node.tag in _READ_AS and node.tag not in as_written:
        raise _error(node, f"{what}: YAML reads {node.value:.60} as {_READ_AS[node.tag]}; put it in quotes: "
                           f"\"{node.value:.60}\"")
    if node.style is None and node.value.startswith("-"):
        raise _error(node, f"{what} starts with a dash; write a list with a blank after every dash, or use quotes")
    return node.value


def _number(node: yaml.Node, what: str) -> float:
    if isinstance(node, yaml.ScalarNode) and node.style is None:  # a quoted number is text
        try:
            return float(node.value)
        except ValueError:
            pass
    found = f"'{node.value:.60}'" if isinstance(node, yaml.ScalarNode) and node.value else _kind(node)
    raise _error(node, f"{what} is {found}, must be a number in [0, 1] without quotes, such as 0.5")


def _kind(node: yaml.Node) -> str:
    if not node.value:
        return "empty"
    return {"scalar": "text", "sequence": "a list", "mapping": "a mapping"}[node.id]


def _line(node: yaml.Node) -> int:
    return node.start_mark.line + 1


def _error(node: yaml.Node, message: str) -> PolicyError:
    return PolicyError(f"{node.start_mark.name}, line {_line(node)}: {message}")
