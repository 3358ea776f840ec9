"""Connections to the service: nobody keeps one for nothing, and what has begun is not cut off."""

import socket
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest

pytest.importorskip("fastapi", reason="the service needs the extra serve")

from serve_world import DARK, SECONDS, HeldEngine, policy_files, running, tiny_engine

from safeguard_sdk.serve import server
from safeguard_sdk.serve.app import create_app
from safeguard_sdk.serve.options import Options

ASKED = b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n"
BODY_TO_COME = b"POST /v1/nothing HTTP/1.1\r\nHost: localhost\r\nContent-Length: 100000\r\n\r\nabc"
STDOUT_CLOSED = """
import os
from safeguard_sdk.serve import logs
logs.to_json_lines()
os.close(1)
logs.log("request")
"""
BROKEN_FORM = """
from python_multipart.multipart import MultipartParseError, MultipartParser
from safeguard_sdk.serve import logs
logs.to_json_lines()
try:
    MultipartParser(b"x", {}).write(b"no boundary")
except MultipartParseError:
    print("refused")
"""


@contextmanager
def connected(client: httpx.Client) -> Iterator[socket.socket]:
    with socket.create_connection((client.base_url.host, client.base_url.port)) as connection:
        connection.settimeout(SECONDS)
        yield connection


def read_to_its_end(connection: socket.socket) -> bytes:
    """All that comes until the service closes the connection; TimeoutError if it does not."""
    return b"".join(iter(lambda: connection.recv(1 << 16), b""))


@pytest.mark.parametrize("answered, sent", [
    (b"", b""),              # never a byte
    (b"", ASKED[:20]),       # never the end of a header
    (ASKED, b""),            # likewise after an answer
    (ASKED, ASKED[:20]),
    (BODY_TO_COME, b"abc"),  # answered without its body, which never ends
])
def test_a_connection_without_the_header_of_a_request_is_closed_in_time(tmp_path, monkeypatch, answered, sent):
    monkeypatch.setattr(server, "KEEP_ALIVE", 0.3)
    app = create_app(tiny_engine(tmp_path / "bundle"), policy_files(tmp_path, dark=DARK))
    with running(app) as client, connected(client) as connection:
        connection.sendall(answered)
        if answered:
            assert connection.recv(1 << 16).startswith(b"HTTP/1.1 ")
        connection.sendall(sent)
        assert b"HTTP/1.1 " not in read_to_its_end(connection)


def test_a_request_in_work_is_not_cut_off_however_long_it_takes(photos, tmp_path, monkeypatch):
    monkeypatch.setattr(server, "KEEP_ALIVE", 0.2)
    engine = tiny_engine(tmp_path / "bundle", HeldEngine)
    app = create_app(engine, policy_files(tmp_path, dark=DARK))
    with ThreadPoolExecutor(1) as threads, running(app) as client, connected(client) as connection:
        asked = threads.submit(client.post, "/v1/check", content=photos["flower.jpg"].read_bytes())
        assert engine.is_asked.wait(SECONDS)
        assert read_to_its_end(connection) == b""  # this one, meanwhile, had nothing to ask
        engine.may_judge.set()
        assert asked.result(SECONDS).status_code == 200


def test_a_body_that_does_not_come_in_time_is_504_and_its_connection_is_closed(tmp_path):
    app = create_app(tiny_engine(tmp_path / "bundle"), policy_files(tmp_path, dark=DARK), Options(timeout=0.3))
    with running(app) as client, connected(client) as connection:
        connection.sendall(BODY_TO_COME.replace(b"/v1/nothing", b"/v1/check"))
        assert read_to_its_end(connection).startswith(b"HTTP/1.1 504")


def test_what_is_no_http_is_refused_by_the_server_itself_in_plain_text(tmp_path):
    app = create_app(tiny_engine(tmp_path / "bundle"), policy_files(tmp_path, dark=DARK))
    with running(app) as client, connected(client) as connection:
        connection.sendall(b"no HTTP\r\n\r\n")
        head, _, body = read_to_its_end(connection).partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 400") and b"text/plain" in head and b"x-request-id" not in head.lower()
    assert b"{" not in body


# The process's streams

def test_where_stdout_is_closed_the_log_says_nothing_on_stderr():
    run = subprocess.run([sys.executable, "-c", STDOUT_CLOSED], cwd=Path(__file__).parents[1], stderr=subprocess.PIPE,
                         text=True)
    assert "Traceback" not in run.stderr and "Logging error" not in run.stderr


def test_a_broken_form_says_nothing_on_stderr():
    run = subprocess.run([sys.executable, "-c", BROKEN_FORM], cwd=Path(__file__).parents[1], capture_output=True,
                         text=True)
    assert (run.stdout, run.stderr) == ("refused\n", "")
