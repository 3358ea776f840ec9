"""`safeguard policy …`: look at policies."""

from __future__ import annotations

import textwrap
from pathlib import Path
from typing import Annotated

import typer

from safeguard_sdk import Bundle, Policy, PolicyError
from safeguard_sdk.bundle import EMBEDDED
from safeguard_sdk.cli.options import BundleOption
from safeguard_sdk.cli.printing import count, readable_errors
from safeguard_sdk.importing import READERS, import_policy
from safeguard_sdk.policy_review import review_policy

policy_app = typer.Typer(help="Look at policies.", no_args_is_help=True)


@policy_app.command("check")
def policy_check(
    file: Annotated[str, typer.Argument(metavar="FILE", help="Policy file, or the name of a packaged policy.")],
    bundle: BundleOption = None,
) -> None:
    """Show what the model reads of every rule, its length, and likely mistakes.

    Exit status: 0 the policy can be used, warnings or not; 2 it cannot.

    Example: safeguard policy check shop.yaml
    """
    with readable_errors():
        policy = Policy.load(file)
        opened = Bundle.open(bundle or EMBEDDED)
        tokenizer, most = opened.read_tokenizer(), opened.max_policy_tokens

        def count_tokens(text: str) -> int:
            return len(tokenizer.encode(opened.style.prefix(text), add_special_tokens=False).ids)

        typer.echo(f"{policy.name}, version {policy.version}: {count(len(policy.rules), 'rule')}, "
                   f"read by {opened.name} {opened.version}\nsha256 {policy.sha256}")
        for rule in policy.rules:
            review = f"review from {rule.review_at:g}, " if rule.review_at < rule.unsafe_at else ""
            recommended = opened.unsafe_at_of(rule.canonical_text)
            advice = "" if recommended is None else f" ({opened.name} recommends {recommended:.4g})"
            typer.secho(f"\n{rule.id}: {count_tokens(rule.canonical_text)} of {most} tokens, "
                        f"{review}unsafe from {rule.unsafe_at:g}{advice}", bold=True)
            typer.echo(textwrap.indent(opened.style.prefix(rule.canonical_text), "    "))
        findings = review_policy(policy, count_tokens, most)
        typer.echo(f"\n{count(len(findings), 'warning')}")
        for finding in findings:
            typer.secho(f"warning: {finding}", fg="yellow")
        if too_long := [rule.id for rule in policy.rules if count_tokens(rule.canonical_text) > most]:
            raise PolicyError(f"{policy.name}: too long for {opened.name}, which reads {most} tokens of a rule: "
                              f"{', '.join(too_long)}; shorten them or split them")


@policy_app.command("import")
def policy_import(
    guard: Annotated[str, typer.Option("--from", metavar="GUARD", help=f"One of {', '.join(READERS)}.")],
    file: Annotated[Path | None, typer.Argument(
        metavar="[FILE]", help="Its policy or taxonomy in its own form; default: the published one.")] = None,
) -> None:
    """Print the rules of another guard as a policy to edit. Exit status: 0, or 2 if a part of FILE is not known.

    Example: safeguard policy import --from llama-guard > shop.yaml
    """
    with readable_errors():
        imported = import_policy(guard, file)
        typer.echo(imported.to_yaml(), nl=False)
        left_out = f"; {len(imported.left_out)} left out, see its comments" if imported.left_out else ""
        typer.echo(f"{count(len(imported.policy.rules), 'rule')} of {imported.source}{left_out}", err=True)


@policy_app.command("list")
def policy_list() -> None:
    """List the packaged policies: name, start of the hash, rules.

    Example: safeguard policy list
    """
    with readable_errors():
        for name in Policy.packaged_names():
            policy = Policy.packaged(name)
            typer.echo(f"{name:8} {policy.sha256[:12]}  {', '.join(rule.id for rule in policy.rules)}")
