"""A finished scan of real photos by the embedded model, and a service that has it reviewed."""

from __future__ import annotations

import shutil
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
from serve_world import DARK, policy_files, running, tiny_engine

from safeguard_sdk import Guard, Policy
from safeguard_sdk.scan import Options, scan
from safeguard_sdk.serve.app import create_app

POLICY = """
name: pets
rules:
  - {id: animals, forbids: [cats, dogs], review_at: 0.3, unsafe_at: 0.6}
  - {id: drinks, forbids: [coffee, tea]}
  - {id: people, forbids: [people, faces], review_at: 0.4, unsafe_at: 0.8}
"""
FILES = ("chelsea.png", "coffee.png", "china.jpg", "rocket.jpg")
COPY, MEMBER, BROKEN = "copy of coffee.png", "pets/flower.jpg", "broken.jpg"


def scan_photos(folder: Path, photos: dict[str, Path]) -> Path:
    """Files, an equal one, a member of an archive, and one that cannot be judged; the folder of rows beside them."""
    source = folder / "in"
    source.mkdir()
    for name in FILES:
        shutil.copy(photos[name], source / name)
    shutil.copy(photos["coffee.png"], source / COPY)
    with zipfile.ZipFile(source / "old.zip", "w") as archive:
        archive.write(photos["flower.jpg"], MEMBER)
    (source / BROKEN).write_bytes(b"\xff\xd8\xff\xe0 and no more")
    scan(Guard(Policy.from_yaml(POLICY)), [source], folder / "out", Options(workers=1))
    return folder / "out"


@contextmanager
def reviewing(out: Path, folder: Path) -> Iterator[httpx.Client]:
    """A client of a service that has a scan reviewed; its own engine is one that costs nothing."""
    app = create_app(tiny_engine(folder / "bundle"), policy_files(folder, dark=DARK), review=out)
    with running(app) as client:
        yield client
