"""What is installed, what importing it costs, and which way imports point."""

import ast
import importlib
import json
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest

import safeguard_sdk

ROOT = Path(__file__).parents[1]
SDK = ROOT / "safeguard_sdk"
MB = 1_000_000

# Each may import from those below it, never from those above. Modules that are not named here belong to the lowest row.
LAYERS = (("cli",), ("scan", "serve"), ("__init__",), ("guard",), ("engine",))
CLONE_ONLY = {"training", "export", "benchmarks", "demo", "tests"}
MODULE_OF = {"pillow": "PIL", "pyyaml": "yaml"}  # where a distribution's module is called otherwise
SLOW_TO_IMPORT = {"torch", "torchvision", "transformers", "onnx", "onnxruntime", "sklearn", "skimage", "scipy",
                  "pyarrow", "typer", "rich", "fastapi"}

LIST_WHEEL = """
import json
from setuptools import Distribution
wheel = Distribution({"script_name": "setup.py"})
wheel.parse_config_files()
build = wheel.get_command_obj("build_py")
build.ensure_finalized()
files = [file.removeprefix(build.build_lib).lstrip("/\\\\") for file in build.get_outputs(include_bytecode=False)]
print(json.dumps({"files": files, "licences": wheel.metadata.license_files}))
"""


@pytest.fixture(scope="module")
def project() -> dict:
    return tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]


@pytest.fixture(scope="module")
def wheel() -> dict:
    """Files of the wheel, the compiled part aside, and its licence files, as setuptools gathers them."""
    listed = subprocess.run([sys.executable, "-c", LIST_WHEEL], cwd=ROOT, check=True, stdout=subprocess.PIPE, text=True)
    found = json.loads(listed.stdout.splitlines()[-1])
    return {"files": {Path(file).as_posix() for file in found["files"]}, "licences": set(found["licences"])}


# Importing

def test_importing_the_sdk_imports_nothing_slow():
    code = "import json, sys, time; started = time.perf_counter(); import safeguard_sdk; " \
           "print(json.dumps([time.perf_counter() - started, list(sys.modules)]))"
    run = subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True, stdout=subprocess.PIPE, text=True)
    seconds, modules = json.loads(run.stdout)
    print(f"import safeguard_sdk: {seconds:.2f} s")  # not asserted: a busy machine takes any time it likes
    assert SLOW_TO_IMPORT.isdisjoint(modules)


def test_all_equals_what_can_be_imported():
    public = {name for name, value in vars(safeguard_sdk).items()
              if not name.startswith("_") and not isinstance(value, ModuleType)}
    assert sorted(public) == safeguard_sdk.__all__


def test_the_api_is_six_nouns_and_the_errors():
    nouns = {name for name in safeguard_sdk.__all__ if not name.endswith("Error")}
    assert nouns == {"Policy", "Guard", "Engine", "Bundle", "Verdict", "Record"}


def test_the_sdk_imports_nothing_of_the_clone():
    assert [(file, name) for file, name in imports_of_the_sdk() if name.split(".")[0] in CLONE_ONLY] == []


def test_imports_within_the_sdk_point_one_way():
    upwards = [f"{file} imports {name}" for file, name in imports_of_the_sdk()
               if name.split(".")[0] == "safeguard_sdk" and layer(name) < layer(module_of(file))]
    assert upwards == []


def test_the_sdk_imports_only_what_its_wheel_requires_and_engines_their_runtimes(project):
    required = {MODULE_OF.get(name, name) for name in map(name_of, project["dependencies"])}
    allowed = {*sys.stdlib_module_names, *required, "safeguard_sdk", "onnxruntime", "simplejpeg",
               "fsspec", "av", "pdqhash", "ray",  # what scans need beyond, each an extra
               "fastapi", "fastapi_offline", "httpcore", "prometheus_client", "python_multipart", "pydantic",
               "starlette", "uvicorn"}  # the extra serve; fastapi brings pydantic and starlette
    foreign = {(file, name) for file, name in imports_of_the_sdk()
               if name.split(".")[0] not in allowed and not file.startswith("engine/")}
    assert foreign == set()


