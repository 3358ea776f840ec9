"""`safeguard serve` as a process: how it begins, what signals do to it, and how it ends."""

import json
import os
import queue
import shutil
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest
from typer.testing import CliRunner

from safeguard_sdk import Guard, Policy, PolicyError
from safeguard_sdk.cli import app as command
from safeguard_sdk.scan.output import ScanFolder

pytest.importorskip("fastapi", reason="the service needs the extra serve")

from serve_world import SECONDS, counted, running, tiny_engine, wait_until

from safeguard_sdk.serve.app import create_app
from safeguard_sdk.serve.policies import PolicyFile, reload_policies
from safeguard_sdk.serve.server import bind

ROOT = Path(__file__).parents[1]
COMMAND = "from safeguard_sdk.cli import app; app(prog_name='safeguard')"
HANGS = """
import sys
from pathlib import Path
sys.path.insert(0, "tests")
from serve_world import HeldEngine, tiny_engine
from safeguard_sdk.serve import app, logs, server
logs.to_json_lines()
engine = tiny_engine(Path(sys.argv[1]), HeldEngine)
server.run(app.create_app(engine, ["L1"]), server.bind("127.0.0.1", 0))
"""
BLOCKS = """
import sys, threading
from pathlib import Path
sys.path.insert(0, "tests")
from serve_world import tiny_engine
from safeguard_sdk.serve import app, logs, policies, server
from safeguard_sdk.serve.service import Service

def never_ends(file):
    logs.log("reading")
    threading.Event().wait()

async def stop(service):
    logs.log("stopping")
    await stop_of_service(service)

logs.to_json_lines()
application = app.create_app(tiny_engine(Path(sys.argv[1])), ["L1"])
policies.PolicyFile.read, Service.stop, stop_of_service = never_ends, stop, Service.stop
server.run(application, server.bind("127.0.0.1", 0))
"""
POLICY = "rules:\n  - {id: drinks, forbids: [coffee, beer]}\n"

TAKEN = ("safeguard_requests_in_work", 'safeguard_requests_total{route="/v1/check",status="200"}')

needs_signals = pytest.mark.skipif(not hasattr(signal, "SIGHUP"), reason="this system has no SIGHUP")


class Process:
    """A service, its address and the lines of its log."""

    def __init__(self, process: subprocess.Popen, lines: queue.SimpleQueue) -> None:
        self.process, self._lines = process, lines
        self.client = httpx.Client(base_url=self.event("listening")["url"], timeout=SECONDS)

    def event(self, name: str) -> dict:
        """The next line of the log that tells of such an event."""
        while True:
            line = self._lines.get(timeout=2 * SECONDS)
            if line["event"] == name:
                return line


def read_log(process: subprocess.Popen, lines: queue.SimpleQueue) -> None:
    for line in process.stdout:
        lines.put(json.loads(line))


@contextmanager
def serving(code: str, *arguments: object,
            first: Callable[[subprocess.Popen], None] = lambda process: None) -> Iterator[Process]:
    """A process that serves; `first` is done to it while it begins."""
    environment = {key: value for key, value in os.environ.items() if key != "SAFEGUARD_API_KEYS"}
    with subprocess.Popen([sys.executable, "-c", code, *map(str, arguments)], cwd=ROOT, stdout=subprocess.PIPE,
                          env=environment | {"PYTHONPATH": str(ROOT)}, text=True) as process:
        lines = queue.SimpleQueue()
        reader = threading.Thread(target=read_log, args=(process, lines))
        reader.start()
        try:
            first(process)
            service = Process(process, lines)
            with service.client:
                yield service
        finally:
            process.kill()
            reader.join()  # before the log is closed


@needs_signals
def test_it_judges_as_a_guard_does_reloads_on_sighup_and_drains_on_sigterm(photos, tmp_path):
    file, image = tmp_path / "shop.yaml", photos["coffee.png"].read_bytes()
    file.write_text(POLICY, encoding="utf-8")
    expected = Guard(Policy.load(file)).check(image)
    with serving(COMMAND, "serve", "--policy", file, "--port", 0, "--batch-size", 2) as service:
        answer = service.client.post("/v1/check", content=image).json()
        assert answer["rules"] == {rule: round(score, 6) for rule, score in expected.rules.items()}
        assert service.event("request")["label"] == answer["label"] == expected.label

        file.write_text("rules:\n  - {id: drinks, forbid: [coffee, beer]}\n", encoding="utf-8")
        service.process.send_signal(signal.SIGHUP)
        assert "unknown key 'forbid'" in service.event("reload_refused")["error"]
        policy = service.client.get("/v1/policies").json()["policies"][0]
        assert policy["sha256"] == Policy.from_yaml(POLICY).sha256

        file.write_text("rules:\n  - {id: cups, text: No cups., unsafe_at: 0}\n", encoding="utf-8")
        service.process.send_signal(signal.SIGHUP)
        assert service.event("reloaded")["policies"] == {"shop": Policy.load(file).sha256}

        with ThreadPoolExecutor(6) as threads:
            taken = [threads.submit(service.client.post, "/v1/check", content=image) for _ in range(6)]
            wait_until(lambda: sum(counted(service.client, sample) for sample in TAKEN) == 7)
            service.process.send_signal(signal.SIGTERM)
            answers = [one.result(SECONDS) for one in taken]
        assert [(one.status_code, one.json()["label"], one.json()["rule"]) for one in answers] == [
            (200, "unsafe", "cups")] * 6
        assert service.process.wait(SECONDS) == 0
        service.event("ended")


