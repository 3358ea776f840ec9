"""The paper's tables: published figures, ours beside them, and "not run" where nothing was run."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import typer
from PIL import Image
from typer.testing import CliRunner

from benchmarks import general
from benchmarks.errors import BenchmarkError
from benchmarks.general import lmms_eval_command, read_lmms_eval, read_vlmevalkit
from benchmarks.quality.systems import SYSTEMS
from benchmarks.tables.__main__ import main
from benchmarks.tables.render import latex, lines_of, markdown
from benchmarks.tables.results import published_tables, read_results

TABLES = {table.name: table for table in published_tables()}


def write(folder: Path, metrics: dict) -> Path:
    folder.mkdir(parents=True)
    (folder / "metrics.json").write_text(json.dumps(metrics))
    return folder


def safeeditbench(folder: Path, system: str = "nano") -> Path:
    marks = {"metric": "f1", "f1": {"value": 0.5}, "accuracy": {"value": 0.9}}
    return write(folder, {
        "suite": "safeeditbench", "system": system, "macro": {"value": 0.58}, "pooled": {"f1": {"value": 0.512345}},
        "policies": {"Policy L1": {**marks, "metric": "accuracy", "f1": {"value": None}}, "Policy L2": marks}})


def unsafebench(folder: Path, system: str, cannot_express: list[str]) -> Path:
    return write(folder, {
        "suite": "unsafebench", "system": system, "cannot_express": {"UnsafeBench": cannot_express},
        "categories": {"Sexual": {"f1": 0.7}, "Hate": {"f1": 0.0}}, "paper": {"f1": 0.3}})


def cells(table: str, results: dict, title: str, whose: str = "here") -> dict[str, str]:
    name = ""
    for system, side, values in lines_of(TABLES[table], results):
        name = system or name
        if (name, side) == (title, whose):
            return dict(zip(TABLES[table].columns, values, strict=True))
    raise AssertionError(f"{title} is not in {table}")


# Published figures.

def test_the_tables_2_to_6_are_there_and_their_systems_exist_or_are_labels_of_trained_models():
    assert list(TABLES) == [f"table-{number}" for number in range(2, 7)]
    for table in TABLES.values():
        for row in table.rows:
            assert row.system in SYSTEMS or row.system.startswith(("SFT ", "RL ")), row.title


def test_published_means_follow_from_the_figures_they_are_made_of():
    for row in TABLES["table-4"].rows:
        four = [row.figures[name] for name in ("MMMU", "RealWorldQA", "BLINK", "MMT")]
        assert row.figures["General"] == pytest.approx(sum(four) / 4, abs=0.02), row.title
    assert cells("table-6", {}, "Qwen2.5-VL-7B", "published")["Macro"] == "49.32"


def test_what_was_not_read_in_the_paper_itself_is_marked():
    assert cells("table-2", {}, "QwenGuard-7B", "published")["Spam"] == "3.7†"
    assert cells("table-2", {}, "QwenGuard-7B", "published")["Overall"] == "43.6"
    assert "† read in notes on the paper" in markdown(TABLES["table-2"], {})
    assert "†" not in markdown(TABLES["table-6"], {})


# Ours.

def test_without_results_every_system_was_not_run():
    assert set(cells("table-6", {}, "Llama Guard").values()) == {"not run"}


def test_a_result_stands_under_its_published_row_and_one_that_the_paper_lacks_at_the_end(tmp_path):
    results = read_results([str(safeeditbench(tmp_path / "a", "qwenguard-7b@http://gpu:8000/v1")),
                            str(safeeditbench(tmp_path / "b") / "metrics.json")])
    ours = cells("table-6", results, "QwenGuard-7B")
    assert ours == {"L1": "90.00", "L2": "50.00", "L3": "not run", "L4": "not run", "L5": "not run",
                    "Overall": "51.23", "Macro": "58.00"}
    assert cells("table-6", results, "nano") == ours
    assert list(lines_of(TABLES["table-6"], results))[-1][0] == "nano"


def test_a_label_puts_a_model_of_ours_where_the_paper_has_its_like(tmp_path):
    results = read_results([f"SFT on L1={safeeditbench(tmp_path / 'a', 'qwen2.5-vl-7b:runs/l1')}"])
    assert cells("table-3", results, "SFT on L1")["L1"] == "90.00"


def test_a_category_that_a_system_cannot_express_has_no_figure_and_neither_has_the_whole(tmp_path):
    results = read_results([str(unsafebench(tmp_path / "a", "nudenet", ["Hate"])),
                            str(unsafebench(tmp_path / "b", "instructblip", []))])
    assert cells("table-2", results, "NudeNet") | {"Sexual": "70.00", "Hate": "–", "Overall": "–"} == cells(
        "table-2", results, "NudeNet")
    assert cells("table-2", results, "InstructBLIP")["Overall"] == "30.00"


def test_a_table_of_several_suites_takes_each_figure_from_its_own(tmp_path):
    results = read_results([
        str(write(tmp_path / "g", {"suite": "general", "system": "qwen2.5-vl-7b", "benchmarks": {"MMMU": 0.5},
                                   "average": None})),
        str(write(tmp_path / "l", {"suite": "llavaguard", "system": "qwen2.5-vl-7b",
                                   "published": {"balanced_accuracy": 0.61}}))])
    ours = cells("table-4", results, "Qwen2.5-VL-7B")
    assert (ours["LlavaGuardBench"], ours["MMMU"], ours["UnsafeBench"], ours["General"]) == (
        "61.00", "50.00", "not run", "not run")


def test_latex_escapes_what_latex_reads_otherwise():
    page = latex(TABLES["table-2"], {})
    assert r"SD\_Filter" in page and r"3.7$^\dagger$" in page and page.count(r"\toprule") == 1 and "†" not in page


def test_latex_escapes_every_character_that_it_reads_otherwise(tmp_path):
    results = read_results([rf"a\b^c~d{{e}}={safeeditbench(tmp_path / 'a')}"])
    assert r"a\textbackslash{}b\textasciicircum{}c\textasciitilde{}d\{e\} & here" in latex(TABLES["table-6"], results)


@pytest.mark.parametrize("folder", ["lr=1e-4", "plain"])
def test_a_folder_may_have_an_equals_sign_in_its_name_with_a_label_and_without(tmp_path, folder):
    path = safeeditbench(tmp_path / folder)
    assert list(read_results([str(path)])) == ["nano"]
    assert list(read_results([f"SFT on L1={path}"])) == ["SFT on L1"]


GENERAL = {"suite": "general", "system": "nano", "average": None}


@pytest.mark.parametrize("metrics, message", [
    ({"suite": "policyflip", "system": "nano"}, "is in none of the paper's tables"), ({}, "is no metrics.json"),
    ({**GENERAL, "system": 5, "benchmarks": {}}, "its system is 5, must be the name of one"),
    ({"suite": ["general"], "system": "nano"}, "is no metrics.json"),
    ({**GENERAL, "benchmarks": []}, "is no metrics.json"),
    ({"suite": "safeeditbench", "system": "nano", "policies": []}, "is no metrics.json"),
    ({**GENERAL, "benchmarks": {"MMMU": "0.5"}}, "'0.5' is no share of 0 to 1"),
    ({**GENERAL, "benchmarks": {"MMMU": float("nan")}}, "nan is no share of 0 to 1")])
def test_a_file_that_is_no_result_is_an_error_that_names_it(tmp_path, metrics, message):
    with pytest.raises(BenchmarkError, match=message) as caught:
        read_results([str(write(tmp_path / "a", metrics))])
    assert str(tmp_path / "a") in str(caught.value) and "\n" not in str(caught.value)


def test_two_results_of_one_system_want_a_label(tmp_path):
    with pytest.raises(BenchmarkError, match="a second result of nano on safeeditbench"):
        read_results([str(safeeditbench(tmp_path / "a")), str(safeeditbench(tmp_path / "b"))])


def test_the_command_writes_tables_and_pictures(tmp_path):
    app = typer.Typer()
    app.command()(main)
    answer = CliRunner().invoke(app, [str(safeeditbench(tmp_path / "a")), "--out", str(tmp_path / "out")])
    assert answer.exit_code == 0, answer.output
    assert "| nano | here | 90.00 |" in (tmp_path / "out/tables.md").read_text(encoding="utf-8")
    assert (tmp_path / "out/tables.tex").read_text(encoding="utf-8").count(r"\begin{table}") == 5
    for name in ("radar.png", "bars.png"):
        with Image.open(tmp_path / "out" / name) as picture:
            assert picture.width > 500 and len(picture.convert("RGB").getcolors(1 << 24)) > 10


# General ability.

LMMS = {"results": {
    "mmmu_val": {"alias": "mmmu_val", "mmmu_acc,none": 0.45, "mmmu_acc_stderr,none": "N/A"},
    "realworldqa": {"alias": "realworldqa", "exact_match,flexible-extract": 0.685,
                    "exact_match_stderr,flexible-extract": 0.02},
    "blink": {"blink_acc,none": 0.5466, "alias": "blink"}, "blink_counting": {"blink_acc,none": 0.6},
    "mmt_val": {"accuracy,none": 0.5955}}, "model_name": "Qwen/Qwen2.5-VL-7B-Instruct"}
VLMEVALKIT = {
    "MMMU_DEV_VAL": '"split","Overall","Accounting"\n"dev","0.3","0.1"\n"validation","0.45","0.5"\n',
    "RealWorldQA": '"split","Overall"\n"none","0.685"\n', "BLINK": '"split","Overall"\n"val","0.5466"\n',
    "MMT-Bench_VAL": '"split","Overall","VR"\n"VAL","0.59","0.7"\n"ALL","0.5955","0.7"\n'}
SHARES = {"MMMU": 0.45, "RealWorldQA": 0.685, "BLINK": 0.5466, "MMT": 0.5955}


def test_results_of_lmms_eval_and_of_vlmevalkit_are_read_alike(tmp_path):
    (tmp_path / "results.json").write_text(json.dumps(LMMS))
    for name, text in VLMEVALKIT.items():
        (tmp_path / f"Qwen2.5-VL-7B-Instruct_{name}_acc.csv").write_text(text)
    assert read_lmms_eval(tmp_path / "results.json") == SHARES == read_vlmevalkit(tmp_path)


def test_their_mean_is_the_papers_general_ability_and_there_is_none_of_three(tmp_path):
    (tmp_path / "all.json").write_text(json.dumps(LMMS))
    (tmp_path / "three.json").write_text(json.dumps({"results": {**LMMS["results"], "mmt_val": {}}}))
    for file, average in (("all.json", sum(SHARES.values()) / 4), ("three.json", None)):
        answer = CliRunner().invoke(general.app, ["read", str(tmp_path / file), "--system", "qwen2.5-vl-7b", "--out",
                                                  str(tmp_path / file[:3])])
        if average is None:
            assert answer.exit_code == 2 and "has 0 values of accuracy for mmt_val" in answer.stderr
        else:
            assert read_results([str(tmp_path / "all")])["qwen2.5-vl-7b"]["general"]["General"] == 100 * average


@pytest.mark.parametrize("text, message", [
    ("[]", "is no results file of lmms-eval"), ('{"results": {}}', "has no result of MMMU"),
    ('{"results": {"blink": {"blink_acc,none": 54.7}}}', r"BLINK is 54\.7, must be a share"),
    ('{"results": {"blink": {"blink_acc,none": "N/A"}}}', "BLINK is 'N/A', no number")])
def test_results_of_another_form_are_errors(tmp_path, text, message):
    (tmp_path / "results.json").write_text(text)
    with pytest.raises(BenchmarkError, match=message):
        read_lmms_eval(tmp_path / "results.json")


def test_the_command_of_lmms_eval_names_the_weights_the_limit_of_pixels_and_all_four_tasks():
    command = lmms_eval_command("safeguard-vl-sft:runs/7b-sft")
    assert command[command.index("--model_args") + 1] == "pretrained=runs/7b-sft,max_pixels=1003520"
    assert command[command.index("--tasks") + 1] == "mmmu_val,realworldqa,blink,mmt_val"
    with pytest.raises(BenchmarkError, match="weights are not published"):
        lmms_eval_command("safeguard-vl-full")
    with pytest.raises(BenchmarkError, match="is not known here"):
        lmms_eval_command("nudenet")
