"""Options that several commands have."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

PolicyOption = Annotated[str, typer.Option(metavar="FILE", help="Policy file, or the name of a packaged policy.")]
BundleOption = Annotated[Path | None, typer.Option(metavar="DIR", help="Folder of a bundle; default: nano.")]
ProviderOption = Annotated[str, typer.Option(help="Where the bundle's graphs run: cpu, cuda or tensorrt.")]
EnginesOption = Annotated[Path | None, typer.Option(metavar="DIR", help="TensorRT engines of the bundle, in place of "
                                                    "ONNX Runtime; see docs/bundle.md.")]
JsonOption = Annotated[bool, typer.Option("--json", help="JSON, for programs.")]
