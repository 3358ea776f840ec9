"""`safeguard info`: what runs here."""

from __future__ import annotations

import importlib.metadata
import json
import platform

import typer

from safeguard_sdk import Bundle, SafeguardError, __version__
from safeguard_sdk._fast import cpu_features
from safeguard_sdk.bundle import EMBEDDED
from safeguard_sdk.cli.bundles import manifest_facts
from safeguard_sdk.cli.options import BundleOption, JsonOption
from safeguard_sdk.cli.printing import outline, readable_errors
from safeguard_sdk.engine import open_engine
from safeguard_sdk.image import jpeg_decoder

PACKAGES = ("numpy", "pillow", "tokenizers")
RUNTIMES = ("onnxruntime", "onnxruntime-gpu")  # distributions of the one module onnxruntime


def info(bundle: BundleOption = None, as_json: JsonOption = False) -> None:
    """Say what runs here: versions, execution providers, CPU, bundle.

    Exit status: 0 if the bundle loads and runs, 2 if not.

    Example: safeguard info
    """
    with readable_errors():
        facts = {"safeguard": __version__, "python": platform.python_version(), "platform": platform.platform(),
                 **{package: importlib.metadata.version(package) for package in PACKAGES},
                 "jpeg_decoder": jpeg_decoder(), "onnxruntime": _runtime(), "cpu_features": cpu_features(),
                 "bundle": None, "error": None}
        failure = None
        try:
            facts["bundle"] = _bundle_facts(Bundle.open(bundle or EMBEDDED))
        except SafeguardError as error:
            failure, facts["error"] = error, str(error)
        typer.echo(json.dumps(facts, indent=1) if as_json else "\n".join(outline(facts)))
        if failure:
            raise failure


def _runtime() -> dict:
    """Which packages provide onnxruntime, and what their build can run on."""
    installed = {}
    for name in RUNTIMES:
        try:
            installed[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    try:
        import onnxruntime
    except ImportError as error:
        return {"packages": installed, "available_providers": [], "error": str(error)}
    return {"packages": installed, "available_providers": onnxruntime.get_available_providers(), "error": None}


def _bundle_facts(bundle: Bundle) -> dict:
    """Opens its sessions, to say where they really run."""
    return manifest_facts(bundle) | {"providers": open_engine(bundle).providers}
