"""Policies out of the fixed taxonomies of other guards: rules to edit, in our words where theirs are not free.

    imported = import_policy("llama-guard")                    # the taxonomy as it is published
    imported = import_policy("llavaguard", Path("mine.txt"))   # your own variant, in that guard's form
    print(imported.to_yaml())

What no photo can break has no rule; `left_out` names it. A part of a file that is not known is a PolicyError, never
dropped. docs/policy.md lists the forms.
"""

from __future__ import annotations

import textwrap
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from safeguard_sdk.errors import PolicyError
from safeguard_sdk.importing import files
from safeguard_sdk.importing.taxonomy import Taxonomy
from safeguard_sdk.policy import Policy, Rule
from safeguard_sdk.policy_file import check_characters, nearest, read_text


@dataclass(frozen=True, slots=True)
class Imported:
    policy: Policy
    left_out: dict[str, str]  # "S14 Code Interpreter Abuse" → why no photo can break it
    source: str

    def to_yaml(self) -> str:
        """A policy file that tells in comments where it comes from and what it lacks."""
        lines = [f"From: {self.source}. Edit it: a guard reads these words and nothing else."]
        if self.left_out:
            lines += ["Not in it, because no photo can break it:"]
            lines += [f"  {name}: {why}" for name, why in self.left_out.items()]
        comments = [f"# {wrapped}" for line in lines
                    for wrapped in textwrap.wrap(line, 108, subsequent_indent="    ", break_long_words=False)]
        return "\n".join(comments) + "\n" + self.policy.to_yaml()


# What a file of each guard says: (taxonomy, text, name of the file) → rules and what is left out.
READERS: dict[str, Callable[[Taxonomy, str, str], tuple[list[Rule], dict[str, str]]]] = {
    "llavaguard": files.read_llavaguard, "llama-guard": files.read_numbered, "shieldgemma": files.read_texts,
    "openai": files.read_keys, "nemotron": files.read_numbered, "airbench": files.read_risks,
}


def import_policy(guard: str, file: Path | None = None) -> Imported:
    """A policy of the rules of another guard.

    file    its policy or taxonomy in the form that the guard publishes; None for what is published
    raises  PolicyError, in one line: an unknown guard, a file that cannot be read, a part of it that is not known
    """
    if guard not in READERS:
        raise PolicyError(f"cannot import from '{guard}'{nearest(guard, READERS)} (known: {', '.join(READERS)})")
    taxonomy = Taxonomy.read(guard)
    if file is None:
        rules, left_out = taxonomy.rules_of(taxonomy.categories)
    else:
        where = str(file)
        try:
            text = read_text(file, where)
        except (OSError, ValueError) as error:
            raise PolicyError(f"{where}: cannot be read, {getattr(error, 'strerror', None) or error}") from error
        check_characters(text, where)
        rules, left_out = READERS[guard](taxonomy, text, where)
    if not rules:
        raise PolicyError(f"{file or guard}: names nothing that a photo can break "
                          f"({'; '.join(left_out) or 'it is empty'})")
    try:
        policy = Policy(guard if file is None else file.stem, "1", tuple(rules))
    except PolicyError as error:
        raise PolicyError(f"{file or guard}: {error}") from error
    return Imported(policy, left_out, taxonomy.source if file is None else f"{taxonomy.source}, the file {file.name}")
