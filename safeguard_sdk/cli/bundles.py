"""`safeguard bundle …`: look at bundles."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Annotated

import numpy as np
import typer

from safeguard_sdk import Bundle, Guard, Policy
from safeguard_sdk.cli.options import EnginesOption, JsonOption, ProviderOption
from safeguard_sdk.cli.printing import count, outline, readable_errors

TRIAL_POLICY, TRIAL_IMAGE = "No weapons.", np.full((64, 96, 3), 128, np.uint8)  # of `bundle verify`

bundle_app = typer.Typer(help="Look at bundles.", no_args_is_help=True)


@bundle_app.command("info")
def bundle_info(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="Folder of a bundle.")],
    as_json: JsonOption = False,
) -> None:
    """Say what a bundle was made from, what it reads, and how close it is to its checkpoint. Nothing runs.

    Exit status: 0 every file is what the manifest says, 2 not.

    Example: safeguard bundle info bundles/safeguard-vl
    """
    with readable_errors():
        opened = Bundle.open(folder)
        facts = manifest_facts(opened) | {"prepares": dataclasses.asdict(opened.geometry),
                                           "files": {file["file"]: file["sha256"] for file in opened.manifest["files"]}}
        typer.echo(json.dumps(facts, indent=1) if as_json else "\n".join(outline(facts)))


@bundle_app.command("verify")
def bundle_verify(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="Folder of a bundle.")],
    provider: ProviderOption = "cpu",
    engines: EnginesOption = None,
) -> None:
    """Check every file by its hash, load every graph where it is to run, and judge one grey picture.

    Exit status: 0 all of it works, 2 something does not.

    Example: safeguard bundle verify bundles/safeguard-vl --provider cuda
    """
    with readable_errors():
        opened = Bundle.open(folder)
        typer.echo(f"{count(len(opened.manifest['files']), 'file')} as the manifest says, sha256 {opened.sha256}")
        guard = Guard(Policy.from_text(TRIAL_POLICY), opened, provider=provider, engines=engines)
        for graph, providers in guard.engine.providers.items():
            typer.echo(f"{graph}: {providers[0]}")
        verdict = guard.check(TRIAL_IMAGE)
        typer.echo(f"judges: a score of {verdict.score:.2f} in {sum(verdict.ms.values()):.0f} ms")


def manifest_facts(bundle: Bundle) -> dict:
    kept = ("base_model", "quantization", "calibration", "parity", "quality")
    return {"path": str(bundle.path), "name": bundle.name, "version": bundle.version, "sha256": bundle.sha256,
            "architecture": bundle.architecture,
            "prompt": {"style": bundle.style.name, "version": bundle.style.version, "sha256": bundle.style.sha256},
            "max_policy_tokens": bundle.max_policy_tokens, **{key: bundle.manifest.get(key) for key in kept}}
