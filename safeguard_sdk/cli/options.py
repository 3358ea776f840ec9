"""Options that several commands have."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from safeguard_sdk import Policy, PolicyError

PoliciesOption = Annotated[list[str], typer.Option("--policy", metavar="FILE",
                                                   help="Policy file, or the name of a packaged policy.")]
BundleOption = Annotated[Path | None, typer.Option(metavar="DIR", help="Folder of a bundle; default: nano.")]
ProviderOption = Annotated[str, typer.Option(help="Where the bundle's graphs run: cpu, cuda or tensorrt.")]
EnginesOption = Annotated[Path | None, typer.Option(metavar="DIR", help="TensorRT engines of the bundle, in place of "
                                                    "ONNX Runtime; see docs/bundle.md.")]
JsonOption = Annotated[bool, typer.Option("--json", help="JSON, for programs.")]


def one_policy(files: list[str]) -> Policy:
    """The policy of a command that judges by one; of several named, the last would count alone and without a word."""
    if len(files) > 1:
        raise PolicyError(f"--policy is given {len(files)} times ({', '.join(files)}); name one, or write their rules "
                          "into one file")
    return Policy.load(files[0])
