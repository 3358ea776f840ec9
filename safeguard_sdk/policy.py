"""A policy: rules in plain words, with thresholds; immutable, with a stable hash. It knows nothing of models.

    safeguard policy check shop.yaml        what the model will read, its length, and warnings

Files are read by policy_file.py; policy_review.py finds what is legal yet a mistake; docs/policy.md is the format.
"""
import hashlib
import json
import os
import re
import unicodedata
from dataclasses import dataclass
from pathlib import Path

from safeguard_sdk.errors import PolicyError
from safeguard_sdk.policy_file import (
    BAD_CHARACTER,
    YAML_POLICY,
    check_characters,
    dump_yaml,
    nearest,
    read_text,
    read_yaml,
)

UNSAFE_AT = 0.5  # calibrated scores: from here on an image more likely breaks the rule than not
PACKAGED = Path(__file__).with_name("policies")

_ID = re.compile(r"[a-z0-9][a-z0-9_-]*")
_LINE_END = re.compile("\r\n|[\r\x85\u2028\u2029]")
_BLANK = re.compile("[\xa0\u1680\u2000-\u200a\u202f\u205f\u3000]")  # looks like " " and is another token


@dataclass(frozen=True, slots=True)
class Rule:
    """One rule, in structured form (`forbids`, `allows`) or in free words (`text`).

    Texts are normalised when the rule is built (Unicode NFC, line ends, blanks), so equal rules have equal hashes on
    every platform. Raises PolicyError naming the field at fault.
    """

    id: str                         # unique within its policy: "weapons"
    title: str = ""                 # "" becomes the id in words: "hate-symbols" → "hate symbols"
    forbids: tuple[str, ...] = ()   # short phrases; one string is one phrase
    allows: tuple[str, ...] = ()    # exceptions, likewise
    text: str = ""                  # free words in place of forbids and allows
    review_at: float = None         # in [0, unsafe_at]; a score from here on is "review"; None becomes unsafe_at
    unsafe_at: float = UNSAFE_AT    # in [0, 1]; a score from here on is "unsafe"

    def __post_init__(self) -> None:
        if not isinstance(self.id, str) or not _ID.fullmatch(self.id):
            wanted = re.sub("[^a-z0-9]+", "-", str(self.id).lower()).strip("-") or "weapons"
            raise _FieldError(f"rule id {self.id!r:.60} must be lower-case letters, digits, '-' and '_', "
                              f"such as '{wanted:.60}'", "id")
        unsafe_at = self._threshold("unsafe_at", self.unsafe_at)
        fields = {
            "title": self._line("title", self.title or " ".join(re.split("[-_]+", self.id)).strip()),
            "forbids": self._phrases("forbids", self.forbids),
            "allows": self._phrases("allows", self.allows),
            "text": self._lines("text", self.text),
            "unsafe_at": unsafe_at,
            "review_at": unsafe_at if self.review_at is None else self._threshold("review_at", self.review_at),
        }
        for name, value in fields.items():
            object.__setattr__(self, name, value)
        if self.text and (self.forbids or self.allows):
            raise self._error("text", "text stands beside forbids or allows; keep the one or the others")
        if not (self.text or self.forbids or self.allows):
            raise self._error("id", "it says nothing; give it forbids, allows or text")
        if self.review_at > self.unsafe_at:
            raise self._error("review_at", f"review_at {self.review_at} is above unsafe_at {self.unsafe_at}; "
                                           "lower review_at or raise unsafe_at")

    @property
    def canonical_text(self) -> str:
        """What a model reads of this rule, to the letter; no trailing line end."""
        if self.text:
            return self.text
        return (f"Rule: {self.title}\n"
                f"Forbidden: {'; '.join(self.forbids) or 'nothing'}\n"
                f"Allowed: {'; '.join(self.allows) or 'everything else'}")

    def _threshold(self, field: str, value: object) -> float:
        if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= 1:  # NaN is in no range
            raise self._error(field, f"{field} is {value!r:.60}, must be a number in [0, 1]")
        return float(value) + 0.0  # -0.0 becomes 0.0

    def _phrases(self, field: str, value: object) -> tuple[str, ...]:
        if isinstance(value, str):
            value = (value,)
        if not isinstance(value, list | tuple):
            raise self._error(field, f"{field} is {value!r:.60}, must be a phrase or a list of phrases")
        return tuple(self._line(field, phrase, index) for index, phrase in enumerate(value))

    def _line(self, field: str, value: object, *index: int) -> str:
        line = self._lines(field, value, *index)
        if not line:
            raise self._error(field, f"{field} has an empty phrase; write it or delete it", *index)
        if "\n" in line:
            raise self._error(field, f"{field} has a phrase of several lines; write a list, one phrase each", *index)
        return " ".join(line.split())

    def _lines(self, field: str, value: object, *index: int) -> str:
        if not isinstance(value, str):
            raise self._error(field, f"{field} is {value!r:.60}, must be text", *index)
        value = unicodedata.normalize("NFC", value)
        if bad := BAD_CHARACTER.search(value):
            raise self._error(field, f"{field} has the invisible character U+{ord(bad[0]):04X}; delete it", *index)
        lines = _BLANK.sub(" ", _LINE_END.sub("\n", value)).split("\n")
        return "\n".join(line.rstrip() for line in lines).strip("\n")

    def _error(self, field: str, problem: str, *index: int) -> PolicyError:
        return _FieldError(f"rule '{self.id}': {problem}", field, *index)


