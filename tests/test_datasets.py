"""Data sets in the formats that they are published in, written here with real photos, and read into one schema."""

from __future__ import annotations

import hashlib
import json
from dataclasses import replace
from pathlib import Path

import datasets
import pyarrow
import pyarrow.parquet
import pytest

from safeguard_sdk.prompt import PROMPTS, Answer
from training.datasets import DATASETS, Row, balanced
from training.datasets.captions import read_captions
from training.datasets.llavaguard import DEFAULT_POLICY
from training.datasets.unsafebench import CATEGORIES, POLICY
from training.errors import TrainingError

LLAVAGUARD = PROMPTS["llavaguard"]
SAFE_EXCEPTION = DEFAULT_POLICY.replace("O6: Weapons", "O6: Category O6 is declared as non-violating. Weapons")


@pytest.fixture
def pictures(photos) -> dict[str, bytes]:
    """Files of three photos; none is like another."""
    return {name: photos[name].read_bytes() for name in ("chelsea.png", "coffee.png", "rocket.jpg")}


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def write(folder: Path, files: dict[str, bytes]) -> Path:
    for name, data in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(data)
    return folder


# --- LlavaGuard -------------------------------------------------------------------------------------------------------
def llavaguard_entry(name: str, image: str, policy: str, rating: str) -> dict:
    prompt = LLAVAGUARD.prefix(policy) + "<image>" + LLAVAGUARD.suffix
    answer = LLAVAGUARD.format(Answer(rating.lower(), "O6: Weapons or Substance Abuse", "A rocket."))
    return {"id": name, "image": image, "score": "Generally Acceptable", "category": "O6: Weapons or Substance Abuse",
            "final-assessment": "Compliant", "conversations": [{"from": "human", "value": prompt},
                                                               {"from": "gpt", "value": answer}]}


def write_llavaguard(folder: Path, pictures: dict[str, bytes], *entries: dict, file: str = "train.json") -> Path:
    write(folder, {f"images/{name}": data for name, data in pictures.items()})
    (folder / file).write_text(json.dumps(entries), encoding="utf-8")
    return folder


def test_llavaguard_has_a_row_for_each_entry_with_the_policy_out_of_its_prompt(tmp_path, pictures):
    write_llavaguard(tmp_path, pictures,
                     llavaguard_entry("12_v2_rocket", "images/rocket.jpg", DEFAULT_POLICY, "Unsafe"),
                     llavaguard_entry("12_v2_rocket_v2", "images/rocket.jpg", SAFE_EXCEPTION, "Safe"),
                     llavaguard_entry("13_v3_a", "images/coffee.png", DEFAULT_POLICY, "Safe"))
    rows = DATASETS["llavaguard"](tmp_path, "train")
    rocket = sha256(pictures["rocket.jpg"])
    assert rows[0] == Row(tmp_path / "images/rocket.jpg", rocket, DEFAULT_POLICY, "default", "unsafe",
                          "O6: Weapons or Substance Abuse", "llavaguard:12_v2_rocket")  # _v2 within it is no variant
    assert (rows[1].label, rows[1].policy_name, rows[1].policy) == ("safe", "v2", SAFE_EXCEPTION)
    assert rows[1].image_sha256 == rocket and rows[2].image_sha256 != rocket
    assert (rows[2].policy_name, rows[2].category) == ("v3_a", "O6: Weapons or Substance Abuse")  # though it is safe


def test_the_default_policy_of_llavaguard_is_the_published_one():
    prompt = LLAVAGUARD.prefix(DEFAULT_POLICY) + "<image>" + LLAVAGUARD.suffix
    assert len(prompt) == 5521
    assert sha256(prompt.encode()) == "701d65ed46afe0bc0f0fb99c8890a19ed3b9ace709198d28a8d69ea17e8d42c5"


@pytest.mark.parametrize("split, file", [("train", "train.json"), ("validation", "eval.json"), ("test", "test.json")])
def test_every_split_of_llavaguard_has_its_file(tmp_path, pictures, split, file):
    write_llavaguard(tmp_path, pictures, llavaguard_entry("1", "images/rocket.jpg", DEFAULT_POLICY, "Safe"), file=file)
    assert len(DATASETS["llavaguard"](tmp_path, split)) == 1


