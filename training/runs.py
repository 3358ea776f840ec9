"""Folders of runs: a run goes on as what it was begun as, and its files are there whole or not at all."""

from __future__ import annotations

import json
from pathlib import Path

from safeguard_sdk.durable import open_durably
from training.errors import TrainingError

RUN = "run.json"


def check_same_run(folder: Path, run: dict) -> bool:
    """Whether `folder` holds a run: this one. Raises TrainingError naming what differs from it."""
    path = folder / RUN
    if not path.is_file():
        return False
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise TrainingError(f"{path}: is not JSON ({error}); delete {folder} to start anew") from error
    differing = [key for key in run if found.get(key) != run[key]]
    if differing:
        raise TrainingError(f"{folder}: was begun with another {differing[0]} ({found.get(differing[0])!r:.80}, now "
                            f"{run[differing[0]]!r:.80}); give another --out, or delete that folder to start anew")
    return True


def save_whole(path: Path, state: dict) -> None:
    """Write weights: a stop in between leaves the former file whole."""
    import torch  # a recaption by an endpoint does without
    with open_durably(path) as file:
        torch.save(state, file)
