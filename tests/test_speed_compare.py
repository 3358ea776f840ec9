"""Comparing results: ratios within a run, a baseline's tolerance, and what two runs do not have in common."""

import copy
import io
import json
import math
from pathlib import Path

import pytest
from rich.console import Console

from benchmarks.errors import BenchmarkError
from benchmarks.speed.compare import check, differences, figures, ratios, read_results, refuse_others
from benchmarks.speed.tables import show_check, show_comparison


def estimate(value: float, spread: float = 0.02) -> dict[str, float]:
    return {"value": value, "low": value * (1 - spread), "high": value * (1 + spread)}


def results(check_ms: float = 40.0, speed: float = 1.0, peer: float = 0.5) -> dict:
    """Of one system and one peer, on a machine that is `speed` times as fast as another. `peer`: its time over ours."""
    ms = estimate(check_ms / speed)
    return {
        "format": 1, "noise": {"spin_ms": estimate(2.0 / speed), "quiet": True, "reasons": []},
        "machine": {"cpu": "a processor", "cores": 2, "gpus": [], "python": "3.11.7"},
        "settings": {"photos": {"sha256": "ab"}, "threads": 0}, "quality": None,
        "systems": [{
            "name": "nano, onnx-cpu", "policy_sha256": "cd",
            "single_stream": {"stages_ms": {"total": {"p50": ms, "p90": ms, "p99": ms}}},
            "offline": [{"batch": batch, "img_per_s": estimate(rate * speed)} for batch, rate in ((1, 25), (8, 30))],
            "scan": {"img_per_s": 28 * speed}, "server": {"highest_rate": 20 * speed},
            "cold_start": {"seconds": estimate(0.8 / speed), "rss_mb": 260},
            "policy_change": {"ready_ms": estimate(100 / speed)},
            "policy_length": [{"tokens": 50, "prefill_ms": estimate(30 / speed)},
                              {"tokens": 1000, "prefill_ms": estimate(36 / speed)},
                              {"tokens": 2000, "not_measured": "too long"}]}],
        "side_by_side": {"batch": 8, "single_stream": {"nano, onnx-cpu": {"of_first": estimate(1.0, 0.0)},
                                                       "nudenet 3.4.2": {"of_first": estimate(peer)}},
                         "offline": {"nano, onnx-cpu": {"of_first": estimate(1.0, 0.0)}}},
    }


def test_ratios_are_times_over_times_of_the_same_run():
    found = {name: round(one.value, 3) for name, one in ratios(results()).items()}
    assert found == {
        "nano, onnx-cpu: check / fixed work": 20.0,
        "nano, onnx-cpu: cold start / fixed work": 400.0,
        "nano, onnx-cpu: policy change / fixed work": 50.0,
        "nano, onnx-cpu: an image of many / one alone": 0.833,
        "nano, onnx-cpu: offline / server": 1.5,
        "nano, onnx-cpu: prefill under the longest policy / the shortest": 1.2,
        "nano, onnx-cpu / nudenet, single stream": 2.0,
    }


def test_the_interval_of_a_turned_ratio_is_turned_too():
    ours = ratios(results(peer=0.5))["nano, onnx-cpu / nudenet, single stream"]
    assert ours.low < ours.value < ours.high
    assert (round(ours.low, 3), round(ours.high, 3)) == (1.961, 2.041)


def test_a_slower_machine_is_no_regression():
    assert {one.verdict for one in check(results(), results(speed=0.25))} == {"same"}


@pytest.mark.parametrize("check_ms, verdict", [
    (40 * 1.15 * 1.01, "same"),    # beyond the tolerance in the middle, within it at the better end of the interval
    (40 * 1.15 * 1.03, "slower"),  # beyond it even there
    (40 / 1.15 / 1.03, "faster"),
])
def test_slower_is_what_even_the_better_end_of_the_interval_says(check_ms, verdict):
    findings = {one.name: one for one in check(results(), results(check_ms))}
    found = findings["nano, onnx-cpu: check / fixed work"]
    assert (found.verdict, found.fails) == (verdict, verdict == "slower")


def test_the_tolerance_is_as_asked():
    verdicts = {one.verdict for one in check(results(), results(44.0), tolerance=0.05)}
    assert "slower" in verdicts
    assert "slower" not in {one.verdict for one in check(results(), results(44.0), tolerance=0.5)}


def test_what_the_baseline_has_and_this_run_has_not_fails():
    without = results()
    without["side_by_side"] = None
    (missing,) = [one for one in check(results(), without) if one.fails]
    assert (missing.name, missing.verdict) == ("nano, onnx-cpu / nudenet, single stream", "missing")


def test_a_newer_peer_or_bundle_is_compared_with_the_older_one():
    newer = copy.deepcopy(results())
    peers = newer["side_by_side"]["single_stream"]
    peers["nudenet 3.5.0"] = peers.pop("nudenet 3.4.2")
    assert not any(one.fails for one in check(results(), newer))


def test_a_single_observation_is_compared_by_its_value():
    single = results(60.0)
    single["systems"][0]["single_stream"]["stages_ms"]["total"]["p50"] = {"value": 60.0, "low": None, "high": None}
    assert any(one.verdict == "slower" for one in check(results(), single))


