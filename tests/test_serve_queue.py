"""One engine, many requests: batches, the bounded queue, time limits, failures, an orderly end."""

import asyncio
import io
import socket
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import httpx
import numpy as np
import pytest
from PIL import Image
from scan_world import MeanEngine, pictures

from safeguard_sdk import EngineError, Guard, Policy, PolicyError, VerdictError
from safeguard_sdk.engine import ImageEmbedding, Prefix

pytest.importorskip("fastapi", reason="the service needs the extra serve")

from serve_world import DARK, SECONDS, HeldEngine, counted, policy_files, running, tiny_engine, wait_until

from safeguard_sdk.serve.app import create_app
from safeguard_sdk.serve.batching import Batches
from safeguard_sdk.serve.options import Options
from safeguard_sdk.serve.prefixes import Prefixes

HEAD = b"POST /v1/check HTTP/1.1\r\nHost: localhost\r\nContent-Length: %d\r\n\r\n"


@contextmanager
def held_service(folder: Path, **options: object) -> Iterator[tuple[httpx.Client, HeldEngine, ThreadPoolExecutor]]:
    """A service whose engine judges nothing until it is let, and threads to ask it with."""
    engine = tiny_engine(folder / "bundle", HeldEngine)
    app = create_app(engine, policy_files(folder, dark=DARK), Options(**options))
    with ThreadPoolExecutor(40) as threads, running(app) as client:
        try:
            yield client, engine, threads
        finally:
            engine.may_judge.set()


def ask(client: httpx.Client, threads: ThreadPoolExecutor, images: Sequence[bytes]) -> list[Future]:
    return [threads.submit(client.post, "/v1/check", content=image) for image in images]


def in_work(client: httpx.Client) -> float:
    return counted(client, "safeguard_requests_in_work")


def test_what_arrives_while_the_engine_is_busy_is_judged_together_and_gets_its_own_verdict(photos, tmp_path):
    images = pictures(photos["china.jpg"], 12)
    with held_service(tmp_path, batch_size=4) as (client, engine, threads):
        first = ask(client, threads, images[:1])
        assert engine.is_asked.wait(SECONDS)
        rest = ask(client, threads, images[1:])
        wait_until(lambda: counted(client, "safeguard_images_waiting") == 11)
        engine.may_judge.set()
        answers = [one.result(SECONDS).json() for one in first + rest]
    assert engine.batches == [1, 4, 4, 3]
    guard = Guard.on(tiny_engine(tmp_path / "alone"), Policy.from_yaml(DARK))
    for image, answer in zip(images, answers, strict=True):
        assert answer["rules"] == {rule: round(score, 6) for rule, score in guard.check(image).rules.items()}


def test_one_request_too_many_is_429_with_when_to_ask_again_and_the_service_recovers(photos, tmp_path):
    image = photos["flower.jpg"].read_bytes()
    with held_service(tmp_path, queue=3) as (client, engine, threads):
        taken = ask(client, threads, [image] * 3)
        wait_until(lambda: in_work(client) == 3)
        refused = client.post("/v1/check", content=image)
        assert (refused.status_code, refused.json()["error"]["kind"]) == (429, "queue_full")
        assert 1 <= int(refused.headers["Retry-After"]) <= 60
        engine.may_judge.set()
        assert [one.result(SECONDS).status_code for one in taken] == [200] * 3
        wait_until(lambda: in_work(client) == 0)
        assert client.post("/v1/check", content=image).status_code == 200
        assert counted(client, 'safeguard_failures_total{kind="queue_full"}') == 1


def test_what_could_not_be_answered_in_time_is_429_at_once(photos, tmp_path):
    image = photos["flower.jpg"].read_bytes()
    engine = tiny_engine(tmp_path / "bundle", HeldEngine)
    app = create_app(engine, policy_files(tmp_path, dark=DARK), Options(timeout=SECONDS))
    with ThreadPoolExecutor(3) as threads, running(app) as client:
        app.state.service._batches.seconds_an_image = SECONDS / 2.5  # as after slow batches
        taken = ask(client, threads, [image] * 3)
        wait_until(lambda: in_work(client) == 3)
        refused = client.post("/v1/check", content=image)
        assert (refused.status_code, refused.headers["Retry-After"]) == (429, "36")
        engine.may_judge.set()
        assert [one.result(SECONDS).status_code for one in taken] == [200] * 3
        assert client.post("/v1/check", content=image).status_code == 200