@dataclass(frozen=True, slots=True)
class Policy:
    """Rules that are judged one by one: an image breaks the policy if it breaks any of them."""

    name: str                 # for people; no part of the hash
    version: str              # likewise
    rules: tuple[Rule, ...]   # at least one, ids unique

    def __post_init__(self) -> None:
        for field in ("name", "version"):
            value = getattr(self, field)
            line = " ".join(value.split()) if isinstance(value, str) else ""
            if not line or BAD_CHARACTER.search(line):
                raise _FieldError(f"{field} of the policy is {value!r:.60}, must be text in one line", field)
            object.__setattr__(self, field, line)
        object.__setattr__(self, "rules", tuple(self.rules))
        if not self.rules:
            raise _FieldError("the policy has no rules; give it at least one", "rules")
        seen: set[str] = set()
        for index, rule in enumerate(self.rules):
            if rule.id in seen:
                raise _FieldError(f"two rules have the id '{rule.id}'; rename one of them", "rules", index)
            seen.add(rule.id)

    @classmethod
    def load(cls, path: str | Path) -> "Policy":
        """Read a policy file, or a packaged policy by its name ("general", "L1" … "L5") where no such file exists.

        .yaml and .yml are YAML, every other file is plain text: one rule in free words, named like the file.
        Raises PolicyError: the file, the line, what is wrong, how to mend it.
        """
        file = Path(path)
        where, stem = _printable(str(file)), _printable(file.stem).strip() or "policy"
        if str(path) in cls.packaged_names() and not os.path.isfile(file):  # nor can be looked for, in a closed folder
            return cls.packaged(str(path))
        try:
            text = read_text(file, where)
        except FileNotFoundError as error:
            raise PolicyError(f"{where}: no such file{_nearest_file(file)} "
                              f"(packaged policies: {', '.join(cls.packaged_names())})") from error
        except IsADirectoryError as error:
            raise PolicyError(f"{where}: a folder; name a policy file in it") from error
        except (OSError, ValueError) as error:  # ValueError: a NUL in the path
            raise PolicyError(f"{where}: cannot be read, {getattr(error, 'strerror', None) or error}") from error
        if file.suffix.lower() in (".yaml", ".yml"):
            return cls.from_yaml(text, where, stem)
        check_characters(text, where)
        if YAML_POLICY.search(text):
            raise PolicyError(f"{where}: looks like a YAML policy and would be read as one rule in free words; "
                              "name the file .yaml")
        try:
            return cls.from_text(text, stem)
        except PolicyError as error:
            raise PolicyError(f"{where}: {error}") from error

    @classmethod
    def packaged(cls, name: str) -> "Policy":
        """A policy that comes with the SDK. Raises PolicyError naming those there are."""
        names = cls.packaged_names()
        if name not in names:
            raise PolicyError(f"no packaged policy '{name}'{nearest(name, names)} (there are: {', '.join(names)})")
        return cls.load(PACKAGED / f"{name}.yaml")

    @staticmethod
    def packaged_names() -> tuple[str, ...]:
        """("L1", "L2", "L3", "L4", "L5", "general")"""
        return tuple(sorted(file.stem for file in PACKAGED.glob("*.yaml")))

    @classmethod
    def from_text(cls, text: str, name: str = "policy",
                  review_at: float | None = None, unsafe_at: float = UNSAFE_AT) -> "Policy":
        """A policy in free words: one rule with the id "policy", which the model reads as it stands."""
        if not text.strip():
            raise PolicyError("the policy is empty; write what is forbidden and what is allowed")
        rule = Rule("policy", text=text.removeprefix("\ufeff"), review_at=review_at, unsafe_at=unsafe_at)
        return cls(name, "1", (rule,))

    @classmethod
    def from_yaml(cls, source: str, where: str = "<text>", name: str = "policy") -> "Policy":
        """Read YAML text. `where` stands in error messages, `name` is used where the text gives none."""
        header, entries = read_yaml(source.removeprefix("\ufeff"), where)
        at = header
        try:
            rules = []
            for at in entries:
                rules.append(Rule(**at.values))
            at = header
            return cls(**{"name": name, "version": "1"} | header.values, rules=tuple(rules))
        except _FieldError as error:
            raise PolicyError(f"{where}, line {at.line(error.place)}: {error}") from error

    def to_yaml(self) -> str:
        """YAML that reads back as an equal policy, with the same hash."""
        rules = []
        for rule in self.rules:
            fields = {"id": rule.id, "title": rule.title, "forbids": list(rule.forbids), "allows": list(rule.allows),
                      "text": rule.text, "review_at": rule.review_at, "unsafe_at": rule.unsafe_at}
            rules.append({key: value for key, value in fields.items() if value not in ("", [])})
        return dump_yaml({"name": self.name, "version": self.version, "rules": rules})

    @property
    def canonical_text(self) -> str:
        """The canonical texts of all rules, a blank line between them."""
        return "\n\n".join(rule.canonical_text for rule in self.rules)

    @property
    def sha256(self) -> str:
        """Hex SHA-256 of all that can change a verdict: rule ids, canonical texts, thresholds. Not name and version.

        Taken over UTF-8 JSON, keys sorted, no blanks: [{"id":…,"review_at":…,"text":canonical_text,"unsafe_at":…},…]
        """
        rules = [{"id": rule.id, "review_at": rule.review_at, "text": rule.canonical_text, "unsafe_at": rule.unsafe_at}
                 for rule in self.rules]
        form = json.dumps(rules, ensure_ascii=False, sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(form.encode()).hexdigest()


class _FieldError(PolicyError):
    """A PolicyError that knows its place, so that a file's reader can add the line.

    place  (field,) or (field, index of the item)
    """

    def __init__(self, message: str, *place: str | int) -> None:
        super().__init__(message)
        self.place = place


def _printable(text: str) -> str:
    """File names may hold line ends and bytes that are no text; messages and policy names may not."""
    return " ".join(BAD_CHARACTER.sub("?", text).splitlines())


def _nearest_file(file: Path) -> str:
    try:
        beside = [other.name for other in file.parent.iterdir() if other.suffix.lower() in (".yaml", ".yml", ".txt")]
    except OSError:  # no such folder: nothing to suggest from it
        beside = []
    return nearest(file.name, [*beside, *Policy.packaged_names()])
