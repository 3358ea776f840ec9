"""Your own photos, under your policies or under made-up ones, read into the schema of all data."""

from __future__ import annotations

from pathlib import Path

import pytest
import tiny_world
from test_datasets import sha256, write

from safeguard_sdk import Policy
from training.datasets import DATASETS, read_rows
from training.datasets.flips import flipped
from training.errors import TrainingError
from training.photos import Photo, split_of
from training.policyflip.policies import PolicyFlip
from training.policyflip.voices import Voices
from training.policyflip.wordings import Bank


@pytest.fixture
def pictures(photos) -> dict[str, bytes]:
    """Files of three photos; none is like another."""
    return {name: photos[name].read_bytes() for name in ("chelsea.png", "coffee.png", "rocket.jpg")}


SHOP = """
rules:
  - {id: weapons, forbids: [rockets], allows: [kitchen knives]}
  - {id: pets, forbids: [cats]}
"""


def write_folder(folder: Path, pictures: dict[str, bytes], lines: str, header: str = "path,policy,broken") -> Path:
    write(folder, {**pictures, "shop.yaml": SHOP.encode(), "none.txt": b"Everything is allowed."})
    (folder / "index.csv").write_text(f"{header}\n{lines}", encoding="utf-8")
    return folder


def test_a_folder_has_one_row_for_each_rule_in_the_words_that_a_guard_reads(tmp_path, pictures):
    write_folder(tmp_path, pictures, "rocket.jpg,shop.yaml,weapons\nchelsea.png,shop.yaml,weapons; pets\n"
                                     "rocket.jpg,none.txt,\ncoffee.png,L3,\n")
    rows = [row for split in ("train", "validation", "test") for row in DATASETS["folder"](tmp_path, split)]
    shop = {rule.id: rule.canonical_text for rule in Policy.load(tmp_path / "shop.yaml").rules}
    found = {(row.image.name, row.policy_name): (row.policy, row.label, row.category) for row in rows}
    assert found[("rocket.jpg", "shop/weapons")] == (shop["weapons"], "unsafe", "weapons")
    assert found[("rocket.jpg", "shop/pets")] == (shop["pets"], "safe", None)
    assert {found[("chelsea.png", f"shop/{rule}")][1] for rule in shop} == {"unsafe"}
    assert found[("rocket.jpg", "none/policy")] == ("Everything is allowed.", "safe", None)
    assert {name for image, name in found if image == "coffee.png"} == {
        f"L3/{rule.id}" for rule in Policy.packaged("L3").rules}


def test_a_photo_of_a_folder_is_in_the_split_of_its_hash(tmp_path, pictures):
    write_folder(tmp_path, pictures, "".join(f"{name},none.txt,\n" for name in pictures))
    for split in ("train", "validation", "test"):
        names = {row.image.name for row in DATASETS["folder"](tmp_path, split)}
        assert names == {name for name, data in pictures.items() if split_of(sha256(data)) == split}


@pytest.mark.parametrize("lines, message", [
    ("rocket.jpg,shop.yaml,weapon", r"line 2: shop\.yaml has no rule weapon; its rules are weapons, pets"),
    ("rocket.jpg,shop.yaml,\nrocket.jpg,shop.yaml,pets", r"line 3: rocket\.jpg stands under shop\.yaml twice"),
    ("rocket.jpg,shops.yaml,", r"line 2: .*shops\.yaml: no such file; did you mean 'shop\.yaml'"),
    ("rockets.jpg,shop.yaml,", r"line 2: .*rockets\.jpg"),
    ("rocket.jpg,,", "line 2: .*a folder; name a policy file"),
    ("rocket.jpg,shop.yaml", "line 2: has 2 cells, there are 3 columns .path, policy, broken.; add what is missing"),
    ("rocket.jpg,shop.yaml,weapons,pets", "line 2: has 4 cells, there are 3 columns"),
    ("rocket.jpg,shop.yaml,\n./rocket.jpg,shop.yaml,", r"line 3: \./rocket\.jpg stands under shop\.yaml twice.*line 2"),
    ("rocket.jpg,shop.yaml,\ncopy.jpg,shop.yaml,pets", r"line 3: copy\.jpg stands under .*or a copy of it.*line 2"),
    ("rocket.jpg,shop.yaml,\ncopy.jpg,same.yaml,pets", r"copy\.jpg is unsafe under the rule same/pets, in .*line 2 the "
                                                       "same photo is safe under the same words"),
])
def test_a_mistake_in_the_index_is_an_error_that_names_its_line(tmp_path, pictures, lines, message):
    write(tmp_path, {"copy.jpg": pictures["rocket.jpg"], "same.yaml": b"rules: [{id: pets, forbids: [cats]}]"})
    with pytest.raises(TrainingError, match=message):
        DATASETS["folder"](write_folder(tmp_path, pictures, lines), "train")


