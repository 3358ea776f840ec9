"""A model behind an OpenAI-compatible endpoint, over real sockets: whatever it does, a question has an answer or a
reason, and a fault of the whole endpoint stops the run."""

from __future__ import annotations

import socket
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from fake_endpoint import FakeEndpoint, Reply, as_json, fails, says

from training.errors import TrainingError
from training.recaption.endpoint import Endpoint
from training.recaption.models import MODEL_ERROR_KINDS, ModelError, Question, model_name, open_model
from training.recaption.pipeline import recaption
from training.recaption.prompts import Sampling


@pytest.fixture
def question(small) -> Question:
    return Question(small, "What is this?", Sampling(temperature=0.7, max_tokens=1024), seed=7)


def ask(url: str, question: Question, **how) -> str:
    model = Endpoint("tiny", url, concurrency=1, **({"retries": 2, "timeout": 30.0} | how))
    try:
        return model.ask(question)
    finally:
        model.close()


# What is sent

def test_the_photo_the_prompt_and_the_sampling_are_sent(question, small):
    with FakeEndpoint(lambda asked: says("A temple.")) as endpoint:
        assert ask(endpoint.url, question) == "A temple."
    (asked,) = endpoint.asked
    body = asked.body
    assert (body["model"], body["temperature"], body["max_tokens"], body["seed"]) == ("tiny", 0.7, 1024, 7)
    assert asked.prompt == "What is this?"
    difference = np.abs(np.asarray(asked.image, int) - np.asarray(small, int))
    assert asked.image.size == (96, 64) and difference.mean() < 3  # JPEG


