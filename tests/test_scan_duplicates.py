"""Near duplicates: copies of a photo are found and other photos are not, exactly, whichever way the rows were made."""

from __future__ import annotations

import hashlib
import io
import itertools
import json
import shutil
from pathlib import Path

import duckdb
import numpy as np
import pyarrow
import pyarrow.parquet
import pytest
from image_files import file_of
from PIL import Image
from scan_world import DARK, MeanGuard, by_name, rows_of, write_folder
from typer.testing import CliRunner

from safeguard_sdk import ScanError
from safeguard_sdk.cli import app
from safeguard_sdk.image import PatchGeometry, SquareGeometry, decode_image
from safeguard_sdk.scan import Limits, Options, rescan, scan
from safeguard_sdk.scan.decoding import Decoder
from safeguard_sdk.scan.diff import compare_scans
from safeguard_sdk.scan.duplicates import read_duplicates, schema
from safeguard_sdk.scan.merge import merge_shards
from safeguard_sdk.scan.near import groups_of
from safeguard_sdk.scan.output import ScanFolder
from safeguard_sdk.scan.pdq import MOST_DISTANCE, Pdq, pdq_of, pdq_of_pixels

pytest.importorskip("pdqhash", reason="the extra duplicates is not installed")
NEAR = Options(workers=2, near_duplicates=True)


@pytest.fixture
def guard(tmp_path) -> MeanGuard:
    return MeanGuard(DARK, tmp_path / "bundle")


def opened(photo: Path) -> Image.Image:
    with Image.open(photo) as picture:
        return picture.convert("RGB")


@pytest.fixture(scope="session")
def copies(photos) -> dict[str, bytes]:
    """Four photos; copies of three of them; and a plain sky twice, of which PDQ can say nothing."""
    cat, coffee, china = (opened(photos[name]) for name in ("chelsea.png", "coffee.png", "china.jpg"))
    files = {name: photos[name].read_bytes() for name in ("chelsea.png", "coffee.png", "china.jpg", "rocket.jpg")}
    large = cat.resize((cat.width * 4, cat.height * 4), Image.Resampling.LANCZOS)
    grey = Image.fromarray(np.tile(np.linspace(90, 110, 200, dtype=np.uint8)[:, None, None], (1, 200, 3)))
    return files | {
        "cat-small.jpg": file_of(cat.resize((200, 133)), "JPEG", quality=60),
        "cat-large.jpg": file_of(large, "JPEG"),  # 1804 × 1200, so that it is decoded at half its size
        "cat-again.png": files["chelsea.png"],    # an equal file
        "coffee-dull.jpg": file_of(Image.eval(coffee, lambda value: int(value * 0.8)), "JPEG", quality=40),
        "china.webp": file_of(china.resize((320, 213)), "WEBP"),
        "sky.png": file_of(grey, "PNG"), "sky-again.bmp": file_of(grey, "BMP"),
    }


EXPECTED = {frozenset({"chelsea.png", "cat-small.jpg", "cat-large.jpg", "cat-again.png"}),
            frozenset({"coffee.png", "coffee-dull.jpg"}), frozenset({"china.jpg", "china.webp"})}


def groups(out: Path) -> list[list[dict]]:
    return [list(members) for _, members in read_duplicates(ScanFolder.open(out))]


def names(out: Path) -> set[frozenset[str]]:
    """The file names of each group."""
    return {frozenset(Path(row["path"]).name for row in group) for group in groups(out)}


# What is found

def test_copies_that_were_saved_again_resized_or_darkened_are_found_and_other_photos_are_not(guard, copies, tmp_path):
    folder = write_folder(tmp_path / "photos", copies)
    summary = scan(guard, [folder], tmp_path / "out", NEAR)
    assert names(tmp_path / "out") == EXPECTED
    told = summary["near_duplicates"]
    assert (told["groups"], told["images"], told["compared"], told["not_compared"]) == (3, 8, 9, 2)
    assert [group["images"] for group in told["largest"]] == [4, 2, 2]
    cats = {path for path in folder.iterdir() if path.name in ("chelsea.png", "cat-again.png")}  # the largest files
    assert Path(told["largest"][0]["first"]) in cats


