"""The examples run, or say what the service understands."""

import re
import sqlite3
import time
from pathlib import Path

import pytest
import typer
import yaml

from safeguard_sdk import Guard, Policy
from safeguard_sdk.cli import app as command

ROOT = Path(__file__).parents[1]
DOCKER = ROOT / "examples" / "docker"


@pytest.fixture(scope="module")
def guard() -> Guard:
    """One short rule, so that a verdict takes little."""
    return Guard(Policy.from_text("No coffee."))


def test_the_upload_handler_answers_by_the_verdict(guard, photos, monkeypatch):
    pytest.importorskip("fastapi", reason="the example needs the extra serve")
    from serve_world import running_anything

    from examples import upload_handler
    monkeypatch.setattr(upload_handler, "guard", guard)
    images = {name: photos[name].read_bytes() for name in ("coffee.png", "china.jpg")}
    with running_anything(upload_handler.app) as client:
        for name, image in images.items():
            verdict, answer = guard.check(image), client.post("/photos", files={"photo": (name, image)})
            if verdict.label == "unsafe":
                assert (answer.status_code, answer.json()["detail"]["score"]) == (403, verdict.score)
            else:
                assert answer.json() == {"label": verdict.label, "score": verdict.score}
        cut_off = client.post("/photos", files={"photo": images["china.jpg"][:20_000]})
        assert (cut_off.status_code, cut_off.json()["detail"]["kind"]) == (422, "truncated")
        assert client.post("/photos", files={"photo": bytes((20 << 20) + 1)}).status_code == 413


def test_the_queue_worker_finishes_the_table_and_what_a_dead_one_left(guard, photos, tmp_path):
    from examples import queue_worker
    broken = tmp_path / "broken.jpg"
    broken.write_bytes(b"\xff\xd8\xff")
    jobs = tmp_path / "jobs.db"
    create = re.search(r'"(CREATE TABLE .*?)"', queue_worker.__doc__, re.DOTALL)[1]
    with sqlite3.connect(jobs) as table:
        table.execute(create)
        now = time.time()
        table.executemany("INSERT INTO photos (path, taken) VALUES (?, ?)", [
            (str(photos["coffee.png"]), 0), (str(broken), 0),
            (str(photos["china.jpg"]), now - 10_000),  # taken long ago by one that died
            (str(photos["chelsea.png"]), now)])        # somebody is at it
    table.close()
    assert queue_worker.work(str(jobs), guard) == 3
    with sqlite3.connect(jobs) as table:
        rows = {Path(path).name: row for path, *row in
                table.execute("SELECT path, label, rule, score, failure FROM photos").fetchall()}
    table.close()
    for name in ("coffee.png", "china.jpg"):
        verdict = guard.check(photos[name])
        assert rows[name] == [verdict.label, verdict.rule, verdict.score, None]
    assert rows["broken.jpg"][0] is None and rows["broken.jpg"][3].startswith("bad_header: ")
    assert rows["chelsea.png"] == [None] * 4


# Containers

def compose(*names: str) -> dict:
    """The one service of these files, later ones over earlier ones, as docker compose joins them."""
    joined: dict = {}
    for name in names:
        (service,) = yaml.safe_load((DOCKER / name).read_text(encoding="utf-8"))["services"].values()
        for key, value in service.items():
            if isinstance(value, dict):
                joined[key] = joined.get(key, {}) | value
            elif key in ("volumes", "secrets"):
                joined[key] = joined.get(key, []) + value
            else:
                joined[key] = value
    return joined


def options_of_serve() -> set[str]:
    serve = typer.main.get_command(command).commands["serve"]
    return {option for parameter in serve.params for option in parameter.opts}


@pytest.mark.parametrize("files", [("compose.yaml",), ("compose.yaml", "compose.gpu.yaml")])
def test_the_container_may_do_little_and_is_watched(files):
    service = compose(*files)
    assert service["read_only"] is True and service["cap_drop"] == ["ALL"]
    assert service["user"] == "10001:10001" and "no-new-privileges:true" in service["security_opt"]
    assert all(volume.endswith(":ro") for volume in service["volumes"])
    assert service["ports"] == ["127.0.0.1:8000:8000"]
    assert "/readyz" in service["healthcheck"]["test"][-1]
    assert int(service["stop_grace_period"].removesuffix("s")) > 30, "less than a request may take"
    assert "--api-keys" in service["command"]
    assert {word for word in service["command"] if word.startswith("--")} <= options_of_serve()
    assert (DOCKER / service["build"]["context"] / service["build"]["dockerfile"]).resolve() == DOCKER / "Dockerfile"


def test_the_variant_for_a_gpu_asks_for_one_and_runs_there():
    service = compose("compose.yaml", "compose.gpu.yaml")
    (device,) = service["deploy"]["resources"]["reservations"]["devices"]
    assert device["capabilities"] == ["gpu"]
    assert service["command"][-2:] == ["--provider", "cuda"]
    assert service["build"]["args"]["RUNTIME"] == "gpu"


def test_the_image_ends_as_no_root_with_a_command_that_there_is():
    lines = (DOCKER / "Dockerfile").read_text(encoding="utf-8").replace("\\\n", " ").splitlines()
    last = {line.split()[0]: line for line in lines if line and not line.startswith("#")}
    assert last["USER"] == "USER 10001:10001"
    assert "/readyz" in last["HEALTHCHECK"]
    entry = yaml.safe_load(last["ENTRYPOINT"].removeprefix("ENTRYPOINT "))
    assert entry[:2] == ["safeguard", "serve"]
    assert {word for word in entry if word.startswith("--")} <= options_of_serve()


def test_what_is_copied_into_the_image_is_there_and_builds_the_wheel():
    kept = [line[1:] for line in (DOCKER / "Dockerfile.dockerignore").read_text(encoding="utf-8").splitlines()
            if line.startswith("!")]
    assert all((ROOT / name).exists() for name in kept)
    assert {"safeguard_sdk", "cpp_ext", "setup.py", "pyproject.toml", "MANIFEST.in"} <= set(kept)