@pytest.mark.parametrize("settings, why", [
    ({"photos": "ee"}, r"other photos \(ab there, ee here\); give the same"),
    ({"threads": 4}, r"other threads \(0 there, 4 here\)"),
    ({"policies": ["ff"], "threads": 4}, r"other threads \(.*\) and policies \(\['cd'\] there, \['ff'\] here\)"),
])
def test_a_baseline_of_other_photos_threads_or_another_policy_is_refused(settings, why):
    asked = {"photos": "ab", "threads": 0, "policies": ["cd"]}
    refuse_others(Path("baseline.json"), results(), asked)
    with pytest.raises(BenchmarkError, match=f"^baseline.json: was measured with {why}"):
        refuse_others(Path("baseline.json"), results(), asked | settings)


def test_figures_are_absolute_and_leave_out_what_was_not_found():
    without = results()
    without["systems"][0]["server"]["highest_rate"] = None
    found = figures(without)
    assert found["nano, onnx-cpu: check p50, ms"] == 40.0
    assert "nano, onnx-cpu: server, requests/s" not in found


def test_two_runs_say_why_they_are_not_of_the_same_thing():
    other = results()
    other["machine"]["cpu"] = "another processor"
    other["noise"] |= {"quiet": False, "reasons": ["other processes used 0.81 cores"]}
    assert differences(results(), results()) == []
    assert differences(results(), other) == [
        "processors differ: a processor and another processor",
        "B was measured on a noisy machine: other processes used 0.81 cores"]


def test_both_tables_show_every_name():
    console = Console(width=150, file=io.StringIO())
    console.print(show_check(results(), results(80.0), check(results(), results(80.0))))
    console.print(show_comparison(results(), results(80.0)))
    text = console.file.getvalue()
    assert all(name in text for name in (*ratios(results()), *figures(results())))
    assert "slower" in text and "2.000" in text


def test_under_a_check_stands_why_the_two_runs_are_not_alike():
    other = results()
    other["machine"]["cores"] = 8
    other["noise"] |= {"quiet": False, "reasons": ["heat"]}
    console = Console(width=150, file=io.StringIO())
    console.print(show_check(results(), other, check(results(), other)))
    text = console.file.getvalue()
    assert "mind: cores differ: 2 and 8" in text and "mind: this run was measured on a noisy machine: heat" in text


def test_a_bundle_may_have_a_name_that_looks_like_markup():
    named = json.loads(json.dumps(results()).replace("nano, onnx-cpu", "shop[/v2], onnx-cpu"))
    console = Console(width=150, file=io.StringIO())
    console.print(show_check(named, named, check(named, named)))
    console.print(show_comparison(named, named))
    assert all(name in console.file.getvalue() for name in (*ratios(named), *figures(named)))


@pytest.mark.parametrize("text, why", [("{", "cannot be read"), ('{"format": 2}', "no result of this version"),
                                       ("[]", "no result of this version"), (None, "cannot be read")])
def test_a_file_that_holds_no_results_is_one_line(tmp_path, text, why):
    file = tmp_path / "results.json"
    if text is not None:
        file.write_text(text)
    with pytest.raises(BenchmarkError, match=why) as caught:
        read_results(file)
    assert str(file) in str(caught.value) and "\n" not in str(caught.value)


def changed(results: dict, value: object, *path: object) -> dict:
    inner = results
    for key in path[:-1]:
        inner = inner[key]
    inner[path[-1]] = value
    return results


SINGLE = ("systems", 0, "single_stream", "stages_ms", "total", "p50", "value")


@pytest.mark.parametrize("odd, why", [
    ({"format": 1}, "is no whole result of the benchmark"), (changed(results(), None, "noise"), "is no whole result"),
    (changed(results(), {"cores": 2}, "machine"), "no whole result"),
    (changed(results(), 5, "systems"), "no whole result"),
    (changed(results(), 0, *SINGLE), "is no whole result"), (changed(results(), "40", *SINGLE), "is no whole result"),
    (changed(results(), [], "systems", 0, "offline"), "is no whole result"),
    (changed(results(), 0, "noise", "spin_ms", "value"), "is no whole result"),
    (changed(results(), math.nan, *SINGLE), "NaN is no number"),
    (changed(results(), math.inf, *SINGLE), "Infinity is no number"),
    (changed(changed(results(), [], "systems"), None, "side_by_side"), "holds no ratios"),
])
def test_results_without_all_that_is_compared_are_one_line_when_they_are_read(tmp_path, odd, why):
    file = tmp_path / "results.json"
    file.write_text(json.dumps(odd))
    with pytest.raises(BenchmarkError, match=why) as caught:
        read_results(file)
    assert str(file) in str(caught.value) and "\n" not in str(caught.value)


def test_a_number_without_end_is_refused(tmp_path):
    text = json.dumps(changed(results(), 12345.678, *SINGLE))
    (tmp_path / "results.json").write_text(text.replace("12345.678", "1e999"))
    with pytest.raises(BenchmarkError, match="numbers without end"):
        read_results(tmp_path / "results.json")


def test_results_are_read_as_they_were_written(tmp_path):
    (tmp_path / "results.json").write_text(json.dumps(results()))
    assert read_results(tmp_path / "results.json") == results()