def test_images_that_fill_the_memory_given_to_them_are_429(photos, tmp_path):
    image = photos["flower.jpg"].read_bytes()
    with held_service(tmp_path, image_bytes=len(image), held_bytes=2 * len(image)) as (client, engine, threads):
        taken = ask(client, threads, [image] * 2)
        wait_until(lambda: counted(client, "safeguard_held_bytes") == 2 * len(image))
        assert client.post("/v1/check", content=image).status_code == 429
        engine.may_judge.set()
        assert [one.result(SECONDS).status_code for one in taken] == [200] * 2
        wait_until(lambda: counted(client, "safeguard_held_bytes") == 0)


def test_a_request_without_a_verdict_in_time_is_504_and_leaves_the_queue(photos, tmp_path):
    image = photos["flower.jpg"].read_bytes()
    with held_service(tmp_path, timeout=1, batch_size=1) as (client, engine, threads):
        answers = [one.result(SECONDS) for one in ask(client, threads, [image] * 3)]
        assert [(one.status_code, one.json()["error"]["kind"]) for one in answers] == [(504, "timeout")] * 3
        assert in_work(client) == 0
        engine.may_judge.set()
        assert client.post("/v1/check", content=image).status_code == 200
    assert engine.batches == [1, 1], "those that were given up were judged nevertheless"


def test_a_client_that_goes_leaves_the_queue(photos, tmp_path):
    image = photos["flower.jpg"].read_bytes()
    with held_service(tmp_path, batch_size=1) as (client, engine, threads):
        first = ask(client, threads, [image])
        assert engine.is_asked.wait(SECONDS)
        with socket.create_connection((client.base_url.host, client.base_url.port)) as gone:
            gone.sendall(HEAD % len(image) + image)
            wait_until(lambda: in_work(client) == 2)
        wait_until(lambda: in_work(client) == 1)
        engine.may_judge.set()
        assert first[0].result(SECONDS).status_code == 200
        assert counted(client, 'safeguard_requests_total{route="/v1/check",status="499"}') == 1
    assert engine.batches == [1]


def test_a_slow_client_is_not_waited_for_longer_than_the_time_limit(photos, tmp_path):
    with held_service(tmp_path, timeout=0.3) as (client, _, _), \
            socket.create_connection((client.base_url.host, client.base_url.port)) as slow:
        slow.sendall(HEAD % 1000 + b"abc")
        slow.settimeout(SECONDS)
        assert slow.recv(1000).startswith(b"HTTP/1.1 504")


class Breaks(MeanEngine):
    """Fails on the images that are all white, and on every batch that holds one."""

    def encode(self, pixel_values: Sequence) -> list[ImageEmbedding]:
        if any(one.min() > 1.9 for one in pixel_values):
            raise VerdictError("no number for it")
        return super().encode(pixel_values)


def test_where_the_engine_fails_is_a_500_and_the_others_of_its_batch_are_judged(photos, tmp_path):
    white = io.BytesIO()
    Image.new("RGB", (40, 30), "white").save(white, "PNG")
    good = pictures(photos["china.jpg"], 6)
    engine = tiny_engine(tmp_path / "bundle", Breaks)
    with running(create_app(engine, policy_files(tmp_path, dark=DARK), Options(batch_delay=0.5))) as client, \
            ThreadPoolExecutor(8) as threads:
        answers = [one.result(SECONDS) for one in ask(client, threads, [*good[:3], white.getvalue(), *good[3:]])]
        assert client.get("/readyz").status_code == 200
    assert [one.status_code for one in answers] == [200] * 3 + [500] + [200] * 3
    assert answers[3].json() == {"error": {"kind": "engine", "message": "the engine gave no verdict: no number for it"}}


