"""A service on a real socket, and engines that tests can hold up or break."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

import httpx
import uvicorn
from fastapi import FastAPI
from scan_world import MeanEngine
from tiny_bundle import write_bundle

from safeguard_sdk import Bundle
from safeguard_sdk.engine import ImageEmbedding
from safeguard_sdk.serve.server import Server, bind

DARK = "rules:\n  - {id: dark, text: Nothing dark.}\n  - {id: red, text: Nothing red., unsafe_at: 0.9}\n"
SECONDS = 30  # that a test waits for what should come at once


class HeldEngine(MeanEngine):
    """Judges once it is let: a slow engine, as long as a test wants it. `batches` has the size of each so far."""

    def __init__(self, bundle: Bundle) -> None:
        super().__init__(bundle)
        self.may_judge, self.is_asked = threading.Event(), threading.Event()
        self.batches: list[int] = []

    def encode(self, pixel_values: Sequence) -> list[ImageEmbedding]:
        self.batches.append(len(pixel_values))
        self.is_asked.set()
        assert self.may_judge.wait(SECONDS)
        return super().encode(pixel_values)


def tiny_engine(folder: Path, kind: Callable[[Bundle], MeanEngine] = MeanEngine) -> MeanEngine:
    folder.mkdir(exist_ok=True)
    return kind(Bundle.open(write_bundle(folder)))


def policy_files(folder: Path, **texts: str) -> list[str]:
    """Arguments of `--policy` for policies of these names."""
    arguments = []
    for name, text in texts.items():
        file = folder / f"{name}.yaml"
        file.write_text(text, encoding="utf-8")
        arguments.append(f"{name}={file}")
    return arguments


def running(app: FastAPI, host: str = "127.0.0.1") -> AbstractContextManager[httpx.Client]:
    """A client of the service, which its server runs on a free port."""
    return _running(Server(app), host)


def running_anything(app: FastAPI) -> AbstractContextManager[httpx.Client]:
    """The same of an application of another kind."""
    return _running(uvicorn.Server(uvicorn.Config(app, log_config=None, access_log=False)))


def wait_until(true: Callable[[], bool]) -> None:
    pause = threading.Event()
    for _ in range(SECONDS * 100):
        if true():
            return
        pause.wait(0.01)
    raise AssertionError(f"did not become true within {SECONDS} s")


def counted(client: httpx.Client, sample: str) -> float:
    """A sample of /metrics, such as 'safeguard_failures_total{kind="timeout"}'; 0 if there is none."""
    lines = (line.rpartition(" ") for line in client.get("/metrics").text.splitlines())
    return next((float(value) for name, _, value in lines if name == sample), 0.0)


@contextmanager
def _running(server: uvicorn.Server, host: str = "127.0.0.1") -> Iterator[httpx.Client]:
    with bind(host, 0) as listener:
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
        thread.start()
        try:
            with httpx.Client(base_url=f"http://{host}:{listener.getsockname()[1]}", timeout=SECONDS) as client:
                wait_until(lambda: server.started)
                yield client
        finally:
            server.should_exit = True
            thread.join(SECONDS)
