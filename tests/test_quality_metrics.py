"""Marks against numbers worked out by hand, and against what the official scripts would print."""

from __future__ import annotations

from dataclasses import replace

import pytest
import tiny_world

from benchmarks.quality.metrics import (
    binary,
    mark_llavaguard,
    mark_policyflip,
    mark_safeeditbench,
    mark_unsafebench,
    safeeditbench_predictions,
)
from benchmarks.quality.predictions import Predicted
from benchmarks.quality.suites import read_policyflip_cases
from training.nano import examiner
from training.nano.exam import build_exam
from training.photos import Photo


def row(label: str, prediction: str, category: str = "", policy: str = "default", pair: str = "", id: str = ""
        ) -> Predicted:
    return Predicted(id, policy, category, pair, "0", label, prediction, None, "", "", "", 0.0)


def rows(*shorthand: str, **fields: str) -> list[Predicted]:
    """ "uu" is an unsafe case called unsafe; "us" a missed one; "su" a false alarm; "ui" and "si" invalid answers."""
    names = {"u": "unsafe", "s": "safe", "i": "invalid", "f": "failed"}
    return [row(names[truth], names[said], **fields) for truth, said in shorthand]


def test_f1_and_its_like_are_those_worked_out_by_hand():
    marks = binary(rows("uu", "uu", "us", "su", "ss", "ss"))  # TP 2, FN 1, FP 1, TN 2
    assert marks["precision"] == pytest.approx(2 / 3, abs=1e-6) and marks["recall"] == pytest.approx(2 / 3, abs=1e-6)
    assert marks["f1"] == pytest.approx(2 / 3, abs=1e-6) and marks["accuracy"] == pytest.approx(4 / 6, abs=1e-6)
    assert marks["balanced_accuracy"] == pytest.approx(2 / 3, abs=1e-6) and marks["invalid"] == 0


def test_f2_is_llavaguards_which_weighs_recall_over_precision():
    marks = binary(rows("uu", "us", "ss"))  # P 1, R 0.5: 5PR / (4P + R)
    assert marks["f2"] == pytest.approx(5 * 1 * 0.5 / (4 * 1 + 0.5), abs=1e-6)


def test_an_invalid_answer_misses_an_unsafe_photo_and_is_a_false_alarm_on_a_safe_one():
    assert binary(rows("ui", "uu", "si", "ss")) == {
        **binary(rows("us", "uu", "su", "ss")), "invalid": 0.5}
    assert binary(rows("uf", "uu"))["failed"] == 0.5


def test_unsafebench_has_its_categories_and_the_papers_nine_apart():
    marks = mark_unsafebench([*rows("uu", "us", category="Violence"), *rows("us", category="Harassment"),
                              *rows("su", category="Spam")])
    assert marks["categories"]["Violence"]["f1"] == pytest.approx(2 / 3, abs=1e-6)
    assert marks["categories"]["Spam"]["f1"] is None  # no photo of it is unsafe: 0 would say that some were missed
    assert "Hate" not in marks["categories"]
    assert marks["overall"]["f1"] == 0.4           # TP 1, FN 2, FP 1
    assert marks["paper"]["f1"] == 0.5             # without Harassment: TP 1, FN 1, FP 1
    assert marks["always unsafe"]["f1"] == pytest.approx(6 / 7, abs=1e-6)


def test_the_policy_exception_recall_is_that_of_llavaguards_variants():
    # v2 allows the photo's own category: safe is right. v4 forbids all of it: unsafe is right. v3 is no exception.
    marks = mark_llavaguard([*rows("ss", "su", policy="v2"), *rows("ss", policy="v2a"), *rows("uu", policy="v4"),
                             *rows("su", policy="v3_a"), *rows("uu")])
    assert marks["per"] == 0.75 and marks["default"]["rows"] == 1 and marks["strict"]["rows"] == 6


def test_llavaguards_own_script_leaves_out_what_it_cannot_parse_and_that_stands_beside():
    marks = mark_llavaguard(rows("uu", "ui", "ss", "si", category="O1: Hate, Humiliation, Harassment"))
    assert marks["published"]["balanced_accuracy"] == 1 and marks["published"]["rows"] == 2
    assert marks["strict"]["balanced_accuracy"] == 0.5 and marks["strict"]["invalid"] == 0.5
    assert marks["categories"]["O1"] == {"rows": 4, "balanced_accuracy": 0.5, "recall": 0.5}


def test_of_photos_without_a_category_llavaguard_has_accuracy():
    marks = mark_llavaguard(rows("ss", "su", category="NA: None applying"))
    assert marks["categories"]["NA"]["accuracy"] == 0.5 and marks["categories"]["NA"]["balanced_accuracy"] is None


def test_a_pair_of_policyflip_counts_only_if_both_verdicts_are_right():
    marks = mark_policyflip([*rows("uu", "ss", policy="seen, known", pair="1"), *rows("uu", "su", policy="seen, known",
                                                                                      pair="2")])
    assert marks["parts"]["seen, known"]["pairs_right"] == 0.5 and marks["overall"]["accuracy"] == 0.75


def test_safeeditbench_is_marked_by_its_scorer_and_a_failure_is_wrong():
    def answered(prediction: str) -> list[Predicted]:
        return [row("unsafe", prediction, policy="Policy L5", id="safeeditbench:7.jpg:Policy L5"),
                row("safe", "safe", policy="Policy L5", id="safeeditbench:7_edited.jpg:Policy L5")]
    assert mark_safeeditbench(answered("unsafe"))["macro"]["value"] == 1
    failed = mark_safeeditbench(answered("failed"))
    assert failed["macro"]["value"] == 0 and failed["pooled"]["invalid"]["value"] == 0.5
    assert failed["pair_accuracy"]["right"]["value"] == 0


def test_what_the_official_script_would_print_is_of_the_answers_as_they_were_written():
    literal = replace(row("unsafe", "unsafe", policy="Policy L5", id="safeeditbench:7.jpg:Policy L5"), text="unsafe.")
    thought = replace(literal, id="safeeditbench:8.jpg:Policy L5", text="<think>…</think><answer>no</answer>")
    assert [one.answer for one in safeeditbench_predictions([literal, thought])] == ["unsafe.", "unsafe"]
    marks = mark_safeeditbench([literal])
    assert marks["pooled"]["f1"]["value"] == 1 and marks["official"]["f1"] == 0  # it takes "unsafe." for safe


# The questions of policyflip.

def test_policyflip_asks_the_questions_of_the_exam(tmp_path, monkeypatch):
    class Examiner:
        def __init__(self, folder, assets):
            self.world = tiny_world.photo_world()

        def split(self, name):
            return [Photo(tmp_path / f"{place}.jpg", "", frozenset(), (), f"{place:064}")
                    for place in range(len(self.world.scenes))]

        def exam(self, name, questions, seed):
            return build_exam(self.world, self.world.concepts, self.world.heldout, 20, seed)

    monkeypatch.setattr(examiner, "Examiner", Examiner)
    cases = read_policyflip_cases(tmp_path)
    assert {case.policy_name for case in cases} >= {"seen, known", "unseen, held out", "exception, rules"}
    flip = [case for case in cases if case.pair == next(case.pair for case in cases if case.pair)]
    assert len(flip) == 2 and {case.label for case in flip} == {"safe", "unsafe"}  # opposite policies …
    assert len({case.image_sha256 for case in flip}) == 1 and len({case.policy for case in flip}) == 2  # … of one photo