def test_policies_may_share_a_rule_that_they_say_the_same_of(tmp_path, pictures):
    write(tmp_path, {"same.yaml": b"rules: [{id: pets, forbids: [cats]}]"})
    write_folder(tmp_path, pictures, "chelsea.png,shop.yaml,pets\nchelsea.png,same.yaml,pets\n")
    rows = [row for split in ("train", "validation", "test") for row in DATASETS["folder"](tmp_path, split)]
    assert [(row.policy_name, row.label) for row in rows] == [
        ("shop/weapons", "safe"), ("shop/pets", "unsafe"), ("same/pets", "unsafe")]


def test_an_empty_index_is_one_clear_line(tmp_path):
    (tmp_path / "index.csv").touch()
    with pytest.raises(TrainingError, match=r"index\.csv: is empty; a folder of photos needs an index\.csv"):
        DATASETS["folder"](tmp_path, "train")


def test_two_folders_of_one_name_both_count(tmp_path, pictures):
    for name in ("one", "two"):
        write_folder(tmp_path / name, pictures, "".join(f"{picture},none.txt,\n" for picture in pictures))
    one, two = (len(read_rows([("folder", tmp_path / name)], "train")) for name in ("one", "two"))
    assert len(read_rows([("folder", tmp_path / "one"), ("folder", tmp_path / "two")], "train")) == one + two == 2 * one


def test_an_index_that_excel_saves_begins_with_a_byte_order_mark_and_is_read(tmp_path, pictures):
    write_folder(tmp_path, pictures, "".join(f"{picture},none.txt,\n" for picture in pictures))
    (tmp_path / "index.csv").write_bytes(b"\xef\xbb\xbf" + (tmp_path / "index.csv").read_bytes())
    assert DATASETS["folder"](tmp_path, "train")


def test_an_index_of_labels_alone_is_for_policyflip(tmp_path, pictures):
    write_folder(tmp_path, pictures, "rocket.jpg,mine,rocket\n", header="path,source,labels")
    with pytest.raises(TrainingError, match=r"no column policy, broken .*; for photos .* policyflip"):
        DATASETS["folder"](tmp_path, "train")


def test_policyflip_has_the_same_photos_under_opposite_policies_and_the_same_rows_every_time():
    photos = [Photo(Path(f"{number}.jpg"), "zoo", frozenset(entry.split(",")), (), f"{number:064x}")
              for number, entry in enumerate(tiny_world.PHOTOS)]
    bank = Bank.read()
    flip = PolicyFlip(tiny_world.photo_world(), bank, Voices.read(bank))
    rows = flipped(flip, photos, families=60)
    assert rows == flipped(flip, photos, families=60)
    labels = [row.label for row in rows]
    assert 0.35 < labels.count("unsafe") / len(labels) < 0.65
    kinds = {photo.path: {row.label for row in rows if row.image == photo.path} for photo in photos}
    assert sum(len(labels) == 2 for labels in kinds.values()) > 0.8 * len(photos)
    assert len({(row.image, row.policy, row.policy_name) for row in rows}) == len(rows)


@pytest.mark.parametrize("index, message", [
    ("path,source,labels\n", "has no photo with labels of the split train; add some"),
    ("path,source,labels\nrocket.jpg,zoo,\n", "has no photo with labels of the split train; add some"),
    ("path,source\nrocket.jpg,zoo\n", "has no column labels")])
def test_policyflip_needs_labels(tmp_path, pictures, index, message):
    write(tmp_path, {**pictures, "index.csv": index.encode()})
    with pytest.raises(TrainingError, match=message):
        DATASETS["policyflip"](tmp_path, "train")


def test_policyflip_reads_labelled_photos(tmp_path):
    with pytest.raises(TrainingError, match=r"index\.csv"):
        DATASETS["policyflip"](tmp_path, "train")


def test_data_without_a_row_of_the_split_are_an_error(tmp_path, pictures):
    write_folder(tmp_path, pictures, "")
    with pytest.raises(TrainingError, match="has no row of the split train"):
        read_rows([("folder", tmp_path)], "train")