@needs_signals
def test_a_second_signal_ends_it_whatever_the_engine_is_at(photos, tmp_path):
    with serving(HANGS, tmp_path / "bundle") as service, ThreadPoolExecutor(1) as threads:
        lost = threads.submit(service.client.post, "/v1/check", content=photos["coffee.png"].read_bytes())
        wait_until(lambda: counted(service.client, "safeguard_requests_in_work") == 1)
        service.process.send_signal(signal.SIGTERM)
        wait_until(lambda: service.client.get("/readyz").status_code == 503)
        service.process.send_signal(signal.SIGTERM)
        assert service.process.wait(SECONDS / 2) == 2
        assert lost.exception(SECONDS) or lost.result().status_code == 500
        service.event("ended_at_once")


@needs_signals
def test_a_second_signal_ends_it_even_while_the_file_of_a_policy_cannot_be_read(tmp_path):
    with serving(BLOCKS, tmp_path / "bundle") as service:
        service.process.send_signal(signal.SIGHUP)
        service.event("reading")
        service.process.send_signal(signal.SIGTERM)
        service.event("stopping")  # and waits for the thread that reads
        service.process.send_signal(signal.SIGTERM)
        assert service.process.wait(SECONDS / 2) == 2
        service.event("ended_at_once")


@needs_signals
def test_sighup_before_it_listens_is_nothing(tmp_path):
    keys = tmp_path / "keys"
    os.mkfifo(keys)

    def hang_up(process: subprocess.Popen) -> None:
        with open(keys, "w") as pipe:  # as soon as the command reads it
            process.send_signal(signal.SIGHUP)
            pipe.write("a-key-of-sixteen-letters\n")

    with serving(COMMAND, "serve", "--policy", "L1", "--port", 0, "--api-keys", keys, first=hang_up) as service:
        assert service.client.get("/readyz").status_code == 200


@needs_signals
def test_a_pipe_is_no_policy_to_be_read_again(tmp_path):
    file = tmp_path / "shop.yaml"
    file.write_text(POLICY, encoding="utf-8")
    engine, files = tiny_engine(tmp_path / "bundle"), [PolicyFile.parse(str(file)), PolicyFile.parse("L1")]
    assert reload_policies(files, engine).keys() == {"shop", "L1"}
    file.unlink()
    os.mkfifo(file)
    with pytest.raises(PolicyError, match="is a pipe or a device"):
        reload_policies(files, engine)


def test_without_a_policy_of_its_own_it_judges_by_that_of_the_scan_it_shows(scanned, tmp_path):
    out = shutil.copytree(scanned, tmp_path / "out")
    with running(create_app(tiny_engine(tmp_path / "bundle"), (), review=out)) as client:
        (policy,) = client.get("/v1/policies").json()["policies"]
        assert policy["name"] == "scan"
        assert policy["sha256"] == ScanFolder.open(out).hashes.policy_sha256
        assert client.get("/review").status_code == 200


def test_every_other_address_than_this_machine_s_own_needs_keys(monkeypatch, tmp_path):
    monkeypatch.delenv("SAFEGUARD_API_KEYS", raising=False)
    for host in ("0.0.0.0", "::", "192.0.2.1", "shop.example"):
        assert "needs API keys" in refusal("--policy", "L1", "--host", host)


def test_what_keeps_it_from_beginning_is_one_line(monkeypatch, tmp_path):
    monkeypatch.delenv("SAFEGUARD_API_KEYS", raising=False)
    bad, keys = tmp_path / "bad.yaml", tmp_path / "keys"
    bad.write_text("rules: []\n", encoding="utf-8")
    keys.write_text("short\n", encoding="utf-8")
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        for arguments, told in {
            ("--policy", "L1", "--port", port): f"cannot listen on 127.0.0.1 port {port}",
            ("--policy", "L1", "--api-keys", keys): "key 1 must be at least 16",
            ("--policy", "L1", "--port", 99999): "port is 99999, must be in 0…65535",
            ("--policy", "L1", "--port", -1): "port is -1, must be in 0…65535",
            ("--policy", "L1", "--allow-urls", "*"): "is no host",
            ("--policy", bad): f"{bad}, line 1: rules is empty",
            ("--policy", "L1", "--bundle", tmp_path): "manifest.json",
        }.items():
            assert told in refusal(*(("--port", 0) if "--port" not in arguments else ()), *arguments)


@pytest.mark.parametrize("option, value", [
    ("--threads", -3), ("--batch-size", 0), ("--batch-delay", -5), ("--queue", 0), ("--timeout", 0), ("--max-image", 0),
    ("--max-pixels", 0), ("--prefix-memory", -1)])
def test_a_number_that_an_option_cannot_have_is_told_by_the_name_of_the_option(option, value):
    run = CliRunner().invoke(command, ["serve", "--policy", "L1", option, str(value)])
    assert (run.exit_code, run.stdout) == (2, "") and f"Invalid value for '{option}'" in run.stderr


def test_small_answers_leave_at_once():
    """A socket that does not name its protocol gets no TCP_NODELAY of asyncio, and an answer takes 40 ms longer."""
    with bind("127.0.0.1", 0) as listener:
        assert listener.proto == socket.IPPROTO_TCP


def test_without_its_extra_it_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "prometheus_client", None)
    assert "pip install 'safeguard[serve]'" in refusal("--policy", "L1")


def test_the_command_imports_nothing_of_a_service_before_it_serves():
    code = "import sys, safeguard_sdk.cli; print({'fastapi', 'uvicorn', 'httpcore'} & set(sys.modules))"
    run = subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True, stdout=subprocess.PIPE, text=True)
    assert run.stdout == "set()\n"


def refusal(*arguments: object) -> str:
    run = CliRunner().invoke(command, ["serve", *map(str, arguments)])
    assert (run.exit_code, run.stdout) == (2, "")
    assert run.stderr.startswith("error: ") and run.stderr.count("\n") == 1
    return run.stderr
