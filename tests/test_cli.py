"""The command: what it prints where, and its exit status, which other programs rely on."""

import json
import os
import platform
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from tiny_bundle import write_bundle
from typer.testing import CliRunner, Result

from safeguard_sdk import Bundle, Guard, Policy, Record, __version__
from safeguard_sdk.bundle import EMBEDDED
from safeguard_sdk.cli import app, bundle_app, policy_app
from safeguard_sdk.image import jpeg_decoder

ROOT = Path(__file__).parents[1]
FIELDS = ["path", "label", "score", "rule", "rules", "error", "ms"]
THRESHOLDS = {  # at the ends, so that no test depends on how good the model is
    "safe": ("unsafe_at: 1",),
    "review": ("review_at: 0", "unsafe_at: 1"),
    "unsafe": ("unsafe_at: 0",),
}


def run(*args: object, stdin: bytes | None = None) -> Result:
    return CliRunner().invoke(app, [str(arg) for arg in args], input=stdin)


def start(*args: object, **streams: object) -> subprocess.Popen:
    """The command in a process of its own."""
    code = "import sys; from safeguard_sdk.cli import app; app(prog_name='safeguard')"
    pipes = dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.PIPE)
    return subprocess.Popen([sys.executable, "-c", code, *map(str, args)], cwd=ROOT, text=True, **pipes | streams)


def error_line(result: Result) -> str:
    """What stderr holds, which must be one line."""
    assert result.stderr.startswith("error: ") and result.stderr.count("\n") == 1, result.stderr
    assert isinstance(result.exception, SystemExit)
    return result.stderr.strip()


@pytest.fixture
def policies(tmp_path) -> dict[str, Path]:
    """Policy files by the label that they give every image."""
    files = {label: tmp_path / f"{label}.yaml" for label in THRESHOLDS}
    for label, file in files.items():
        lines = ["rules:", "  - id: guns", "    forbids: guns", *(f"    {line}" for line in THRESHOLDS[label])]
        file.write_text("\n".join(lines), encoding="utf-8")
    return files


@pytest.fixture
def photo(photos) -> Path:
    return photos["flower.jpg"]


# check: exit status

@pytest.mark.parametrize("label, status", [("safe", 0), ("review", 1), ("unsafe", 1)])
def test_the_exit_status_is_0_if_all_is_safe_and_1_if_a_person_should_look(policies, photo, label, status):
    result = run("check", photo, "--policy", policies[label])
    assert (result.exit_code, result.stderr) == (status, "")
    assert result.stdout.startswith(label)


@pytest.mark.parametrize("label", ["safe", "unsafe"])
def test_a_failure_outweighs_every_verdict_and_the_other_images_are_still_judged(policies, photo, tmp_path, label):
    result = run("check", tmp_path / "missing.jpg", photo, "--policy", policies[label])
    assert result.exit_code == 2
    assert error_line(result) == f"error: {tmp_path / 'missing.jpg'}: no such file; check the path"
    assert [line.split()[0] for line in result.stdout.splitlines()] == [label]


def test_a_folder_fails_with_advice(policies, tmp_path):
    result = run("check", tmp_path, "--policy", policies["safe"])
    assert (result.exit_code, result.stdout) == (2, "")
    assert error_line(result) == f"error: {tmp_path}: is a folder; name a file in it"


# check: output

def test_a_line_holds_label_score_rule_and_path(policies, photo):
    verdict = Guard(Policy.load(policies["unsafe"])).check(photo)
    assert run("check", photo, "--policy", policies["unsafe"]).stdout == f"unsafe  {verdict.score:.2f}  guns  {photo}\n"


def test_json_is_one_object_a_line_in_the_order_of_the_images(photos, tmp_path):
    names = ["coffee.png", "chelsea.png", "flower.jpg"]
    paths = [photos[name] for name in names]
    paths.insert(1, tmp_path / "missing.jpg")
    result = run("check", *paths, "--policy", "L2", "--json")
    rows = [json.loads(line) for line in result.stdout.splitlines()]
    assert [row["path"] for row in rows] == list(map(str, paths))
    for row, path in zip(rows, paths, strict=True):
        assert list(row)[:7] == FIELDS
        if path == tmp_path / "missing.jpg":
            assert row["error"] == {"kind": "not_found", "message": f"{path}: no such file; check the path"}
            assert [row[field] for field in FIELDS if field not in ("path", "error")] == [None] * 5
        else:
            assert row["error"] is None
            assert row["label"] in ("safe", "review", "unsafe")
            assert list(row["rules"]) == ["gore", "sex"] and row["score"] in row["rules"].values()
            assert (row["rule"] is None) == (row["label"] == "safe")
            assert set(row["ms"]) == {"decode", "patches", "vision", "prefill"}
            assert row["policy_sha256"] == Policy.packaged("L2").sha256
            assert row["bundle_sha256"] == Bundle.embedded().sha256
    assert "error: " in error_line(result)


