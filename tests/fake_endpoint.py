"""An OpenAI-compatible endpoint on 127.0.0.1: real sockets, answers by a plain function."""

from __future__ import annotations

import base64
import io
import json
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from PIL import Image


@dataclass
class Asked:
    """One request as it came in."""

    path: str
    raw: bytes
    headers: dict[str, str]

    @cached_property
    def body(self) -> dict:
        return json.loads(self.raw)

    @property
    def image(self) -> Image.Image:
        url = self.body["messages"][0]["content"][0]["image_url"]["url"]
        return Image.open(io.BytesIO(base64.b64decode(url.removeprefix("data:image/jpeg;base64,"))))

    @property
    def prompt(self) -> str:
        return self.body["messages"][0]["content"][1]["text"]


@dataclass
class Reply:
    """What goes back; `retry-after-ms` keeps the client's pauses short."""

    status: int
    data: bytes
    headers: dict[str, str] = field(default_factory=lambda: {"content-type": "application/json", "retry-after-ms": "1"})


def says(text: object, finish_reason: str = "stop", **message) -> Reply:
    """A whole answer of the chat completions API."""
    choice = {"index": 0, "finish_reason": finish_reason,
              "message": {"role": "assistant", "content": text} | message}
    return as_json({"id": "1", "object": "chat.completion", "created": 0, "model": "fake", "choices": [choice]})


def fails(status: int, message: str = "no") -> Reply:
    return Reply(status, json.dumps({"error": {"message": message}}).encode())


def as_json(value: object) -> Reply:
    return Reply(200, json.dumps(value).encode())


class FakeEndpoint:
    """`answer` is called for every request, on a thread of its own; `asked` are all requests so far."""

    def __init__(self, answer: Callable[[Asked], Reply]) -> None:
        self.answer = answer
        self.asked: list[Asked] = []
        endpoint = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                raw = self.rfile.read(int(self.headers["content-length"]))
                asked = Asked(self.path, raw, {name.lower(): value for name, value in self.headers.items()})
                endpoint.asked.append(asked)
                reply = endpoint.answer(asked)
                try:
                    self.send_response(reply.status)
                    for name, value in (reply.headers | {"content-length": str(len(reply.data))}).items():
                        self.send_header(name, value)
                    self.end_headers()
                    self.wfile.write(reply.data)
                except (BrokenPipeError, ConnectionResetError):  # a client that waits no longer
                    self.close_connection = True

            def log_message(self, *_: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.01})

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._server.server_port}/v1"

    def __enter__(self) -> FakeEndpoint:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()
