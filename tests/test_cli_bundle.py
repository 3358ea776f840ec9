"""`safeguard bundle`: what a bundle is, and whether it works here."""

import json
import shutil

import pytest
from typer.testing import CliRunner

from safeguard_sdk import Bundle
from safeguard_sdk.bundle import EMBEDDED
from safeguard_sdk.cli import app


def run(*arguments):
    return CliRunner().invoke(app, ["bundle", *map(str, arguments)])


def test_info_says_what_the_manifest_says():
    result = run("info", EMBEDDED, "--json")
    facts, bundle = json.loads(result.stdout), Bundle.embedded()
    assert (result.exit_code, facts["sha256"], facts["architecture"]) == (0, bundle.sha256, "tags")
    assert facts["parity"] == bundle.manifest["parity"]
    assert facts["files"] == {file["file"]: file["sha256"] for file in bundle.manifest["files"]}
    assert any(line.split() == ["architecture", "tags"] for line in run("info", EMBEDDED).stdout.splitlines())


def test_verify_loads_every_graph_and_judges_a_picture():
    result = run("verify", EMBEDDED)
    assert result.exit_code == 0, result.stderr
    lines = result.stdout.splitlines()
    assert lines[0].endswith(f"sha256 {Bundle.embedded().sha256}")
    assert {line for line in lines if "Provider" in line} == {
        f"{graph}: CPUExecutionProvider" for graph in ("vision", "embed", "decoder")}
    assert lines[-1].startswith("judges: a score of 0.")


@pytest.mark.parametrize("command", ["info", "verify"])
def test_an_altered_file_is_one_line_and_status_2(command, tmp_path):
    folder = shutil.copytree(EMBEDDED, tmp_path / "bundle")
    data = bytearray((folder / "embed-0.bin").read_bytes())
    data[-1] ^= 1
    (folder / "embed-0.bin").write_bytes(data)
    result = run(command, folder)
    assert result.exit_code == 2
    assert "embed-0.bin: sha256 is" in result.stderr and len(result.stderr.splitlines()) == 1


def test_verify_refuses_a_provider_that_is_not_here():
    result = run("verify", EMBEDDED, "--provider", "npu")
    assert result.exit_code == 2
    assert "unknown execution provider 'npu'; known: cpu, cuda, tensorrt" in result.stderr