def test_explain_adds_what_was_seen(photos):
    result = run("check", photos["astronaut.png"], "--policy", "L1", "--explain")
    first, second = result.stdout.splitlines()
    assert first.endswith(str(photos["astronaut.png"])) and second.strip().startswith("Seen in the picture: ")
    row = json.loads(run("check", photos["astronaut.png"], "--policy", "L1", "--explain", "--json").stdout)
    assert row["rationale"] == second.strip()


def test_a_dash_reads_one_image_from_stdin(photo):
    from_stdin, from_file = (
        json.loads(run("check", path, "--policy", "L1", "--json", stdin=photo.read_bytes()).stdout)
        for path in ("-", photo))
    assert from_stdin["path"] == "-"
    assert from_stdin["rules"] == from_file["rules"]


@pytest.mark.parametrize("data, says", [(b"", "zero bytes"), (b"no image at all", "unlike any format")])
def test_stdin_without_an_image_fails(data, says):
    result = run("check", "-", "--policy", "L1", "--json", stdin=data)
    assert result.exit_code == 2
    assert error_line(result).startswith("error: <stdin>: ") and says in result.stderr
    assert json.loads(result.stdout)["path"] == "-"


ODD_NAMES = {"markup": "[bold].jpg", "two lines": "a\nb.jpg", "escape": "\x1b[31mred.jpg", "blanks": " a b .jpg",
             "umlaut": "grün.jpg", "not UTF-8": os.fsdecode(b"caf\xe9.jpg"), "like an option": "--policy.jpg"}


@pytest.mark.parametrize("kind", ODD_NAMES)
def test_odd_file_names_are_judged_shown_in_one_line_and_kept_whole_in_json(policies, photo, tmp_path, kind):
    path = str(tmp_path / ODD_NAMES[kind])
    try:
        shutil.copy(photo, path)
    except OSError as error:
        pytest.skip(f"this file system refuses the name {path!r}: {error.strerror}")
    line = run("check", "--policy", policies["safe"], "--", path)
    assert (line.exit_code, line.stderr, line.stdout.count("\n")) == (0, "", 1)
    assert "\x1b" not in line.stdout
    if path.isprintable():
        assert line.stdout.endswith(f"  {path}\n")
    row = json.loads(run("check", "--policy", policies["safe"], "--json", "--", path).stdout)
    assert row["path"] == path


@pytest.mark.parametrize("kind", ODD_NAMES)
def test_odd_names_of_files_that_are_missing_are_one_line_on_stderr(policies, tmp_path, kind):
    result = run("check", "--policy", policies["safe"], "--", tmp_path / ODD_NAMES[kind])
    assert result.exit_code == 2 and "\x1b" not in error_line(result)


# check: what is wrong before any image is looked at

@pytest.mark.parametrize("text, says", [
    ("rules:\n  - id: guns\n    forbid: guns\n", "shop.yaml, line 3: rule 'guns' has the unknown key 'forbid'"),
    ("rules:\n  - id: guns\n    forbids: no\n", "shop.yaml, line 3: "),
    ("rules: [", "shop.yaml, line 1"),
])
@pytest.mark.parametrize("command", [("check", "photo.jpg", "--policy"), ("policy", "check")], ids=["check", "policy"])
def test_a_wrong_policy_is_one_line_with_file_and_line(tmp_path, command, text, says):
    (tmp_path / "shop.yaml").write_text(text, encoding="utf-8")
    result = run(*command, tmp_path / "shop.yaml")
    assert (result.exit_code, result.stdout) == (2, "")
    assert says in error_line(result)


def test_a_policy_that_is_missing_says_which_are_packaged(photo):
    result = run("check", photo, "--policy", "generall")
    assert result.exit_code == 2
    assert "did you mean 'general'?" in error_line(result)


@pytest.mark.parametrize("command", [("check", "photo.jpg", "--policy", "L1"), ("policy", "check", "L1"), ("info",)])
def test_a_bundle_that_does_not_open_is_one_line(tmp_path, command):
    result = run(*command, "--bundle", tmp_path)
    assert result.exit_code == 2
    assert "manifest.json: No such file or directory; a bundle is a folder" in error_line(result)


@pytest.mark.parametrize("args", [("check",), ("check", "photo.jpg"), ("check", "--policy", "L1"), ("chekc",),
                                  ("check", "photo.jpg", "--policy", "L1", "--jsno"), ("policy", "check")])
