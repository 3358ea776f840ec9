"""A guard over a suite: data in their published formats, real photos, rows that a second run goes on from."""

from __future__ import annotations

import json
import threading

import published_data
import pytest
from typer.testing import CliRunner

from benchmarks.errors import BenchmarkError
from benchmarks.quality import __main__ as command
from benchmarks.quality.cases import Case, CaseError, Judgement
from benchmarks.quality.predictions import Predictions
from benchmarks.quality.run import run
from benchmarks.quality.suites import SUITES
from benchmarks.quality.systems import SYSTEMS
from benchmarks.quality.systems.bundles import rules_of
from benchmarks.safeeditbench.rows import read_predictions, read_rows
from benchmarks.safeeditbench.score import score
from safeguard_sdk import Policy
from training.datasets.llavaguard import DEFAULT_POLICY

NAMES = ("chelsea.png", "coffee.png", "rocket.jpg")


@pytest.fixture(scope="module")
def pictures(photos) -> dict[str, bytes]:
    return {name: photos[name].read_bytes() for name in NAMES}


@pytest.fixture
def unsafebench(tmp_path, pictures):
    return published_data.unsafebench(tmp_path / "data", pictures, [
        ("chelsea.png", "Safe", "Spam"), ("coffee.png", "Unsafe", "Harassment"), ("rocket.jpg", "Unsafe", "Violence")])


class Plays:
    """A system that answers each photo as it was told to, and says nothing of the rest of the world."""

    def __init__(self, *answers: str | Exception) -> None:
        self._answers, self.asked = iter(answers), []
        self.facts, self.taxonomy, self.concurrency = {"model": "played"}, None, 1

    def judge(self, case: Case, rgb) -> Judgement:
        self.asked.append(case.id)
        answer = next(self._answers)
        if isinstance(answer, Exception):
            raise answer
        return Judgement(answer, text=f"I say {answer}")

    def close(self) -> None:
        pass


@pytest.fixture
def play(monkeypatch):
    def start(*answers: str | Exception) -> Plays:
        system = Plays(*answers)
        monkeypatch.setitem(SYSTEMS, "played", lambda suite, source: system)
        return system
    return start


def rows_of(out) -> list[dict]:
    return [json.loads(line) for line in (out / "predictions.jsonl").read_text().splitlines()]


# Real guards on real photos.

def test_nano_answers_every_case_of_unsafebench_and_is_marked(tmp_path, unsafebench):
    metrics = run("unsafebench", "nano", unsafebench, tmp_path / "out")
    assert metrics["overall"]["rows"] == 3 and metrics["overall"]["unsafe"] == 2 and metrics["failed"] == 0
    assert set(metrics["categories"]) == {"Harassment", "Violence", "Spam"}
    assert metrics["paper"]["rows"] == 2  # the paper leaves Harassment out
    assert json.loads((tmp_path / "out/metrics.json").read_text()) == metrics
    assert all(0 <= row["score"] <= 1 and row["prediction"] in ("safe", "unsafe") for row in rows_of(tmp_path / "out"))


def test_nano_answers_safeeditbench_and_is_marked_by_its_scorer(tmp_path, pictures):
    data = published_data.safeeditbench(tmp_path / "data", pictures, [
        ("rocket.jpg", "7.jpg", 1, 4), ("coffee.png", "7_edited.jpg", 0, 4),
        ("rocket.jpg", "7.jpg", 0, 0), ("coffee.png", "7_edited.jpg", 0, 0)])
    metrics = run("safeeditbench", "nano", data, tmp_path / "out")
    assert set(metrics["policies"]) == {"Policy L1", "Policy L5"} and metrics["pairs"] == 1
    assert metrics["policies"]["Policy L1"]["metric"] == "accuracy"
    official = read_predictions(tmp_path / "out/official.jsonl")  # the same, in the official form
    assert score(read_rows(data), official).as_json().items() <= metrics.items()


def test_nano_reads_llavaguards_policy_rule_by_rule(tmp_path, pictures):
    data = published_data.llavaguard(tmp_path / "data", pictures, [
        ("12", "rocket.jpg", "O2: Violence: \nNo fights.\n\nO6: Weapons: \nNo guns.", "Unsafe"),
        ("12_v2", "rocket.jpg", "O2: Violence: \nNo fights.\n\nO6: Weapons: \nAll may be shown.", "Safe")])
    metrics = run("llavaguard", "nano", data, tmp_path / "out")
    assert metrics["strict"]["rows"] == 2 and metrics["default"]["rows"] == 1 and metrics["per"] in (0.0, 1.0)
    assert all(row["note"].startswith("O") for row in rows_of(tmp_path / "out"))  # the rule that decided


@pytest.mark.parametrize("policy, rules", [
    (DEFAULT_POLICY, 9), (Policy.packaged("L3").canonical_text, len(Policy.packaged("L3").rules)),
    ("No rockets.\n\nNo cats.", 1)])
def test_a_policys_text_is_split_only_where_it_is_known_to_be_rules(policy, rules):
    assert len(rules_of(policy)) == rules


def test_the_rules_of_a_packaged_policy_are_read_back_to_the_letter():
    policy = Policy.packaged("L5")
    assert rules_of(policy.canonical_text) == [rule.canonical_text for rule in policy.rules]


# Rows, and going on.