def test_the_key_comes_from_the_environment(question, monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", "secret")
    with FakeEndpoint(lambda asked: says("Yes.")) as endpoint:
        ask(endpoint.url, question)
    assert endpoint.asked[0].headers["authorization"] == "Bearer secret"


def test_blanks_and_line_ends_around_the_key_are_not_sent(question, monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", " secret\n")
    with FakeEndpoint(lambda asked: says("Yes.")) as endpoint:
        ask(endpoint.url, question)
    assert endpoint.asked[0].headers["authorization"] == "Bearer secret"


@pytest.mark.parametrize("key", ["secret\nsecret", "sécret", "secret secret", "secret\x7f"])
def test_what_cannot_be_a_key_stops_the_run_at_its_start_and_is_never_shown(monkeypatch, tmp_path, key):
    monkeypatch.setenv("OPENAI_API_KEY", key)
    (tmp_path / "a.png").touch()
    with pytest.raises(TrainingError, match="OPENAI_API_KEY has a blank, a line end") as caught:
        recaption(tmp_path, "no/model", "gemma@http://127.0.0.1:1/v1", tmp_path / "out")
    assert "cret" not in str(caught.value) and not (tmp_path / "out").exists()


def test_questions_are_asked_at_once(question):
    together = threading.Barrier(4)  # nobody is answered before four have asked
    with FakeEndpoint(lambda asked: (together.wait(timeout=20), says("Yes."))[1]) as endpoint:
        model = Endpoint("tiny", endpoint.url, concurrency=4, retries=0)
        with ThreadPoolExecutor(model.concurrency) as pool:
            assert list(pool.map(model.ask, [question] * 4)) == ["Yes."] * 4
        model.close()


# What comes back

@pytest.mark.parametrize("status", [408, 409, 429, 500, 502, 503])
def test_a_passing_fault_is_tried_again(question, status):
    replies = [fails(status), fails(status), says("A temple.")]
    with FakeEndpoint(lambda asked: replies.pop(0)) as endpoint:
        assert ask(endpoint.url, question) == "A temple."
    assert len(endpoint.asked) == 3


FAULTS = {  # reply: (kind, what the message says, how often it is asked)
    "too many requests without end": (fails(429, "slow down"), "overloaded", "slow down", 3),
    "a server error without end": (fails(500, "out of memory"), "server_error", "out of memory", 3),
    "a photo that it does not take": (fails(400, "image too large"), "rejected_request", "image too large", 1),
    "a prompt that is too long": (fails(413), "rejected_request", "413", 1),
    "no JSON": (Reply(200, b"{'oops"), "malformed", "", None),
    "a web page": (Reply(200, b"<html>", {"content-type": "text/html"}), "malformed", "", None),
    "no choices": (as_json({"id": "1"}), "malformed", "no message", 1),
    "an empty list of choices": (as_json({"choices": []}), "malformed", "no message", 1),
    "choices of another kind": (as_json({"choices": "none"}), "malformed", "no message", 1),
    "a list": (as_json([1]), "malformed", "", None),
    "no message": (as_json({"choices": [{"index": 0}]}), "malformed", "no message", 1),
    "no text": (says(None), "malformed", "NoneType", 1),
    "text that is a number": (says(7), "malformed", "int", 1),
    "half a character": (says("\ud83d"), "malformed", "no valid Unicode", 1),
    "nothing": (says(""), "empty", "empty", 1),
    "blanks": (says(" \n"), "empty", "empty", 1),
    "an answer that was cut off": (says("A temple and", "length"), "truncated", "cut off", 1),
    "an answer that was filtered": (says("", "content_filter"), "filtered", "content_filter", 1),
    "a refusal in its own field": (says(None, refusal="I will not."), "filtered", "I will not.", 1),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_question_that_has_no_answer_has_a_reason(question, fault):
    reply, kind, says_so, times = FAULTS[fault]
    with FakeEndpoint(lambda asked: reply) as endpoint, pytest.raises(ModelError) as caught:
        ask(endpoint.url, question)
    assert caught.value.kind == kind in MODEL_ERROR_KINDS
    assert says_so in str(caught.value) and "\n" not in str(caught.value)
    assert times is None or len(endpoint.asked) == times


def test_a_question_that_is_not_answered_in_time_is_asked_again_and_then_given_up(question):
    done = threading.Event()
    with FakeEndpoint(lambda asked: (done.wait(20), says("Late."))[1]) as endpoint:
        with pytest.raises(ModelError, match=r"no answer in 0\.2 s, 2 tries") as caught:
            ask(endpoint.url, question, timeout=0.2, retries=1)
        done.set()
    assert caught.value.kind == "timeout"
    assert len(endpoint.asked) == 2


def drop(reply: bytes) -> tuple[str, threading.Thread]:
    """The address of a server that reads a request, sends `reply` and closes; three times."""
    server = socket.create_server(("127.0.0.1", 0))

    def serve() -> None:
        with server:
            for _ in range(3):
                connection, _ = server.accept()
                with connection:
                    connection.recv(1 << 20)
                    connection.sendall(reply)

    thread = threading.Thread(target=serve)
    thread.start()
    return f"http://127.0.0.1:{server.getsockname()[1]}/v1", thread


@pytest.mark.parametrize("reply", [b"", b"HTTP/1.1 200 OK\r\ncontent-length: 99\r\n\r\n{", b"SSH-2.0-OpenSSH\r\n"])
def test_a_connection_that_is_dropped_each_time_is_a_failure_of_this_question(question, reply):
    url, thread = drop(reply)
    with pytest.raises(ModelError, match=r"the connection was dropped, 3 tries: ") as caught:
        ask(url, question)
    thread.join()
    assert caught.value.kind == "disconnected" and "\n" not in str(caught.value)


def test_a_pause_that_is_too_long_to_wait_for_is_told(question):
    reply = Reply(429, b"{}", {"content-type": "application/json", "retry-after": "121"})
    with FakeEndpoint(lambda asked: reply) as endpoint, pytest.raises(ModelError) as caught:
        ask(endpoint.url, question, retries=0)
    assert "without the pause of 121 s that it asks for (run again later, with --retry-failed)" in str(caught.value)


@pytest.mark.parametrize("status, says_so", [(401, "OPENAI_API_KEY"), (403, "OPENAI_API_KEY"), (404, "'tiny'")])
def test_an_endpoint_that_takes_no_question_stops_the_run(question, status, says_so):
    with FakeEndpoint(lambda asked: fails(status)) as endpoint, pytest.raises(TrainingError, match=says_so) as caught:
        ask(endpoint.url, question)
    assert endpoint.url in str(caught.value) and "\n" not in str(caught.value)


def test_an_endpoint_that_is_not_there_stops_the_run(question):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{free.getsockname()[1]}/v1"
    with pytest.raises(TrainingError, match=r"cannot be reached .* start the server and run the command again"):
        ask(url, question, retries=0)


def test_closing_gives_up_what_is_under_way(question):
    done = threading.Event()
    with FakeEndpoint(lambda asked: (done.wait(20), says("Late."))[1]) as endpoint:
        model = Endpoint("tiny", endpoint.url, concurrency=1, retries=5)
        with ThreadPoolExecutor(1) as pool:
            asked = pool.submit(model.ask, question)
            while not endpoint.asked:
                time.sleep(0.01)
            model.close()
            done.set()
            asked.exception(timeout=15)  # it ends, answered or not


# Names

@pytest.mark.parametrize("spec, name", [
    ("gemma-3-27b-it@http://127.0.0.1:8000/v1", "gemma-3-27b-it"), ("a@b@https://host/v1", "a@b"),
    ("Qwen/Qwen2.5-VL-7B-Instruct", "Qwen/Qwen2.5-VL-7B-Instruct")])
def test_the_name_of_a_model_is_told_from_its_address(spec, name):
    assert model_name(spec) == name


@pytest.mark.parametrize("spec", ["m@http://[::1/v1", "m@localhost:8000/v1", "m@http://", "m@http:/host/v1", "m@",
                                  "m@http://host:port/v1", "m@http://a host/v1", "@http://host/v1"])
def test_an_address_that_cannot_be_one_is_one_clear_line(spec):
    with pytest.raises(TrainingError, match=r"names no model, and no address .* NAME@http://HOST:PORT/v1") as caught:
        open_model(spec, concurrency=1)
    assert spec in str(caught.value) and "\n" not in str(caught.value)


def test_a_folder_may_have_an_at_in_its_name(tmp_path):
    (tmp_path / "mine@home").mkdir()
    assert model_name(str(tmp_path / "mine@home")) == str(tmp_path / "mine@home")


def test_http_may_stand_in_capitals(question):
    with FakeEndpoint(lambda asked: says("Yes.")) as endpoint:
        model = open_model(f"tiny@{endpoint.url.replace('http', 'HTTP')}", concurrency=1)
        assert model.ask(question) == "Yes."
        model.close()


def test_a_model_with_an_address_is_an_endpoint():
    model = open_model("gemma@http://127.0.0.1:1/v1", concurrency=3)
    assert (model.name, model.concurrency, type(model)) == ("gemma", 3, Endpoint)
    model.close()


def test_a_missing_client_is_one_clear_line(monkeypatch):
    monkeypatch.setitem(sys.modules, "openai", None)
    with pytest.raises(TrainingError, match=r"needs the package openai .* pip install 'safeguard\[train\]'"):
        open_model("gemma@http://127.0.0.1:1/v1", concurrency=1)