def test_a_row_says_which_group_and_how_far_from_its_first_and_joins_with_the_verdicts(guard, copies, tmp_path):
    scan(guard, [write_folder(tmp_path / "photos", copies)], tmp_path / "out", NEAR)
    rows = by_name(tmp_path / "out")
    for group in groups(tmp_path / "out"):
        assert group[0]["group_id"] == group[0]["id"] and group[0]["distance"] == 0
        for row in group:
            assert row["pdq"] == rows[Path(row["path"]).name]["pdq"]
            assert row["distance"] == (int(row["pdq"], 16) ^ int(group[0]["pdq"], 16)).bit_count() <= MOST_DISTANCE
    joined = duckdb.sql(f"""SELECT label FROM '{tmp_path}/out/duplicates.parquet'
                            JOIN '{tmp_path}/out/parts/*.parquet' USING (id)""").fetchall()
    assert len(joined) == 8 and all(label for label, in joined)
    documented = (Path(__file__).parents[1] / "docs/scan.md").read_text(encoding="utf-8")
    assert all(f"`{name}`" in documented for name in schema().names)


def test_pictures_with_little_in_them_are_not_compared(guard, copies, tmp_path):
    sky = {name: data for name, data in copies.items() if name.startswith("sky")}
    scan(guard, [write_folder(tmp_path / "photos", sky)], tmp_path / "out", NEAR)
    first, second = rows_of(tmp_path / "out")
    assert (int(first["pdq"], 16) ^ int(second["pdq"], 16)).bit_count() <= MOST_DISTANCE  # near, and it means nothing
    assert first["pdq_quality"] < 50 and groups(tmp_path / "out") == []


def test_equal_files_alone_are_no_group(guard, copies, tmp_path):
    scan(guard, [write_folder(tmp_path / "photos", {"a.png": copies["chelsea.png"], "b.png": copies["chelsea.png"]})],
         tmp_path / "out", NEAR)
    assert groups(tmp_path / "out") == []


def test_without_the_option_there_is_no_hash_and_no_file(guard, copies, tmp_path):
    summary = scan(guard, [write_folder(tmp_path / "photos", copies)], tmp_path / "out", Options(workers=2))
    assert {(row["pdq"], row["pdq_quality"]) for row in rows_of(tmp_path / "out")} == {(None, None)}
    assert summary["near_duplicates"] is None and not (tmp_path / "out/duplicates.parquet").exists()


# The hash

GEOMETRIES = [SquareGeometry(side=24, mean=(0.5,) * 3, std=(0.5,) * 3),    # for this JPEGs are decoded at an eighth
              SquareGeometry(side=600, mean=(0.5,) * 3, std=(0.5,) * 3),   # at their whole size
              PatchGeometry(patch=14, min_pixels=56**2, max_pixels=1 << 18, mean=(0.5,) * 3, std=(0.5,) * 3)]


@pytest.mark.parametrize("name", ["cat-large.jpg", "china.webp", "rocket.jpg"])
def test_the_hash_of_a_file_does_not_depend_on_what_the_model_wants_to_see(copies, name):
    """And is that of the whole picture, give or take what decoding a JPEG at half its size changes."""
    found = set()
    for geometry in GEOMETRIES:
        decoder = Decoder(geometry, Limits())
        try:
            decoder.take(copies[name], name)
            found.add(decoder.prepare(name, 1, pdq=True).pdq)
        finally:
            decoder.close()
    (pdq,) = found
    whole = pdq_of_pixels(decode_image(copies[name]))
    assert (int(pdq.hash, 16) ^ int(whole.hash, 16)).bit_count() <= 8 and pdq.is_comparable


def test_an_image_turned_by_its_exif_is_hashed_upright(photos):
    cat = opened(photos["chelsea.png"])
    exif = Image.Exif()
    exif[274] = 6  # stored on its side
    turned = file_of(cat.transpose(Image.Transpose.ROTATE_90), "JPEG", exif=exif, quality=95)
    upright = file_of(cat, "JPEG", quality=95)
    hashes = [int(pdq_of(data, decode_image(data), "cat.jpg").hash, 16) for data in (turned, upright)]
    assert (hashes[0] ^ hashes[1]).bit_count() <= 4


# The search

def random_hashes(count: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 1 << 64, (count, 4), dtype=np.uint64)