def test_a_wrong_call_is_status_2_with_the_reason_on_stderr(args):
    result = run(*args)
    assert (result.exit_code, result.stdout) == (2, "")
    assert "Error" in result.stderr and "Traceback" not in result.stderr


# policy check

def test_policy_check_shows_what_the_model_reads_and_how_long_it_is(tmp_path):
    (tmp_path / "shop.yaml").write_text(
        "name: shop\nrules:\n  - {id: guns, forbids: [guns, rifles], allows: toys, review_at: 0.25}\n"
        "  - {id: free, text: Nothing rude.}\n", encoding="utf-8")
    result = run("policy", "check", tmp_path / "shop.yaml")
    policy, bundle = Policy.load(tmp_path / "shop.yaml"), Bundle.embedded()
    engine = Guard(policy).engine
    guns, free = (engine.count_tokens(bundle.style.prefix(rule.canonical_text)) for rule in policy.rules)
    assert (result.exit_code, result.stderr) == (0, "")
    assert result.stdout == f"""\
shop, version 1: 2 rules, read by nano {bundle.version}
sha256 {policy.sha256}

guns: {guns} of {bundle.max_policy_tokens} tokens, review from 0.25, unsafe from 0.5
    Rule: guns
    Forbidden: guns; rifles
    Allowed: toys
    Photo:

free: {free} of {bundle.max_policy_tokens} tokens, unsafe from 0.5
    Nothing rude.
    Photo:

no warnings
"""


def test_policy_check_warns_of_likely_mistakes_and_they_are_no_failure():
    result = run("policy", "check", "L1")
    assert (result.exit_code, result.stderr) == (0, "")
    assert "1 warning\nwarning: rule 'anything': forbids nothing" in result.stdout


def test_policy_check_fails_for_a_rule_that_the_model_cannot_read_whole(tmp_path):
    (tmp_path / "long.txt").write_text("No dogs on the lawn. " * 400, encoding="utf-8")
    result = run("policy", "check", tmp_path / "long.txt")
    assert result.exit_code == 2
    assert "warning: rule 'policy': is " in result.stdout
    assert "error: long: too long for nano, which reads " in error_line(result)


def test_policy_list_names_every_packaged_policy_with_its_hash():
    result = run("policy", "list")
    assert [line.split()[:2] for line in result.stdout.splitlines()] == [
        [name, Policy.packaged(name).sha256[:12]] for name in Policy.packaged_names()]


# info

def test_info_says_which_versions_run_and_where():
    result = run("info", "--json")
    facts, bundle = json.loads(result.stdout), Bundle.embedded()
    assert (result.exit_code, result.stderr) == (0, "")
    assert (facts["safeguard"], facts["python"]) == (__version__, platform.python_version())
    assert facts["onnxruntime"]["packages"] and facts["onnxruntime"]["error"] is None
    assert "CPUExecutionProvider" in facts["onnxruntime"]["available_providers"]
    assert facts["cpu_features"] and facts["jpeg_decoder"] == jpeg_decoder()
    assert facts["bundle"]["providers"] == {
        graph: ["CPUExecutionProvider"] for graph in ("vision", "embed", "decoder")}
    assert (facts["bundle"]["path"], facts["bundle"]["sha256"]) == (str(EMBEDDED), bundle.sha256)
    assert facts["bundle"]["prompt"]["sha256"] == bundle.style.sha256
    assert facts["bundle"]["quantization"] == bundle.manifest["quantization"]
    assert facts["error"] is None


def test_info_is_readable_without_json():
    lines = run("info").stdout.splitlines()
    assert lines[0].split() == ["safeguard", __version__]
    assert any(line.split() == ["decoder", "CPUExecutionProvider"] for line in lines)
    assert any(line.split() == ["sha256", Bundle.embedded().sha256] for line in lines)


def test_info_still_says_what_runs_where_the_bundle_does_not(tmp_path):
    write_bundle(tmp_path)
    result = run("info", "--bundle", tmp_path, "--json")
    facts = json.loads(result.stdout)
    assert result.exit_code == 2
    assert facts["bundle"] is None and facts["onnxruntime"]["packages"]
    assert facts["error"] in error_line(result) and "vision.onnx" in facts["error"]


def test_version():
    result = run("--version")
    assert (result.exit_code, result.stdout) == (0, f"safeguard {__version__}\n")


# Being one program among others

def test_a_reader_that_goes_away_causes_no_traceback_and_no_success():
    process = start("policy", "list")
    process.stdout.close()
    process.stdout = None
    _, errors = process.communicate()
    assert (process.returncode, errors) == (2, "")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
