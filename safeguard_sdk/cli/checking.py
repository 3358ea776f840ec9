"""`safeguard check`: judge images, one line each."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from typing import Annotated

import typer

from safeguard_sdk import Guard, Record, Verdict
from safeguard_sdk.cli.options import (
    BundleOption,
    EnginesOption,
    JsonOption,
    PoliciesOption,
    ProviderOption,
    one_policy,
)
from safeguard_sdk.cli.printing import COLOURS, print_error, readable_errors
from safeguard_sdk.errors import ImageError, VerdictError
from safeguard_sdk.image import MAX_FILE_BYTES

STDIN = "-"


def check(
    images: Annotated[list[str], typer.Argument(metavar="IMAGE…", help="Image files; - reads one image from stdin.")],
    policy: PoliciesOption,
    bundle: BundleOption = None,
    as_json: JsonOption = False,
    explain: Annotated[bool, typer.Option("--explain", help="Say what each image was judged by.")] = False,
    provider: ProviderOption = "cpu",
    engines: EnginesOption = None,
) -> None:
    """Judge every IMAGE by a policy, one line each.

    An image that cannot be judged is reported, and the others are judged.
    Exit status: 0 all safe, 1 something unsafe or to review, 2 something failed.

    Example: safeguard check upload.jpg --policy general
    """
    with readable_errors():
        guard = Guard(one_policy(policy), bundle, provider=provider, engines=engines)
        judge = guard.explain if explain else guard.check
        width = max(len(rule.id) for rule in guard.policy.rules)
        failed = found = False
        for path in images:
            record = _judge(path, judge)
            if record.failure is not None:
                failed = True
                print_error(record.failure)
            elif record.verdict.label != "safe":
                found = True
            if as_json:
                rationale = {"rationale": record.verdict.rationale} if explain and record.verdict else {}
                typer.echo(json.dumps(record.as_json() | rationale))
            elif record.verdict:
                typer.echo(_line(record, width))
        raise typer.Exit(2 if failed else 1 if found else 0)


def _judge(path: str, judge: Callable[[str | bytes], Verdict]) -> Record:
    try:
        return Record(path, judge(_read_stdin() if path == STDIN else path))
    except ImageError as error:
        message = str(error).replace("<bytes>", "<stdin>", 1) if path == STDIN else str(error)
        return Record(path, None, message, error.kind)
    except VerdictError as error:
        return Record(path, None, f"{path}: has no verdict ({error})", "no_verdict")


def _read_stdin() -> bytes:
    if sys.stdin is None:
        raise ImageError("<stdin>: is closed; name a file, or send an image into the command", "unreadable")
    data = sys.stdin.buffer.read(MAX_FILE_BYTES + 1)
    if len(data) > MAX_FILE_BYTES:
        raise ImageError(f"<stdin>: has over {MAX_FILE_BYTES} bytes; make it smaller", "too_large")
    return data


def _line(record: Record, width: int) -> str:
    """ "unsafe  0.94  weapons  upload.jpg", and under it the rationale if there is one."""
    verdict = record.verdict
    name = record.path if record.path.isprintable() else ascii(record.path)
    label = typer.style(f"{verdict.label:6}", fg=COLOURS[verdict.label])
    line = f"{label}  {verdict.score:.2f}  {verdict.rule or '':{width}}  {name}"
    return f"{line}\n        {verdict.rationale}" if verdict.rationale else line
