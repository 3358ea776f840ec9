"""Policies made up over labelled photos, the same photo under opposite ones (training/policyflip), as rows."""

from __future__ import annotations

import random
from pathlib import Path

from training.assets import fetch_wordnet
from training.datasets.rows import Row
from training.errors import TrainingError
from training.photos import Photo, read_photos
from training.policyflip.concepts import Concepts, Heldout
from training.policyflip.policies import PolicyFlip
from training.policyflip.scenes import PhotoWorld
from training.policyflip.voices import Voices
from training.policyflip.wordings import Bank
from training.wordnet import WordNet

ASSETS = Path("runs/assets")  # where WordNet is kept, once it is fetched
SEED = 0


def read_policyflip(folder: Path, split: str) -> list[Row]:
    """Rows over the photos of a split (by hash), one family of opposite policies for each; the same every time."""
    photos = [photo for photo in read_photos(folder) if photo.split == split]
    if not any(photo.labels for photo in photos):
        raise TrainingError(f"{folder}/index.csv: has no photo with labels of the split {split}; add some, "
                            "policies are made up over labels")
    concepts = Concepts.read(WordNet.read(fetch_wordnet(ASSETS)))
    heldout = Heldout.read(concepts)
    bank = Bank.read()
    world = PhotoWorld(concepts, heldout, [concepts.shown_in(photo) for photo in photos], lambda row, rng: [])
    return flipped(PolicyFlip(world, bank, Voices.read(bank)), photos, families=len(photos))


def flipped(flip: PolicyFlip, photos: list[Photo], families: int) -> list[Row]:
    """Rows of `families` families of `flip`, whose scenes are numbers of `photos`."""
    rng = random.Random(SEED)
    rows = []
    for number in range(families):
        for turn, pack in enumerate(flip.family(rng)):
            broken_by_photo = dict(zip((scene.photo for scene in pack.scenes), pack.broken, strict=True))  # once each
            for place, broken in broken_by_photo.items():
                photo = photos[place]
                rows.append(Row(photo.path, photo.sha256, pack.text, f"{number}/{turn}",
                                "unsafe" if broken else "safe", pack.family, f"policyflip:{number}:{turn}"))
    return rows
