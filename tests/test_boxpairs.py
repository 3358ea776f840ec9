"""Pairs out of labelled photos: what is known of them under the packaged policies, and the table they become."""

import json
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

pytest.importorskip("skimage", reason="the benchmark needs the extra bench")
from benchmarks.boxpairs.__main__ import main
from benchmarks.boxpairs.build import build_table
from benchmarks.boxpairs.table import as_table
from benchmarks.boxpairs.truth import THINGS, thing_in
from benchmarks.document import put_into
from benchmarks.errors import BenchmarkError
from benchmarks.safeeditbench.rows import Prediction, read_rows
from benchmarks.safeeditbench.score import score
from safeguard_sdk import Policy
from training.photos import Photo


@pytest.mark.parametrize("thing", THINGS, ids=lambda thing: thing.name)
def test_every_verdict_stands_in_the_policy_that_it_is_drawn_from(thing):
    for level, verdict in thing.levels.items():
        rules = Policy.packaged(level).rules
        forbidden = {phrase for rule in rules for phrase in rule.forbids}
        allowed = {phrase for rule in rules for phrase in rule.allows}
        if verdict.original == "unsafe":
            assert verdict.phrase in forbidden
        elif verdict.phrase:
            assert verdict.phrase in allowed and verdict.phrase not in forbidden
        else:  # no rule speaks of it: those of L2 are about bodies and sex
            assert level == "L2" and [rule.id for rule in rules] == ["gore", "sex"]


def photo(source: str, labels: str, boxes=(("x", (0.5, 0.5, 0.2, 0.2)),), name: str = "a.jpg") -> Photo:
    return Photo(Path(name), source, frozenset(labels.split(", ")), boxes, "0" * 64)


@pytest.mark.parametrize("one, name", [
    (photo("liquor_bottle", "alcohol, bottle"), "alcohol"), (photo("rf_weapon", "gun, rifle"), "guns"),
    (photo("rf_weapon", "knife"), None),              # a weapon or a tool: nobody knows
    (photo("military_vehicle", "military truck"), None),
    (photo("coco", "wine glass, person"), None),      # an unknown glass among people
    (photo("liquor_bottle", "alcohol", boxes=()), None),
    (photo("playing_cards", "playing card", name="IMG_2522.JPG.jpg"), None)])
def test_photos_of_which_the_truth_is_not_known_are_left_out(one, name):
    thing = thing_in(one)
    assert (thing and thing.name) == name


@pytest.fixture(scope="module")
def table(shared_data, tmp_path_factory):
    out = tmp_path_factory.mktemp("boxpairs")
    build_table(shared_data("photos"), out, each=1)
    return out


def test_the_table_has_a_pair_of_each_thing_with_the_truth_of_its_levels(table):
    rows = read_rows(table)
    truth = {(row.category, row.policy_name[-2:], row.role): row.label for row in rows}
    assert {category for category, _, _ in truth} <= {thing.name for thing in THINGS}
    for level, label in (("L1", "safe"), ("L2", "safe"), ("L3", "safe"), ("L4", "unsafe"), ("L5", "unsafe")):
        assert truth["alcohol", level, "original"] == label and truth["alcohol", level, "edited"] == "safe"
    assert truth["guns", "L5", "original"] == "unsafe" and ("guns", "L5", "edited") not in truth
    assert ("guns", "L3", "original") not in truth and ("medicine", "L5", "original") not in truth
    assert {row.policy for row in rows if row.policy_name == "Policy L4"} == {Policy.packaged("L4").canonical_text}


def test_photos_that_nano_was_trained_on_are_not_in_it(table):
    from training.photos import split_of
    pairs = [json.loads(line) for line in (table / "pairs.jsonl").read_text(encoding="utf-8").splitlines()]
    assert pairs and {split_of(pair["photo_sha256"]) for pair in pairs} == {"test"}
    assert all(pair["licence"] for pair in pairs)


def test_a_folder_that_holds_no_labelled_photos_is_an_error(tmp_path):
    with pytest.raises(BenchmarkError, match="cannot be read as labelled photos"):
        build_table(tmp_path, tmp_path / "out")


def test_the_table_of_scores_has_a_line_for_each_system_and_for_guards_that_do_not_look(table, tmp_path):
    rows = read_rows(table)
    right = score(rows, [Prediction(row.image_path, row.label, row.policy_name) for row in rows]).as_json()
    never = score(rows, [Prediction(row.image_path, "safe", row.policy_name) for row in rows]).as_json()
    text = as_table({"right": right, "never": never})
    lines = text.splitlines()
    assert lines[0].startswith("| system | L1 accuracy | L2 accuracy | L3 accuracy | L4 F1 | L5 F1 | macro |")
    assert lines[2].startswith("| right | 100.0 (100.0 to 100.0) |") and "| never | 100.0" in lines[3]
    assert lines[4].startswith("| *says safe to everything* |") and "60.0 | 0.0 |" in lines[4]


def test_a_table_takes_the_place_of_the_former_one(tmp_path):
    document = tmp_path / "quality.md"
    put_into(document, "pairs", "first")
    assert document.read_text() == "<!-- pairs: begin -->\nfirst\n<!-- pairs: end -->\n"
    document.write_text(f"# Quality\n\n{document.read_text()}\nThe end.\n")
    put_into(document, "pairs", "second")
    put_into(document, "more", "third")
    assert document.read_text() == ("# Quality\n\n<!-- pairs: begin -->\nsecond\n<!-- pairs: end -->\n\nThe end.\n\n"
                                    "<!-- more: begin -->\nthird\n<!-- more: end -->\n")


def test_the_command_says_in_one_line_what_it_cannot_do(tmp_path):
    app = typer.Typer()
    app.command()(main)
    run = CliRunner().invoke(app, [str(tmp_path), "--out", str(tmp_path / "out")])
    assert run.exit_code == 2 and run.stderr.count("\n") == 1 and "cannot be read as labelled photos" in run.stderr
