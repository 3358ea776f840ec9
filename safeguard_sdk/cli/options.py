"""Options that several commands have."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

PolicyOption = Annotated[str, typer.Option(metavar="FILE", help="Policy file, or the name of a packaged policy.")]
BundleOption = Annotated[Path | None, typer.Option(metavar="DIR", help="Folder of a bundle; default: nano.")]
JsonOption = Annotated[bool, typer.Option("--json", help="JSON, for programs.")]
