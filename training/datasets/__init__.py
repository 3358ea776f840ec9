"""Data to train and test on: photos under policies, in one schema whatever they come from.

    rows = DATASETS["llavaguard"](Path("data/llavaguard"), "train")     # list[Row], see rows.py

Each loader reads the format that its data are published in, from a folder; nothing is downloaded. What is gated and not
there is an error that says where to ask and where to put it. docs/training.md has the formats.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from training.datasets.flips import read_policyflip
from training.datasets.folder import read_folder
from training.datasets.llavaguard import read_llavaguard
from training.datasets.rows import LABELS, Row, balanced
from training.datasets.safeedit import read_safeeditbench, read_safeedittrain
from training.datasets.unsafebench import read_unsafebench
from training.errors import TrainingError

__all__ = ["DATASETS", "LABELS", "Row", "balanced", "read_rows"]

DATASETS: dict[str, Callable[[Path, str], list[Row]]] = {
    "llavaguard": read_llavaguard, "unsafebench": read_unsafebench, "safeeditbench": read_safeeditbench,
    "safeedittrain": read_safeedittrain, "folder": read_folder, "policyflip": read_policyflip,
}


def read_rows(folders: Sequence[tuple[str, Path]], split: str) -> list[Row]:
    """Rows of several data sets, each a name and its folder. Raises TrainingError if there are none at all."""
    rows = [row for name, folder in folders for row in DATASETS[name](folder, split)]
    if not rows:
        raise TrainingError(f"{', '.join(str(folder) for _, folder in folders) or 'no data'}: has no row of the split "
                            f"{split}")
    return rows
