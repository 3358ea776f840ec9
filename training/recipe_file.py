"""Recipes: YAML files whose keys are the fields of a dataclass, all of them and no other."""

from __future__ import annotations

import difflib
import math
from dataclasses import fields
from pathlib import Path
from typing import Literal, Protocol, TypeVar, get_args, get_origin, get_type_hints

import yaml

from training.errors import TrainingError


class Checked(Protocol):
    def check(self) -> None:
        """Raises ValueError for values that have no meaning, alone or together."""


Kind = TypeVar("Kind", bound=Checked)


def read_recipe(kind: type[Kind], path: Path) -> Kind:
    """A file as a dataclass. Raises TrainingError: the file, the key, what is wrong, how to mend it."""
    try:
        document = yaml.load(path.read_text(encoding="utf-8"), _Once)
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise TrainingError(f"{path}: cannot be read as YAML ({' '.join(str(error).split())})") from error
    recipe = _read(kind, document, str(path), "")
    try:
        recipe.check()
    except ValueError as error:
        raise TrainingError(f"{path}: {error}") from error
    return recipe


def within(key: str, value: float, least: float, most: float | None = None) -> None:
    """Raises ValueError outside of both."""
    if value < least or most is not None and value > most:
        raise ValueError(f"{key} is {value}, must be at least {least}"
                         + ("" if most is None else f" and at most {most}"))


class _Once(yaml.SafeLoader):
    """Refuses a key that a mapping has twice, of which YAML would take the last."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict:
        keys = [key for key, _ in node.value if isinstance(key, yaml.ScalarNode)]
        for number, key in enumerate(keys):
            if key.value in [one.value for one in keys[:number]]:
                raise yaml.constructor.ConstructorError(
                    None, None, f"the key {key.value} is given twice; delete one", key.start_mark)
        return super().construct_mapping(node, deep)


def _read(kind: type, value: object, where: str, place: str) -> object:
    """A mapping as a dataclass whose fields are its keys, all of them and no other."""
    types = get_type_hints(kind)
    keys = [field.name for field in fields(kind)]
    if not isinstance(value, dict):
        raise TrainingError(f"{where}: {place or 'the recipe'} is {value!r:.60}, must be a mapping with the keys "
                            f"{', '.join(keys)}")
    prefix = f"{place}." if place else ""
    for key in value:
        if key not in keys:
            near = difflib.get_close_matches(str(key), keys, n=1)
            raise TrainingError(f"{where}: there is no key {prefix}{key}"
                                + (f"; did you mean {near[0]}?" if near else f"; there are {', '.join(keys)}"))
    for key in keys:
        if key not in value:
            raise TrainingError(f"{where}: the key {prefix}{key} is missing; look into training/recipes")
    return kind(**{key: _typed(types[key], value[key], where, prefix + key) for key in keys})


def _typed(kind: object, value: object, where: str, place: str) -> object:
    arguments = get_args(kind)
    if type(None) in arguments:
        return None if value is None else _typed(arguments[0], value, where, place)
    if get_origin(kind) is Literal:
        if value in arguments:
            return value
        wanted = f"one of {', '.join(arguments)}"
    elif get_origin(kind) is tuple:
        if isinstance(value, list) and all(isinstance(item, str) for item in value):
            return tuple(value)
        wanted = "a list of names"
    elif get_origin(kind) is dict:
        if isinstance(value, dict) and all(map(_is_number, value.values())):
            return {str(name): float(weight) for name, weight in value.items()}
        wanted = "a mapping of names to numbers"
    elif kind is float:
        if _is_number(value):
            return float(value)
        wanted = "a number" + (" (in YAML 1e-4 is a text, 1.0e-4 a number)" if isinstance(value, str) else "")
    elif kind in (int, bool, str):
        if type(value) is kind:
            return value
        wanted = {int: "a whole number", bool: "true or false", str: "a text"}[kind]
    else:
        return _read(kind, value, where, place)
    raise TrainingError(f"{where}: {place} is {value!r:.60}, must be {wanted}")


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
