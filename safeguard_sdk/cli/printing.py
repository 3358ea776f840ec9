"""How facts and errors appear on the terminal."""

from __future__ import annotations

import os
import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager

import typer

from safeguard_sdk import SafeguardError

COLOURS = {"safe": "green", "review": "yellow", "unsafe": "red"}


def outline(facts: dict, indent: str = "") -> Iterator[str]:
    """Facts as lines, one each; those nested deeper than three levels are counted only."""
    for key, value in facts.items():
        name = key.replace("_", " ")
        if isinstance(value, dict) and len(indent) == 4:
            yield f"{indent}{name:{24 - len(indent)}} {len(value)} values, see --json"
        elif isinstance(value, dict) and value:
            yield f"{indent}{name}"
            yield from outline(value, indent + "  ")
        else:
            yield f"{indent}{name:{24 - len(indent)}} {_shown(value)}"


def _shown(value: object) -> str:
    if value is None or value in ({}, []):
        return "none"
    if isinstance(value, list):
        return ", ".join(one["name"] if isinstance(one, dict) else str(one) for one in value)
    return str(value)


def count(number: int, noun: str) -> str:
    return f"{number or 'no'} {noun}{'' if number == 1 else 's'}"


def print_error(message: str) -> None:
    typer.secho(f"error: {' '.join(message.splitlines())}", fg="red", err=True)


@contextmanager
def readable_errors() -> Iterator[None]:
    """Known errors become one line and exit status 2; any other keeps its traceback, with the same status: 1 would say
    that something was found."""
    try:
        yield
    except SafeguardError as error:
        print_error(str(error))
        raise typer.Exit(2) from error
    except BrokenPipeError as error:  # `safeguard … | head`: nobody reads on, so not all was said
        _write_no_more()
        raise typer.Exit(2) from error
    except OSError as error:
        _write_no_more()
        print_error(f"{error.filename or 'the output'}: cannot be written or read ({error.strerror or error}); see to "
                    "the disk")
        raise typer.Exit(2) from error
    except KeyboardInterrupt as error:
        raise typer.Exit(130) from error
    except (typer.Exit, typer.Abort, typer.BadParameter):
        raise
    except Exception as error:
        traceback.print_exc()
        raise typer.Exit(2) from error


def _write_no_more() -> None:
    """Let Python flush into nothing when it ends: it would fail once more."""
    if sys.stdout is not None:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