def test_an_answer_that_is_no_verdict_is_invalid_counted_wrong_and_shown_apart(tmp_path, unsafebench, play):
    play("invalid", "invalid", "invalid")
    metrics = run("unsafebench", "played", unsafebench, tmp_path / "out")
    assert metrics["overall"]["accuracy"] == 0 and metrics["overall"]["invalid"] == 1 and metrics["overall"]["f1"] == 0
    assert rows_of(tmp_path / "out")[0]["text"] == "I say invalid"


def test_a_failure_is_a_row_and_is_asked_again_by_the_next_run(tmp_path, unsafebench, play):
    play("safe", CaseError("the server is away", "timeout"), "unsafe")
    metrics = run("unsafebench", "played", unsafebench, tmp_path / "out")
    (failed,) = [row for row in rows_of(tmp_path / "out") if row["prediction"] == "failed"]
    assert metrics["failed"] == 1 and failed["error"] == "timeout" and failed["note"] == "the server is away"
    again = play("unsafe")
    assert run("unsafebench", "played", unsafebench, tmp_path / "out")["failed"] == 0
    assert again.asked == [failed["id"]]


def test_a_run_that_was_stopped_goes_on_and_a_torn_line_is_asked_again(tmp_path, unsafebench, play):
    play("safe", "safe", "unsafe")
    whole = run("unsafebench", "played", unsafebench, tmp_path / "out")
    file = tmp_path / "out/predictions.jsonl"
    file.write_bytes(file.read_bytes()[:-20])  # killed in the middle of the last line
    again = play("unsafe")
    assert run("unsafebench", "played", unsafebench, tmp_path / "out") == whole
    assert len(again.asked) == 1 and len(rows_of(tmp_path / "out")) == 3


def test_a_system_that_answers_many_at_once_is_asked_so_and_nothing_is_lost(tmp_path, unsafebench, play):
    system = play("safe", CaseError("away", "timeout"), "unsafe")
    system.concurrency = 3
    both = threading.Barrier(3, timeout=20)  # opens only when all three are asked at once
    judge = system.judge
    system.judge = lambda case, rgb: (both.wait(), judge(case, rgb))[1]
    metrics = run("unsafebench", "played", unsafebench, tmp_path / "out")
    assert metrics["failed"] == 1 and len(rows_of(tmp_path / "out")) == 3 == len(set(system.asked))


def test_a_row_that_the_data_have_twice_is_asked_once_and_counted_twice(tmp_path, pictures, play):
    twice = [("rocket.jpg", "7.jpg", 1, 4)] * 2
    data = published_data.safeeditbench(tmp_path / "data", pictures, twice)
    system = play("unsafe")
    assert run("safeeditbench", "played", data, tmp_path / "out")["pooled"]["rows"] == 2 and len(system.asked) == 1
    data = published_data.safeeditbench(tmp_path / "other", pictures, [*twice, ("rocket.jpg", "7.jpg", 0, 4)])
    with pytest.raises(BenchmarkError, match="stands in the data twice, with another"):
        run("safeeditbench", "played", data, tmp_path / "out")


def test_a_photo_that_cannot_be_decoded_is_a_failure_and_no_verdict(tmp_path, pictures, play):
    broken = {**pictures, "coffee.png": pictures["coffee.png"][:2000]}
    data = published_data.unsafebench(tmp_path / "data", broken, [("coffee.png", "Safe", "Spam")])
    system = play("safe")
    metrics = run("unsafebench", "played", data, tmp_path / "out")
    assert metrics["failed"] == 1 and system.asked == [] and rows_of(tmp_path / "out")[0]["error"] == "truncated"


def test_a_folder_with_another_run_is_refused(tmp_path, unsafebench, play):
    play("safe", "safe", "safe")
    run("unsafebench", "played", unsafebench, tmp_path / "out")
    play("safe", "safe", "safe").facts["model"] = "another"
    with pytest.raises(BenchmarkError, match="holds another run, which differs in model"):
        run("unsafebench", "played", unsafebench, tmp_path / "out")


@pytest.mark.parametrize("text", ["", '{"suite": ', "[]", "null"])
def test_a_folder_that_does_not_say_what_was_run_in_it_is_refused(tmp_path, unsafebench, play, text):
    (tmp_path / "out").mkdir()
    (tmp_path / "out/run.json").write_text(text)
    play("safe", "safe", "safe")
    with pytest.raises(BenchmarkError, match=r"run\.json: does not say in JSON what was run .*; name a new folder"):
        run("unsafebench", "played", unsafebench, tmp_path / "out")


def test_a_line_that_is_no_row_is_an_error_that_names_it(tmp_path):
    (tmp_path / "predictions.jsonl").write_text('{"id": "1"}\n')
    with pytest.raises(BenchmarkError, match="line 1: is no prediction"):
        Predictions(tmp_path / "predictions.jsonl")


@pytest.mark.parametrize("suite", SUITES)
def test_data_that_are_not_there_are_one_line_that_says_where_to_get_them(tmp_path, suite):
    answer = CliRunner().invoke(_app(), ["--suite", suite, "--system", "nano", "--data", str(tmp_path), "--out",
                                         str(tmp_path / "out")])
    assert answer.exit_code == 2 and answer.stderr.startswith("error: ") and answer.stderr.count("\n") == 1
    assert str(tmp_path) in answer.stderr


def _app():
    import typer
    app = typer.Typer()
    app.command()(command.main)
    return app