@pytest.mark.parametrize("damage, message", [
    (lambda entry: entry.pop("conversations"), "entry 0: lacks 'conversations'"),
    (lambda entry: entry.update(image="images/none.jpg"), "none.jpg"),
    (lambda entry: entry["conversations"][0].update(value="Is this safe? <image>"), "is not of template json-v24"),
    (lambda entry: entry["conversations"][1].update(value='{"rating": "Review Needed"}'), "answer cannot be read"),
    (lambda entry: entry["conversations"][0].update(value=None), "entry 0: its prompt is None, must be text"),
    (lambda entry: entry["conversations"][1].update(value={"rating": "Safe"}), "entry 0: its answer is .*, must be te"),
    (lambda entry: entry.update(id=7), "entry 0: its id is 7, must be text"),
    (lambda entry: entry.update(image=None), "entry 0: its image is None, must be text"),
])
def test_an_entry_of_another_form_is_an_error_that_names_it(tmp_path, pictures, damage, message):
    entry = llavaguard_entry("1", "images/rocket.jpg", DEFAULT_POLICY, "Safe")
    damage(entry)
    with pytest.raises(TrainingError, match=message):
        DATASETS["llavaguard"](write_llavaguard(tmp_path, pictures, entry), "train")


@pytest.mark.parametrize("content", ['{"id": "1"}', "7", "null"])
def test_llavaguard_is_a_list_of_entries(tmp_path, content):
    (tmp_path / "train.json").write_text(content, encoding="utf-8")
    with pytest.raises(TrainingError, match=r"train\.json: holds .* and no list of entries"):
        DATASETS["llavaguard"](tmp_path, "train")


# --- UnsafeBench ------------------------------------------------------------------------------------------------------
def write_table(path: Path, features: dict, **columns: list) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    datasets.Dataset.from_dict(columns, features=datasets.Features(features)).to_parquet(str(path))


def embedded(pictures: dict[str, bytes]) -> list[dict]:
    return [{"bytes": data, "path": name} for name, data in pictures.items()]


def write_unsafebench(folder: Path, pictures: dict[str, bytes], labels=("Unsafe", "Safe", "Safe"),
                      split: str = "train") -> None:
    text = datasets.Value("string")
    write_table(folder / f"data/{split}-00000-of-00001.parquet",
                {"image": datasets.Image(), "safety_label": text, "category": text, "source": text},
                image=embedded(pictures), safety_label=list(labels), category=["Violence", "Spam", "Self-harm"],
                source=["Lexica", "Laion5B", "Laion5B"])


def test_unsafebench_has_one_policy_and_keeps_its_photos_as_they_are_embedded(tmp_path, pictures):
    write_unsafebench(tmp_path, pictures)
    rows = DATASETS["unsafebench"](tmp_path, "train")
    assert [(row.label, row.category) for row in rows] == [("unsafe", "Violence"), ("safe", "Spam"),
                                                           ("safe", "Self-harm")]
    assert {row.policy for row in rows} == {POLICY} and POLICY.count(". ") > 11
    assert [row.image.read_bytes() for row in rows] == list(pictures.values())
    assert [row.image_sha256 for row in rows] == list(map(sha256, pictures.values()))


def test_the_policy_of_unsafebench_defines_its_eleven_categories():
    for number, category in enumerate(CATEGORIES, start=1):
        assert f"{number}. {'Adult' if category == 'Sexual' else category}: " in POLICY


def test_photos_of_a_table_are_written_once(tmp_path, pictures):
    write_unsafebench(tmp_path, pictures)
    first = DATASETS["unsafebench"](tmp_path, "train")
    written = {path: path.stat().st_mtime_ns for path in (tmp_path / "photos").iterdir()}
    assert DATASETS["unsafebench"](tmp_path, "train") == first
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "photos").iterdir()} == written and len(written) == 3


def test_a_label_that_unsafebench_does_not_have_is_an_error(tmp_path, pictures):
    write_unsafebench(tmp_path, pictures, labels=("Unsafe", "safe", "Safe"))
    with pytest.raises(TrainingError, match="row 1: label 'safe'"):
        DATASETS["unsafebench"](tmp_path, "train")


def test_a_table_that_names_its_photos_and_does_not_hold_them_is_an_error(tmp_path):
    path = tmp_path / "data/train-0.parquet"
    path.parent.mkdir()
    image = pyarrow.array([{"bytes": None, "path": "x.jpg"}],
                          pyarrow.struct([("bytes", pyarrow.binary()), ("path", pyarrow.string())]))
    pyarrow.parquet.write_table(pyarrow.table({"image": image, "safety_label": ["Safe"], "category": ["Spam"]}), path)
    with pytest.raises(TrainingError, match=r"image is the path 'x\.jpg' and not embedded"):
        DATASETS["unsafebench"](tmp_path, "train")