def test_a_batch_waits_for_images_that_are_being_decoded_but_not_without_end():
    batches: list[list[int]] = []

    def judge(questions: Sequence[int]) -> list[int]:
        batches.append(list(questions))
        return list(questions)

    async def scenario() -> None:
        queue = Batches(judge, size=3, delay=0.5, watch=lambda images, seconds: None)

        async def decode_and_ask(question: int) -> None:
            with queue.expecting():
                await asyncio.sleep(0.02)
            await queue.ask(question)

        running = asyncio.create_task(queue.run())
        try:
            await queue.ask(1)  # nothing else is coming: at once
            await asyncio.gather(decode_and_ask(3), queue.ask(2))
            with queue.expecting():  # it never comes
                await queue.ask(4)
            with queue.expecting():
                await asyncio.gather(*(queue.ask(number) for number in (5, 6, 7, 8)))
        finally:
            running.cancel()
            await asyncio.gather(running, return_exceptions=True)
            queue.close()

    asyncio.run(scenario())
    assert batches == [[1], [2, 3], [4], [5, 6, 7], [8]]


def test_a_judge_that_fails_altogether_answers_with_its_error_and_the_next_batch_is_judged():
    calls = 0

    def judge(questions: Sequence[int]) -> list[int]:
        nonlocal calls
        calls += 1
        if calls == 1:
            raise EngineError("broken")
        return list(questions)

    async def scenario() -> list:
        queue = Batches(judge, size=2, delay=0, watch=lambda images, seconds: None)
        running = asyncio.create_task(queue.run())
        outcomes = [(await queue.ask(number)).outcome for number in (1, 2)]
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
        queue.close()
        return outcomes

    error, judged = asyncio.run(scenario())
    assert isinstance(error, EngineError) and judged == 2


# Prefixes

class Reads:
    """An engine that reads, ten bytes of keys and values for each word."""

    def __init__(self) -> None:
        self.texts: list[str] = []

    def read(self, text: str) -> Prefix:
        if text == "long":
            raise PolicyError("too long")
        self.texts.append(text)
        return Prefix((np.zeros(10 * len(text.split()), np.uint8),), len(text))


def test_prefixes_are_kept_within_their_memory_and_the_one_not_used_for_longest_goes():
    engine = Reads()
    prefixes = Prefixes(engine, most=30)
    for text in ("a", "b", "c", "a", "d", "a", "b"):  # d takes the place of b
        prefixes.read(text)
    assert engine.texts == ["a", "b", "c", "d", "b"]
    assert prefixes.nbytes == 30 and prefixes.reads == 5


def test_a_prefix_beyond_all_memory_is_read_each_time_and_what_cannot_be_read_is_not_kept():
    engine = Reads()
    prefixes = Prefixes(engine, most=30)
    assert [prefixes.read("one two three four").nbytes for _ in range(2)] == [40, 40]
    assert (len(engine.texts), prefixes.nbytes) == (2, 0)
    with pytest.raises(PolicyError):
        prefixes.read("long")


def test_verdicts_are_the_same_when_no_prefix_is_kept(photos, tmp_path):
    image = photos["china.jpg"].read_bytes()
    answers = []
    for most in (1, 1 << 30):
        engine = tiny_engine(tmp_path / "bundle")
        app = create_app(engine, policy_files(tmp_path, dark=DARK), Options(prefix_bytes=most))
        with running(app) as client:
            answers.append(client.post("/v1/check", content=image).json()["rules"])
    assert answers[0] == answers[1]


# The end

def test_a_service_that_judges_no_more_says_so_to_who_watches_it(tmp_path):
    app = create_app(tiny_engine(tmp_path / "bundle"), policy_files(tmp_path, dark=DARK))
    with running(app) as client:
        assert client.get("/healthz").status_code == 200
        app.state.service._running.get_loop().call_soon_threadsafe(app.state.service._running.cancel)
        wait_until(lambda: client.get("/healthz").status_code == 503)
        assert client.get("/readyz").status_code == 503


def test_while_it_drains_it_is_not_ready_and_answers_what_is_in_work_alone(photos, tmp_path):
    image = photos["flower.jpg"].read_bytes()
    engine = tiny_engine(tmp_path / "bundle", HeldEngine)
    app = create_app(engine, policy_files(tmp_path, dark=DARK))
    with ThreadPoolExecutor(1) as threads, running(app) as client:
        taken = ask(client, threads, [image])
        assert engine.is_asked.wait(SECONDS)
        app.state.service.draining = True
        assert client.get("/readyz").status_code == 503
        assert client.get("/healthz").status_code == 200
        refused = client.post("/v1/check", content=image)
        assert (refused.status_code, refused.json()["error"]["kind"]) == (503, "draining")
        assert "Retry-After" in refused.headers
        engine.may_judge.set()
        assert taken[0].result(SECONDS).json()["label"]
