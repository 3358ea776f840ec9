"""The policies of a service: those of its files, by name, and those that a request brings."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from safeguard_sdk.engine import Engine, refuse_longer
from safeguard_sdk.errors import PolicyError, ServeError
from safeguard_sdk.policy import Policy
from safeguard_sdk.policy_file import POLICY_KEYS, nearest
from safeguard_sdk.scan.output import ScanFolder
from safeguard_sdk.serve.failures import RequestError
from safeguard_sdk.serve.options import Options

INLINE = "inline"  # the name of all policies that requests bring, in metrics and in logs

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
_YAML_KEY = re.compile(rf"^({'|'.join(POLICY_KEYS)})[ \t]*:", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class Named:
    """A policy as requests and answers call it."""

    name: str
    policy: Policy
    inline: bool = False  # brought by a request

    @property
    def counted_as(self) -> str:
        """What metrics and logs call it; those of requests share one name, for there may be any number of them."""
        return INLINE if self.inline else self.name

    def identity(self) -> dict:
        return {"name": self.name, "version": self.policy.version, "sha256": self.policy.sha256}

    def as_json(self) -> dict:
        """For people and pages: what it forbids and from which scores on."""
        rules = [{"id": rule.id, "title": rule.title, "forbids": list(rule.forbids), "allows": list(rule.allows),
                  "text": rule.text, "review_at": rule.review_at, "unsafe_at": rule.unsafe_at}
                 for rule in self.policy.rules]
        return self.identity() | {"rules": rules}


@dataclass(frozen=True, slots=True)
class PolicyFile:
    """Where a policy of the service comes from, and what it is called."""

    name: str
    path: str  # or the name of a packaged policy

    @classmethod
    def parse(cls, argument: str) -> PolicyFile:
        """ "NAME=FILE", or "FILE", whose name is the policy's: shop.yaml is "shop". Raises ServeError."""
        name, equals, path = argument.partition("=")
        if not (equals and _NAME.fullmatch(name)):
            path, name = argument, Path(argument).stem
        if not _NAME.fullmatch(name):
            raise ServeError(f"policy {argument!r:.80}: {name!r:.60} is no name for requests to use; give it one of "
                             "letters, digits, '.', '_' and '-': --policy shop=FILE")
        if not path:
            raise ServeError(f"policy {argument!r:.80}: names no file; write --policy {name}=FILE")
        return cls(name, path)

    def read(self) -> Policy:
        return Policy.load(self.path)


@dataclass(frozen=True, slots=True)
class PolicyOfScan:
    """The policy that a scan was made by, for a service that has it reviewed and was given no other."""

    path: Path
    name: str = "scan"

    def read(self) -> Policy:
        return Policy.from_yaml(ScanFolder.open(self.path).facts["policy"]["yaml"], str(self.path), self.name)


def load_policies(files: Iterable[PolicyFile | PolicyOfScan], engine: Engine) -> dict[str, Named]:
    """All of them, by name and in order, or PolicyError about the first that is bad; ServeError for a name given
    twice."""
    loaded: dict[str, Named] = {}
    for file in files:
        if file.name in loaded:
            raise ServeError(f"two policies are called '{file.name}'; name one of them otherwise: --policy NAME=FILE")
        policy = file.read()
        try:
            check_lengths(policy, engine)
        except PolicyError as error:
            raise PolicyError(f"{file.path}: {error}") from error
        loaded[file.name] = Named(file.name, policy)
    if not loaded:
        raise ServeError("no policy to judge by; name one: --policy FILE")
    return loaded


def reload_policies(files: Iterable[PolicyFile | PolicyOfScan], engine: Engine) -> dict[str, Named]:
    """As load_policies, but PolicyError for a pipe, which has said what it had to say and would be waited for."""
    for file in files:
        if os.path.exists(file.path) and not (os.path.isfile(file.path) or os.path.isdir(file.path)):
            raise PolicyError(f"{file.path}: is a pipe or a device, which cannot be read twice; name a file: --policy "
                              "FILE")
    return load_policies(files, engine)


def find_policy(policies: dict[str, Named], name: str | None) -> Named:
    """The policy of that name, or the first where none is asked for. Raises RequestError."""
    if name is None:
        return next(iter(policies.values()))
    if name not in policies:
        raise RequestError(404, "unknown_policy", f"no policy {name!r:.80} here{nearest(name[:80], policies)} (there "
                                                  f"are: {', '.join(policies)})")
    return policies[name]


def read_inline_policy(data: bytes, options: Options, engine: Engine) -> Named:
    """The policy that a request brings, YAML where a line begins with one of its keys, else one rule in plain words.

    raises  RequestError
    """
    if len(data) > options.policy_bytes:
        raise RequestError(413, "too_large", f"the policy has over {options.policy_bytes} bytes; make it shorter")
    try:
        text = data.decode("utf-8-sig")
        is_yaml = _YAML_KEY.search(text)
        policy = Policy.from_yaml(text, "policy") if is_yaml else Policy.from_text(text.strip())
        if len(policy.rules) > options.policy_rules:
            raise PolicyError(f"the policy has {len(policy.rules)} rules, a request may bring {options.policy_rules}; "
                              "have it put among the service's own: --policy FILE")
        check_lengths(policy, engine)
    except UnicodeDecodeError as error:
        raise RequestError(400, "bad_policy", "the policy is not UTF-8; send it as UTF-8 text") from error
    except PolicyError as error:
        raise RequestError.of_policy(error) from error
    return Named(policy.name, policy, inline=True)


def check_lengths(policy: Policy, engine: Engine) -> None:
    """Raises PolicyError for a rule that the model cannot read whole."""
    for rule in policy.rules:
        try:
            refuse_longer(engine.count_tokens(engine.bundle.style.prefix(rule.canonical_text)), engine.bundle)
        except PolicyError as error:
            raise PolicyError(f"rule '{rule.id}': {error}") from error