def turned(one: np.ndarray, bits: list[int]) -> np.ndarray:
    one = one.copy()
    for bit in bits:
        one[bit // 64] ^= np.uint64(1) << np.uint64(bit % 64)
    return one


def brute_force(hashes: np.ndarray) -> list[int]:
    """Each with each, and each group by its first."""
    group = list(range(len(hashes)))
    for left, right in itertools.combinations(range(len(hashes)), 2):
        if np.bitwise_count(hashes[left] ^ hashes[right]).sum() <= MOST_DISTANCE and group[left] != group[right]:
            low, high = sorted((group[left], group[right]))
            group = [low if one == high else one for one in group]
    return group


def test_the_search_finds_exactly_what_comparing_each_with_each_finds():
    chance, hashes = np.random.default_rng(1), list(random_hashes(150))
    for _ in range(150):  # chains of copies of copies, on both sides of the limit
        from_one = hashes[chance.integers(len(hashes))]
        hashes.append(turned(from_one, chance.choice(256, chance.integers(25, 40), replace=False).tolist()))
    hashes = np.array(hashes)[chance.permutation(len(hashes))]
    found = groups_of(hashes)
    assert found.tolist() == brute_force(hashes)
    assert 150 < len(set(found.tolist())) < 290


@pytest.mark.parametrize("bits, is_near", [
    (range(31), True),                                                         # all in the first words
    ([word * 16 + bit for word in range(16) for bit in (3, 9)][:31], True),    # two in each word, in the last one
    ([word * 16 + bit for word in range(16) for bit in (3, 9)], False),        # two in each word: 32
])
def test_thirty_one_bits_are_near_wherever_they_stand_and_thirty_two_are_not(bits, is_near):
    hashes = random_hashes(50)
    hashes[40] = turned(hashes[7], list(bits))
    assert (groups_of(hashes)[40] == 7) == is_near


def test_many_that_share_a_word_are_compared_some_at_a_time(monkeypatch):
    monkeypatch.setattr("safeguard_sdk.scan.near.PAIRS_AT_ONCE", 100)
    hashes = random_hashes(80)
    hashes[:, 0] = hashes[0, 0]
    hashes[70] = turned(hashes[3], [200, 201])
    assert groups_of(hashes).tolist() == brute_force(hashes)


def test_no_hash_and_one_hash_have_no_company():
    assert groups_of(random_hashes(0)).tolist() == [] and groups_of(random_hashes(1)).tolist() == [0]


# Whichever way the rows were made

def written(out: Path) -> bytes:
    return (out / "duplicates.parquet").read_bytes()


def test_a_scan_in_pieces_in_shards_or_with_retries_has_the_same_groups_to_the_byte(guard, copies, tmp_path):
    folder = tmp_path / "photos"
    write_folder(folder, copies)
    whole = scan(guard, [folder], tmp_path / "whole", NEAR)
    for name in ("coffee-dull.jpg", "china.webp"):
        (folder / name).write_bytes(copies[name][:100])
    in_pieces = Options(workers=1, part_rows=2, near_duplicates=True)
    (folder / "cat-small.jpg").unlink()
    assert scan(guard, [folder], tmp_path / "pieces", in_pieces)["near_duplicates"]["groups"] == 1
    write_folder(folder, copies)
    pieces = scan(guard, [folder], tmp_path / "pieces", in_pieces, retry_failed=True)
    shards = [tmp_path / f"out-{number}" for number in (1, 2, 3)]
    for number, out in enumerate(shards, start=1):
        scan(guard, [folder], out, Options(workers=1, shard=(number, 3), near_duplicates=True))
    merged = merge_shards(tmp_path / "merged", shards)
    assert rows_of(tmp_path / "whole") == rows_of(tmp_path / "pieces") == rows_of(tmp_path / "merged")
    assert written(tmp_path / "whole") == written(tmp_path / "pieces") == written(tmp_path / "merged")
    assert whole["near_duplicates"] == pieces["near_duplicates"] == merged["near_duplicates"]


def test_json_lines_hold_the_same_groups(guard, copies, tmp_path):
    folder = write_folder(tmp_path / "photos", copies)
    for out, file_format in (("parquet", "parquet"), ("lines", "jsonl")):
        scan(guard, [folder], tmp_path / out, Options(workers=2, near_duplicates=True, format=file_format))
    assert groups(tmp_path / "parquet") == groups(tmp_path / "lines") and len(groups(tmp_path / "lines")) == 3
    assert json.loads((tmp_path / "lines/duplicates.jsonl").read_text().splitlines()[0])["distance"] == 0


def test_rescan_has_the_groups_of_the_scan_and_refuses_one_without_hashes(guard, copies, tmp_path):
    folder = write_folder(tmp_path / "photos", copies)
    scan(guard, [folder], tmp_path / "old", Options(workers=2, near_duplicates=True, cache_embeddings=True))
    rescan(guard, tmp_path / "old", tmp_path / "new", NEAR)
    assert written(tmp_path / "new") == written(tmp_path / "old")
    scan(guard, [folder], tmp_path / "plain", Options(workers=2, cache_embeddings=True))
    with pytest.raises(ScanError, match="has no PDQ hashes, as it was made without --near-duplicates; scan again"):
        rescan(guard, tmp_path / "plain", tmp_path / "again", NEAR)


def test_another_setting_is_refused(guard, copies, tmp_path):
    folder = write_folder(tmp_path / "photos", {"cat.png": copies["chelsea.png"]})
    scan(guard, [folder], tmp_path / "out", Options(workers=1))
    with pytest.raises(ScanError, match="was begun with another setting of near_duplicates"):
        scan(guard, [folder], tmp_path / "out", NEAR)


def without_hashes(out: Path) -> Path:
    """Make of a scan what a version before these columns would have written."""
    folder = ScanFolder.open(out)
    facts = json.loads((out / "scan.json").read_text())
    del facts["settings"]["near_duplicates"]
    (out / "scan.json").write_text(json.dumps(facts))
    lines = []
    for part in folder.parts:
        file = out / "parts" / part.file
        pyarrow.parquet.write_table(pyarrow.parquet.read_table(file).drop_columns(["pdq", "pdq_quality"]), file)
        lines.append(json.dumps(vars(part) | {"sha256": hashlib.sha256(file.read_bytes()).hexdigest()}))
    (out / "manifest.jsonl").write_text("\n".join(lines) + "\n")
    return out


def test_a_scan_of_before_these_columns_is_read_gone_on_with_compared_and_merged(guard, copies, tmp_path):
    folder = write_folder(tmp_path / "photos", copies)
    options = Options(workers=1, cache_embeddings=True)
    scan(guard, [folder], tmp_path / "now", options)
    old = without_hashes(Path(shutil.copytree(tmp_path / "now", tmp_path / "old")))
    assert rows_of(old) == rows_of(tmp_path / "now") and compare_scans(old, tmp_path / "now").total == 0
    rescan(guard, old, tmp_path / "again", Options(workers=1, thumbnails=False))
    assert compare_scans(old, tmp_path / "again").total == 0
    merge_shards(tmp_path / "merged", [old])
    assert rows_of(tmp_path / "merged") == rows_of(tmp_path / "now")
    write_folder(folder, {"new.png": file_of(Image.new("RGB", (30, 30), "red"), "PNG")})
    assert scan(guard, [folder], old, options)["last_run"]["rows"] == 1
    assert len(rows_of(old)) == len(copies) + 1
    with pytest.raises(ScanError, match="another setting of near_duplicates"):
        scan(guard, [folder], old, Options(workers=1, cache_embeddings=True, near_duplicates=True))


# Shown

def test_the_report_shows_groups_side_by_side_and_blurred(guard, copies, tmp_path):
    scan(guard, [write_folder(tmp_path / "photos", copies)], tmp_path / "out", NEAR)
    page = (tmp_path / "out/report.html").read_text(encoding="utf-8")
    shown = page.partition("Near duplicates: the 3 largest of 3 groups")[2]
    assert shown.count("<figure>") == shown.count("data:image/jpeg;base64,") == 8
    assert shown.count(">first<") == 3 and "distance " in shown and "filter: blur" in page
    row = by_name(tmp_path / "out")["cat-small.jpg"]
    with Image.open(io.BytesIO(row["thumbnail"])) as thumbnail:
        assert max(thumbnail.size) == 160


def test_without_pdqhash_the_line_says_how_to_install_it(guard, photos, tmp_path, monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ScanError, match=r"pip install 'safeguard\[duplicates\]'"):
        scan(guard, [photos["coffee.png"]], tmp_path / "out", NEAR)


def test_the_command_says_how_many_there_are_and_where_they_stand(copies, tmp_path):
    folder = write_folder(tmp_path / "photos", {name: copies[name] for name in ("coffee.png", "coffee-dull.jpg")})
    command = ["scan", folder, "--policy", "L1", "--out", tmp_path / "out", "--near-duplicates"]
    result = CliRunner().invoke(app, list(map(str, command)))
    assert f"1 group of near duplicates, 2 images: {tmp_path / 'out/duplicates.parquet'}" in result.stdout


@pytest.mark.parametrize("pdq, is_comparable", [(Pdq("0" * 64, 49), False), (Pdq("0" * 64, 50), True)])
def test_hashes_are_compared_from_quality_fifty_on(pdq, is_comparable):
    assert pdq.is_comparable == is_comparable