@pytest.mark.parametrize("args", [("policy", "list"), ("policy", "check", "L1"), ("bundle", "info", EMBEDDED)])
def test_a_full_disk_is_a_failure_in_one_line_and_not_a_finding(args):
    with open("/dev/full", "w") as full:
        process = start(*args, stdout=full)
        _, errors = process.communicate()
    assert process.returncode == 2
    assert errors == "error: the output: cannot be written or read (No space left on device); see to the disk\n"


@pytest.mark.skipif(os.name == "nt", reason="closes streams as a POSIX shell does")
@pytest.mark.parametrize("closed, image, status", [(1, None, 0), (2, "missing.jpg", 2), (0, "-", 2)])
def test_closed_streams_change_neither_the_verdict_nor_the_status(policies, photo, closed, image, status):
    process = start("check", image or photo, "--policy", policies["safe"], preexec_fn=lambda: os.close(closed))
    _, errors = process.communicate()
    assert process.returncode == status
    says = "error: <stdin>: is closed; name a file, or send an image into the command\n"
    assert errors == (says if closed == 0 else "")


def test_a_fault_of_the_program_keeps_its_traceback_and_is_no_finding(policies, photo, monkeypatch):
    def fault(*_: object, **__: object) -> None:
        raise ZeroDivisionError("a fault")

    monkeypatch.setattr(Guard, "check", fault)
    result = run("check", photo, "--policy", policies["safe"])
    assert result.exit_code == 2 and "Traceback" in result.stderr and "ZeroDivisionError: a fault" in result.stderr


@pytest.mark.parametrize("no_color, codes", [("", True), ("1", False)])
def test_who_wants_no_colour_gets_none(policies, photo, no_color, codes):
    result = CliRunner(env={"NO_COLOR": no_color}).invoke(
        app, ["check", str(photo), "--policy", str(policies["safe"])], color=True)
    assert ("\x1b[" in result.stdout) == codes


@pytest.mark.parametrize("command", [("check", "x.jpg"), ("scan", "photos", "--out", "out")])
def test_of_two_policies_neither_is_passed_over_without_a_word(policies, command):
    result = run(*command, "--policy", policies["safe"], "--policy", policies["unsafe"])
    assert result.exit_code == 2 and "--policy is given 2 times" in error_line(result)


@pytest.mark.skipif(os.name == "nt", reason="signals")
def test_control_c_ends_with_status_130_and_no_traceback(policies, photo):
    process = start("check", photo, "-", "--policy", policies["safe"])
    assert process.stdout.readline().startswith("safe")  # now it waits for stdin
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate()
    assert (process.returncode, errors) == (130, "")


def test_importing_the_command_and_looking_at_a_policy_load_no_runtime():
    code = ("import sys, safeguard_sdk.cli as cli; cli.app(['policy', 'check', 'general'], standalone_mode=False); "
            "assert {'onnxruntime', 'torch', 'pyarrow'}.isdisjoint(sys.modules)")
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True, stdout=subprocess.DEVNULL)


def test_without_onnx_runtime_check_says_what_to_install(monkeypatch, photo):
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    monkeypatch.delitem(sys.modules, "safeguard_sdk.engine.onnx", raising=False)
    result = run("check", photo, "--policy", "L1")
    assert result.exit_code == 2
    assert "pip install 'safeguard[cpu]'" in error_line(result)


# Help and documents

COMMANDS = {**{command.callback.__name__: command.callback for command in app.registered_commands},
            **{f"policy {command.name}": command.callback for command in policy_app.registered_commands},
            **{f"bundle {command.name}": command.callback for command in bundle_app.registered_commands}}


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_has_help_with_an_example_and_stands_in_the_documents(name):
    assert f"Example: safeguard {name}" in COMMANDS[name].__doc__
    assert f"safeguard {name}" in (ROOT / "docs/cli.md").read_text(encoding="utf-8")
    result = run(*name.split(), "--help")
    assert result.exit_code == 0 and f"Example: safeguard {name}" in result.stdout


# Rows

def test_a_record_has_a_verdict_or_a_failure_and_never_both_or_neither(photo):
    verdict = Guard(Policy.packaged("L1")).check(photo)
    for one in ((None, None), (verdict, "unreadable")):
        with pytest.raises(ValueError, match=r"photo\.jpg: must have a verdict or a failure"):
            Record("photo.jpg", *one)


def test_a_failure_row_says_why_and_has_no_label():
    row = Record("photo.jpg", None, "photo.jpg: has zero bytes", "empty").as_json()
    assert row == dict.fromkeys(FIELDS) | {
        "path": "photo.jpg", "error": {"kind": "empty", "message": "photo.jpg: has zero bytes"}}
