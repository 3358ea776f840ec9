"""SafeEditBench, and the pairs that the paper trains on besides (SafeEditTrain). Both are parts of one gated data set.

    data/test-*.parquet    image, image_path, safety_label, policy_name, policy      SafeEditBench, 601 rows
    train_images/          x.jpg, an unsafe photo, and x_edited.jpg, its safe edit   SafeEditTrain, 901 files

SafeEditTrain comes without policies or labels. Its photos were chosen and edited by LlavaGuard's default policy, so
that is theirs here; some have no other half.
"""

from __future__ import annotations

from pathlib import Path

from training.datasets.llavaguard import DEFAULT_POLICY
from training.datasets.rows import LABELS, Row, photo_sha256, stored_photo
from training.datasets.tables import read_tables
from training.errors import TrainingError

ASK = ("SafeEditBench is gated: ask for it at https://huggingface.co/datasets/tyodd/SafeEditBench, fetch it with "
       "`hf download tyodd/SafeEditBench --repo-type dataset`")
LEVELS = tuple(f"Policy L{n}" for n in range(1, 6))  # its classes 0 to 4
EDITED = "_edited"  # in any case
UNKNOWN = "_safe"
SUFFIXES = (".jpg", ".jpeg", ".png", ".webp")


def read_safeeditbench(folder: Path, split: str) -> list[Row]:
    """Rows of the benchmark, each under one of five policies. It has the split "test" alone."""
    pattern = "data/test-*.parquet"
    if split != "test":
        raise TrainingError(f"SafeEditBench has no split {split}: it is there to test on; train on safeedittrain")
    if not any(folder.glob(pattern)):
        raise TrainingError(f"{folder}/{pattern}: no such file. {ASK}, and put its folder data into {folder}")
    rows = []
    columns = ("image", "image_path", "safety_label", "policy_name", "policy")
    for place, entry in read_tables(folder, pattern, columns):
        label = _name(entry["safety_label"], LABELS, place)  # its classes 0 and 1
        level = _name(entry["policy_name"], LEVELS, place)
        path, digest = stored_photo(entry["image"], folder / "photos", place)
        rows.append(Row(path, digest, entry["policy"], level, label, None,
                        f"safeeditbench:{entry['image_path']}:{level}"))
    return rows


def read_safeedittrain(folder: Path, split: str) -> list[Row]:
    """Rows of the training pairs. They are all of the split "train"."""
    photos = folder / "train_images"
    if split != "train":
        raise TrainingError(f"SafeEditTrain has no split {split}: it is there to train on; test on safeeditbench")
    files = sorted(path for path in photos.glob("*") if path.suffix.lower() in SUFFIXES)
    if not files:
        raise TrainingError(f"{photos}: no photos there. {ASK}, and put its folder train_images into {folder}")
    rows = []
    for path in files:
        source, stem = f"safeedittrain:{path.name}", path.stem.lower()
        if stem.endswith(UNKNOWN):
            raise TrainingError(f"{path}: its name says safe, and edits are called x{EDITED}.jpg; rename it so, or "
                                "to a name without that word if it is an unsafe photo")
        label = "safe" if stem.endswith(EDITED) else "unsafe"
        rows.append(Row(path, photo_sha256(path, source), DEFAULT_POLICY, "default", label, None, source))
    return rows


def _name(value: object, names: tuple[str, ...], place: str) -> str:
    """A class by its name, or by its number where the table has lost the names."""
    if isinstance(value, int) and 0 <= value < len(names):
        return names[value]
    if value in names:
        return value
    raise TrainingError(f"{place}: {value!r} is none of {', '.join(names)}; fetch the table again")
