"""What the README shows is true: its first block runs as it stands, its commands and files exist."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image
from skimage import data

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")


def test_the_first_block_runs_as_it_stands(tmp_path):
    Image.fromarray(data.astronaut()).save(tmp_path / "upload.jpg")
    block = re.search(r"```python\n(.*?)```", README, re.DOTALL)[1]
    run = subprocess.run([sys.executable, "-c", block], cwd=tmp_path, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    assert re.fullmatch(r"(safe|review|unsafe) [01]\.\d+ (None|policy)\n", run.stdout)


def test_the_policy_it_shows_is_one(tmp_path):
    from safeguard_sdk import Policy
    block = re.search(r"```yaml\n(.*?)```", README, re.DOTALL)[1]
    assert [rule.id for rule in Policy.from_yaml(block).rules] == ["weapons", "tobacco"]


@pytest.mark.parametrize("link", re.findall(r"\]\(([^)#:]+)\)", README))
def test_every_file_it_links_to_exists(link):
    assert (ROOT / link).is_file()


@pytest.mark.parametrize("folder", re.findall(r"^\| `(\w+)/` \|", README, re.MULTILINE))
def test_every_folder_it_names_exists(folder):
    assert (ROOT / folder).is_dir()


@pytest.mark.parametrize("target", re.findall(r"^make (\w+)", README, re.MULTILINE))
def test_every_make_target_it_names_exists(target):
    assert re.search(rf"^{target}:", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE)