def write_raw(path: Path, metadata: bytes = b"{}", **changes) -> None:
    """A table of one row of SafeEditBench as no library would write it."""
    path.parent.mkdir(parents=True)
    row = {"image": {"bytes": b"photo", "path": "x.jpg"}, "image_path": "x.jpg", "safety_label": 0, "policy_name": 0,
           "policy": "No rockets.", "category": "Spam"} | changes
    table = pyarrow.Table.from_pylist([row]).replace_schema_metadata({b"huggingface": metadata})
    pyarrow.parquet.write_table(table, path)


@pytest.mark.parametrize("name, split, changes, message", [
    ("safeeditbench", "test", {"image": None}, "row 0: its image is None, must be the bytes of a file"),
    ("safeeditbench", "test", {"policy": None}, "safeeditbench:x.jpg:Policy L1: its policy is None, must be text"),
    ("safeeditbench", "test", {"policy_name": [1]}, r"row 0: \[1\] is none of Policy L1"),
    ("safeeditbench", "test", {"metadata": b"{"}, "its metadata `huggingface` are not those of the library datasets"),
    ("safeeditbench", "test", {"metadata": b'{"info": []}'}, "its metadata `huggingface` are not"),
    ("safeeditbench", "test", {"metadata": b'{"info": {"features": {"policy": {"_type": "ClassLabel"}}}}'},
     "its metadata `huggingface` are not .*KeyError: 'names'"),
    ("unsafebench", "train", {"safety_label": ["Safe"]}, r"row 0: label \['Safe'\] or category 'Spam' is none"),
    ("unsafebench", "train", {"safety_label": "Safe", "image": "x.jpg"}, "row 0: its image is 'x.jpg', must be the b"),
])
def test_a_table_of_another_form_is_an_error_that_names_row_and_column(tmp_path, name, split, changes, message):
    write_raw(tmp_path / f"data/{split}-0.parquet", **changes)
    with pytest.raises(TrainingError, match=message) as caught:
        DATASETS[name](tmp_path, split)
    assert "\n" not in str(caught.value)


def test_a_table_that_ends_in_its_middle_is_an_error_that_names_it(tmp_path):
    path = tmp_path / "data/test-0.parquet"
    write_raw(path)
    data = bytearray(path.read_bytes())
    data[4:40] = bytes(36)  # the pages; the footer is whole
    path.write_bytes(data)
    with pytest.raises(TrainingError, match=r"test-0\.parquet: cannot be read as parquet .*; fetch it again"):
        DATASETS["safeeditbench"](tmp_path, "test")


# --- SafeEditBench and SafeEditTrain ----------------------------------------------------------------------------------
LEVELS = [f"Policy L{number}" for number in range(1, 6)]


def write_safeeditbench(folder: Path, pictures: dict[str, bytes], with_names: bool) -> None:
    """A photo and its edit under two policies; the numbers of classes with or without their names."""
    rocket, coffee = ({"bytes": pictures[name], "path": name} for name in ("rocket.jpg", "coffee.png"))
    text = datasets.Value("string")
    features = {"image": datasets.Image(), "image_path": text, "safety_label": datasets.ClassLabel(names=[
        "safe", "unsafe"]), "policy_name": datasets.ClassLabel(names=LEVELS), "policy": text}
    if not with_names:
        features |= {"safety_label": datasets.Value("int64"), "policy_name": datasets.Value("int64")}
    write_table(folder / "data/test-00000-of-00001.parquet", features,
                image=[rocket, coffee, rocket, coffee], image_path=["7.jpg", "7_edited.jpg"] * 2,
                safety_label=[1, 0, 0, 0], policy_name=[4, 4, 0, 0],
                policy=["No rockets.", "No rockets.", "All is allowed.", "All is allowed."])


@pytest.mark.parametrize("with_names", [True, False])
def test_safeeditbench_has_one_photo_under_several_policies(tmp_path, pictures, with_names):
    write_safeeditbench(tmp_path, pictures, with_names)
    rows = DATASETS["safeeditbench"](tmp_path, "test")
    assert [(row.policy_name, row.policy, row.label) for row in rows] == [
        ("Policy L5", "No rockets.", "unsafe"), ("Policy L5", "No rockets.", "safe"),
        ("Policy L1", "All is allowed.", "safe"), ("Policy L1", "All is allowed.", "safe")]
    assert rows[0].image_sha256 == rows[2].image_sha256 == sha256(pictures["rocket.jpg"])
    assert rows[1].source == "safeeditbench:7_edited.jpg:Policy L5"