# Installing

def test_the_dependencies_are_these_and_have_no_upper_bound(project):
    assert {name_of(entry) for entry in project["dependencies"]} == {
        "numpy", "pillow", "pyyaml", "tokenizers", "typer", "rich", "pyarrow"}
    assert [entry for entry in project["dependencies"] if ">=" not in entry or "<" in entry or "==" in entry] == []


def test_onnxruntime_comes_with_the_extra_cpu_or_gpu_and_with_no_other(project):
    """onnxruntime and onnxruntime-gpu provide the same module: installed together, they break each other."""
    extras = project["optional-dependencies"]
    runtimes = {extra: {name_of(entry) for entry in entries if name_of(entry).startswith("onnxruntime")}
                for extra, entries in extras.items()}
    assert {extra: names for extra, names in runtimes.items() if names} == {
        "cpu": {"onnxruntime"}, "gpu": {"onnxruntime-gpu"}}
    assert set(extras) == {"cpu", "gpu", "tensorrt", "turbo", "remote", "video", "duplicates", "ray", "serve", "export",
                           "train", "tensorboard", "deepspeed", "bench", "edit", "demo", "dev"}


def test_every_command_of_the_wheel_exists(project):
    for target in project["scripts"].values():
        module, name = target.split(":")
        assert callable(getattr(importlib.import_module(module), name))


def test_the_wheel_holds_the_sdk_and_nothing_else(wheel):
    assert {file.split("/")[0] for file in wheel["files"]} == {"safeguard_sdk"}
    assert {file.relative_to(ROOT).as_posix() for file in SDK.rglob("*.py")} <= wheel["files"]


@pytest.mark.parametrize("folder, pattern", [("policies", "*.yaml"), ("nano", "*"), ("scan", "*.html"),
                                             ("importing", "*.yaml"),
                                             *(("serve/page", f"*.{kind}") for kind in ("html", "css", "js", "svg"))])
def test_the_wheel_holds_the_packaged_policies_the_embedded_bundle_and_templates(wheel, folder, pattern):
    files = {file.relative_to(ROOT).as_posix() for file in (SDK / folder).glob(pattern)}
    assert files, f"safeguard_sdk/{folder} is empty"
    assert files <= wheel["files"]


def test_the_wheel_holds_the_stub_of_its_compiled_part(wheel):
    assert "safeguard_sdk/_fast.pyi" in wheel["files"]


def test_the_wheel_holds_its_licence_and_the_credits(wheel):
    assert wheel["licences"] == {"LICENSE", "NOTICE"}


def test_the_embedded_bundle_is_below_50_mb_a_file_and_100_mb_in_total():
    sizes = {file.name: file.stat().st_size for file in (SDK / "nano").iterdir()}
    assert max(sizes.values()) < 50 * MB, sizes
    assert sum(sizes.values()) < 100 * MB, sizes


def name_of(requirement: str) -> str:
    """ "numpy>=2.0; marker" → "numpy" """
    return requirement.partition(">=")[0].strip()


def imports_of_the_sdk() -> Iterator[tuple[str, str]]:
    """(file within the SDK, dotted name imported) for every import at any depth of every module."""
    for path in sorted(SDK.rglob("*.py")):
        file = path.relative_to(SDK).as_posix()
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                yield from ((file, alias.name) for alias in node.names)
            elif isinstance(node, ast.ImportFrom):
                assert node.level == 0, f"{file}, line {node.lineno}: imports are absolute here"
                yield from ((file, f"{node.module}.{alias.name}") for alias in node.names)


def module_of(file: str) -> str:
    return "safeguard_sdk." + file.removesuffix(".py").replace("/", ".")


def layer(name: str) -> int:
    """Row of LAYERS for "safeguard_sdk.engine.onnx"; a name that the package itself exports is in that of __init__."""
    first = [*name.split("."), "__init__"][1]
    if not (SDK / first).is_dir() and not any(SDK.glob(f"{first}.*")):
        first = "__init__"
    return next((row for row, names in enumerate(LAYERS) if first in names), len(LAYERS))
