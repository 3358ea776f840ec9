"""The command `safeguard`: parse, call the library, print.

    safeguard check photo.jpg --policy general
    safeguard scan photos/ --policy general --out out
    safeguard serve --policy general
    safeguard policy check shop.yaml
    safeguard bundle verify bundles/safeguard-vl
    safeguard info

Verdicts and facts go to stdout, errors to stderr in one line each. Exit status, as virus scanners have it: 0 all safe,
1 something unsafe or to review, 2 something failed, 130 interrupted. docs/cli.md shows the output.
"""

from __future__ import annotations

import os
import sys
from typing import Annotated

import typer

from safeguard_sdk import __version__
from safeguard_sdk.cli.bundles import bundle_app
from safeguard_sdk.cli.checking import check
from safeguard_sdk.cli.machine import info
from safeguard_sdk.cli.policies import policy_app
from safeguard_sdk.cli.scanning import diff, merge, scan
from safeguard_sdk.cli.serving import serve

app = typer.Typer(help="An offline image guard: says whether a photo breaks a policy in plain words.",
                  no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False)
for command in (check, scan, merge, diff, serve, info):
    app.command()(command)
app.add_typer(policy_app, name="policy")
app.add_typer(bundle_app, name="bundle")


def _print_version(asked: bool) -> None:
    if asked:
        typer.echo(f"safeguard {__version__}")
        raise typer.Exit


@app.callback()
def main(
    context: typer.Context,
    version: Annotated[bool, typer.Option("--version", is_eager=True, callback=_print_version,
                                          help="Print the version and exit.")] = False,
) -> None:
    if os.environ.get("NO_COLOR"):  # https://no-color.org
        context.color = False
    for stream in filter(None, (sys.stdout, sys.stderr)):  # a daemon may have closed them
        stream.reconfigure(errors="backslashreplace")  # a name that the terminal cannot show is no reason to stop