def test_safeedittrain_has_unsafe_photos_and_their_safe_edits_under_the_policy_that_they_were_edited_by(
        tmp_path, pictures):
    write(tmp_path, {"train_images/7.jpg": pictures["rocket.jpg"], "train_images/7_edited.jpg": pictures["coffee.png"],
                     "train_images/8_edited.jpg": pictures["chelsea.png"]})
    rows = DATASETS["safeedittrain"](tmp_path, "train")
    assert [(row.source, row.label) for row in rows] == [
        ("safeedittrain:7.jpg", "unsafe"), ("safeedittrain:7_edited.jpg", "safe"),
        ("safeedittrain:8_edited.jpg", "safe")]
    assert {row.policy for row in rows} == {DEFAULT_POLICY}


def test_an_edit_is_known_by_its_name_in_any_case(tmp_path, pictures):
    write(tmp_path, {"train_images/c.jpg": pictures["rocket.jpg"], "train_images/c_Edited.jpg": pictures["coffee.png"]})
    assert [row.label for row in DATASETS["safeedittrain"](tmp_path, "train")] == ["unsafe", "safe"]


def test_a_training_photo_that_calls_itself_safe_is_an_error(tmp_path, pictures):
    write(tmp_path, {"train_images/c_Safe.jpg": pictures["rocket.jpg"]})
    with pytest.raises(TrainingError, match=r"c_Safe\.jpg: its name says safe, and edits are called x_edited\.jpg"):
        DATASETS["safeedittrain"](tmp_path, "train")


@pytest.mark.parametrize("name, split, other", [
    ("safeeditbench", "train", "train on safeedittrain"), ("safeedittrain", "test", "test on safeeditbench")])
def test_the_benchmark_is_not_trained_on_and_the_training_pairs_are_not_tested_on(tmp_path, name, split, other):
    with pytest.raises(TrainingError, match=other):
        DATASETS[name](tmp_path, split)


# --- Captions, for stage 1 --------------------------------------------------------------------------------------------
def write_captions(folder: Path, *rows: tuple) -> Path:
    """As `python -m training recaption` writes them, in two parts."""
    names = ("path", "sha256", "status", "recaption", "caption", "kind")
    folder.mkdir()
    for number, part in enumerate((rows[:1], rows[1:])):
        columns = {name: [row[place] for row in part] for place, name in enumerate(names)}
        schema = pyarrow.schema([(name, pyarrow.string()) for name in names])
        pyarrow.parquet.write_table(pyarrow.table(columns, schema), folder / f"part-{number:05}.parquet")
    return folder


def test_captions_that_were_rejected_or_failed_are_not_trained_on(tmp_path, pictures):
    photos = write(tmp_path / "photos", {f"a/{name}": data for name, data in pictures.items()})
    table = write_captions(
        tmp_path / "recaptions",
        ("a/rocket.jpg", sha256(pictures["rocket.jpg"]), "restored", "A rocket burns.", "A rocket.", None),
        ("a/coffee.png", sha256(pictures["coffee.png"]), "unchanged", "A cup.", "A cup.", None),
        ("a/chelsea.png", sha256(pictures["chelsea.png"]), "rejected", None, "A cat.", "lost_nouns"),
        ("a/none.png", None, "failed", None, None, "not_found"))
    assert [(caption.image, caption.text) for caption in read_captions(table, photos)] == [
        (photos / "a/rocket.jpg", "A rocket burns."), (photos / "a/coffee.png", "A cup.")]
    with pytest.raises(TrainingError, match="name the folder of its photos with --photos"):
        read_captions(table, None)


def test_a_photo_that_has_changed_since_it_was_captioned_is_an_error(tmp_path, pictures):
    table = write_captions(tmp_path / "recaptions", ("x.jpg", "0" * 64, "restored", "A rocket.", "A rocket.", None))
    with pytest.raises(TrainingError, match=r"x\.jpg is another file than the one that was captioned"):
        read_captions(table, write(tmp_path / "photos", {"x.jpg": pictures["rocket.jpg"]}))


def test_a_caption_without_the_name_of_its_photo_is_an_error(tmp_path):
    table = write_captions(tmp_path / "recaptions", (None, "0" * 64, "restored", "A rocket.", "A rocket.", None))
    with pytest.raises(TrainingError, match="row 0: its path is None, must be text"):
        read_captions(table, tmp_path)


def test_captions_of_the_official_file_lie_beside_it(tmp_path, pictures):
    write(tmp_path, pictures)
    file = tmp_path / "captions.jsonl"
    file.write_text('{"image": "rocket.jpg", "answer": " A rocket. "}\n\n{"image": "coffee.png", "answer": "A cup."}\n',
                    encoding="utf-8")
    assert [(caption.image.name, caption.text) for caption in read_captions(file, None)] == [
        ("rocket.jpg", "A rocket."), ("coffee.png", "A cup.")]
    file.write_text('{"image": "rocket.jpg", "answer": ""}', encoding="utf-8")
    with pytest.raises(TrainingError, match=r"line 1: its caption is '', must be text"):
        read_captions(file, None)
    file.write_text('{"image": "rocket.jpg"}', encoding="utf-8")
    with pytest.raises(TrainingError, match="line 1: is no JSON object with the texts image and answer"):
        read_captions(file, None)
    file.write_text("", encoding="utf-8")
    with pytest.raises(TrainingError, match="has no captions to train on"):
        read_captions(file, None)


# --- All of them ------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("name, split, asked, put", [
    ("llavaguard", "train", "huggingface.co/datasets/AIML-TUDA/LlavaGuard", "train.json"),
    ("unsafebench", "train", "huggingface.co/datasets/yiting/UnsafeBench", "data/train-"),
    ("safeeditbench", "test", "huggingface.co/datasets/tyodd/SafeEditBench", "data/test-"),
    ("safeedittrain", "train", "huggingface.co/datasets/tyodd/SafeEditBench", "train_images"),
])
def test_gated_data_that_are_missing_are_an_error_that_says_where_to_ask_and_where_to_put_them(
        tmp_path, name, split, asked, put):
    with pytest.raises(TrainingError) as error:
        DATASETS[name](tmp_path / "nowhere", split)
    message = str(error.value)
    assert asked in message and put in message and str(tmp_path / "nowhere") in message and "\n" not in message


def test_json_may_begin_with_a_byte_order_mark(tmp_path, pictures):
    write_llavaguard(tmp_path, pictures, llavaguard_entry("1", "images/rocket.jpg", DEFAULT_POLICY, "Safe"))
    write(tmp_path, {"rocket.jpg": pictures["rocket.jpg"]})
    (tmp_path / "captions.jsonl").write_text('{"image": "rocket.jpg", "answer": "A rocket."}', encoding="utf-8")
    for name in ("train.json", "captions.jsonl"):
        (tmp_path / name).write_bytes(b"\xef\xbb\xbf" + (tmp_path / name).read_bytes())
    assert len(DATASETS["llavaguard"](tmp_path, "train")) == len(read_captions(tmp_path / "captions.jsonl", None)) == 1


def row(photo: str, policy: str, label: str) -> Row:
    return Row(Path(photo), photo, policy, policy, label, None, f"{photo} {policy}")


def test_balanced_rows_have_as_many_of_each_label_and_photos_keep_both_sides():
    rows = [row("a", "p", "safe"), row("a", "q", "unsafe"), row("a", "r", "unsafe"), row("b", "p", "safe"),
            *(row(f"c{number}", "q", "unsafe") for number in range(9))]
    for seed in range(5):
        kept = balanced(rows, seed)
        assert [row.label for row in kept].count("safe") == [row.label for row in kept].count("unsafe") == 2
        assert {row.label for row in kept if row.image_sha256 == "a"} == {"safe", "unsafe"}
        assert kept == balanced(rows, seed) == sorted(kept, key=rows.index)
    assert len({tuple(row.source for row in balanced(rows, seed)) for seed in range(5)}) > 1  # what goes is chance


def test_rows_of_one_label_cannot_be_balanced():
    with pytest.raises(TrainingError, match="all 2 rows are unsafe; add photos or policies with the other verdict"):
        balanced([row("a", "p", "unsafe"), row("b", "p", "unsafe")], seed=0)


@pytest.mark.parametrize("changes", [{"label": "Safe"}, {"label": "unknown"}, {"policy": " \n"}, {"policy": None}])
def test_a_row_without_a_known_label_or_a_policy_cannot_be_made(changes):
    with pytest.raises(TrainingError, match="a p: its"):
        replace(row("a", "p", "safe"), **changes)
