"""What the service costs beyond its engine, how long requests wait, and what it does beyond what it can do.

    python -m benchmarks.serve                                nano: throughput and latency at 1, 8 and 64 clients
    python -m benchmarks.serve --cheap --requests 100000      an engine that costs nothing: is any answer lost or wrong?
    python -m benchmarks.serve --seconds 600 --clients 8      does its memory grow?

The service is a process of its own on 127.0.0.1, under its default limits; the clients are in this one, so they share
the machine. Every verdict is compared with that of `Guard.check`; a share of the requests is hostile and must be an
error. `check_many` is measured before and after, in this process. Needs the extras cpu, serve, demo and bench. The last
line is JSON. Numbers count only if nothing else runs: `load` says what did.
"""

from __future__ import annotations

import asyncio
import io
import itertools
import json
import random
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated

import numpy as np
import psutil
import typer
from PIL import Image

from benchmarks.speed import machine
from benchmarks.speed.photos import sample_photos, until
from safeguard_sdk import Bundle, Guard, Policy
from safeguard_sdk.bundle import EMBEDDED
from safeguard_sdk.engine import Engine, ImageEmbedding, Prefix, open_engine
from safeguard_sdk.serve import logs, server
from safeguard_sdk.serve.app import create_app
from safeguard_sdk.serve.checks import verdict_as_json
from safeguard_sdk.serve.options import Options
from safeguard_sdk.serve.policies import Named

COMPARED = ("label", "score", "rule", "rules", "policy_sha256", "bundle_sha256", "prompt_sha256")
BUSY = 0.8            # share of the measured throughput at which waiting is measured
BEYOND = 2.0          # and at which the queue overflows
GIVEN_UP = 120        # seconds after which an answer is lost
NOT_NOW = (429, 503, 504)  # statuses that may answer any request
MIB = 1 << 20
SIDE = 64             # pixels that the cheap engine takes


@dataclass
class Result:
    """Of one load."""

    seconds: float = 0.0
    took: list[float] = field(default_factory=list)      # seconds of each verdict
    statuses: Counter = field(default_factory=Counter)
    wrong: int = 0                                       # photos without Guard.check's verdict, others with one
    lost: Counter = field(default_factory=Counter)       # no answer at all, by what came instead
    rss: list[int] = field(default_factory=list)         # of the service, bytes, once a second

    def as_json(self) -> dict:
        p50, p99 = np.percentile(self.took, [50, 99]) * 1000 if self.took else (float("nan"),) * 2
        held = [round(value / MIB, 1) for value in self.rss]
        return {"verdicts": len(self.took), "img_per_s": round(len(self.took) / self.seconds, 2),
                "p50_ms": round(p50, 1), "p99_ms": round(p99, 1), "p99_to_p50": round(p99 / p50, 2),
                "statuses": {str(status): count for status, count in sorted(self.statuses.items())},
                "wrong": self.wrong, "lost": dict(self.lost),
                "rss_mib": {"first": held[0], "last": held[-1], "most": max(held)} if held else None}


@dataclass(frozen=True)
class Body:
    """What a client sends, and the verdict that it must get; None for one that must be refused."""

    data: bytes
    verdict: dict | None


def main(
    bundle: Annotated[Path, typer.Option(help="Folder of a bundle; default: nano.", show_default=False)] = EMBEDDED,
    policy: Annotated[str, typer.Option(help="Policy file or name of a packaged policy.")] = "general",
    seconds: Annotated[float, typer.Option(help="For each load.")] = 20,
    clients: Annotated[list[int] | None, typer.Option(help="How many ask at a time; by default 1, 8 and 64.")] = None,
    requests: Annotated[int, typer.Option(help="Requests of the largest number of clients, in place of seconds.")] = 0,
    hostile: Annotated[float, typer.Option(help="Share of the requests that no verdict may come of.")] = 0.05,
    cheap: Annotated[bool, typer.Option("--cheap", help="An engine that costs nothing, to see the service.")] = False,
    as_service: Annotated[bool, typer.Option("--as-service", hidden=True)] = False,
) -> None:
    """Load a service and see what becomes of the requests."""
    engine = _CheapEngine(Bundle.open(bundle)) if cheap else open_engine(Bundle.open(bundle))
    if as_service:
        serve(engine, policy)
        return
    guard = Guard.on(engine, Policy.load(policy))
    photos = sample_photos()
    bodies = mixed(guard, photos, hostile)
    result = {"system": "safeguard serve", "machine": machine.describe(), "load": round(psutil.getloadavg()[0], 2),
              "bundle": guard.bundle.name, "cheap": cheap,
              "policy_sha256": guard.policy.sha256, "rules": len(guard.policy.rules), "hostile": hostile}
    direct = [check_many_rate(guard, photos, seconds)]
    arguments = ["--bundle", str(bundle), "--policy", policy, *(["--cheap"] if cheap else [])]
    with service(arguments) as (port, process):
        counts = sorted(clients or (1, 8, 64))
        loads = {f"{count} clients": closed(count, port, process, bodies, seconds) for count in counts[:-1]}
        loads[f"{counts[-1]} clients"] = full = closed(counts[-1], port, process, bodies, seconds, requests)
        rate = sum(full.statuses.values()) / full.seconds
        for name, share, gaps in ((f"even, {BUSY:.0%}", BUSY, evenly), (f"at random, {BUSY:.0%}", BUSY, at_random),
                                  (f"at random, {BEYOND:.0%}", BEYOND, at_random)):
            loads[name] = opened(gaps(share * rate), port, process, bodies, seconds)
        loads["afterwards"] = closed(1, port, process, bodies, min(seconds, 5))
    direct.append(check_many_rate(guard, photos, seconds))
    result["check_many_img_per_s"] = [round(rate, 2) for rate in direct]
    result["loads"] = {name: load.as_json() | {"to_check_many": round(
        len(load.took) / load.seconds / (sum(direct) / 2), 3)} for name, load in loads.items()}
    p50, p99 = np.quantile(times_in_queue(BUSY), (0.5, 0.99))
    result["queue_p99_to_p50"] = round(p99 / p50, 2)
    for name, load in result["loads"].items():
        print(f"{name:15} {load['img_per_s']:8} img/s  {load['to_check_many']:6} of check_many  p50 {load['p50_ms']} ms"
              f"  p99 {load['p99_ms']} ms  {load['statuses']}  wrong {load['wrong']}  lost {load['lost']}")
    print(f"at {BUSY:.0%}, at random, a queue before one server that judges image by image has {p99 / p50:.1f} as "
          "p99 / p50")
    print(json.dumps(result))


def serve(engine: Engine, policy: str) -> None:
    with server.bind("127.0.0.1", 0) as listener:
        logs.to_json_lines()
        server.run(create_app(engine, [f"measured={policy}"], Options()), listener)


@contextmanager
def service(arguments: list[str]) -> Iterator[tuple[int, psutil.Process]]:
    """Its port and its process."""
    with tempfile.TemporaryDirectory() as folder, open(Path(folder) / "log", "w+") as log, subprocess.Popen(
            [sys.executable, "-m", "benchmarks.serve", "--as-service", *arguments], stdout=log) as process:
        try:
            while not (line := Path(log.name).read_text(encoding="utf-8").partition("\n")[0]).endswith("}"):
                if process.poll() is not None:
                    raise SystemExit("error: the service did not begin; see above")
                time.sleep(0.1)
            yield int(json.loads(line)["url"].rpartition(":")[2]), psutil.Process(process.pid)
        finally:
            process.terminate()


def mixed(guard: Guard, photos: Sequence[bytes], hostile: float) -> list[Body]:
    """A thousand bodies in an order that is the same every time."""
    named = Named("measured", guard.policy)
    good = [Body(photo, {key: verdict_as_json(guard.check(photo), named)[key] for key in COMPARED})
            for photo in photos]
    bad = [Body(data, None) for data in (b"", b"GIF89a", b"<svg/>", photos[0][:2000], _bomb(), bytes(100_000))]
    choose = random.Random(0)
    return [choose.choice(bad if choose.random() < hostile else good) for _ in range(1000)]


def check_many_rate(guard: Guard, photos: list[bytes], seconds: float) -> float:
    """Images per second of `check_many`."""
    list(guard.check_many(photos))
    started = time.perf_counter()
    judged = sum(1 for _ in guard.check_many(until(seconds, photos)))
    return judged / (time.perf_counter() - started)


def closed(count: int, port: int, process: psutil.Process, bodies: list[Body], seconds: float,
           requests: int = 0) -> Result:
    """Clients that ask again once they are answered, for that long or that often."""
    async def run(result: Result) -> None:
        end = time.perf_counter() + seconds
        left = itertools.cycle(bodies) if not requests else iter([bodies[n % len(bodies)] for n in range(requests)])

        async def client() -> None:
            async with connection(port) as ask:
                for body in left:
                    await judge(ask, body, result)
                    if not requests and time.perf_counter() >= end:
                        return

        await asyncio.gather(*(client() for _ in range(count)))

    return measured(run, process)


def evenly(rate: float) -> Iterator[float]:
    """Seconds between requests of steady clients, that many a second."""
    return itertools.repeat(1 / rate)


def at_random(rate: float) -> Iterator[float]:
    """The same of clients that know nothing of each other (Poisson)."""
    moments = random.Random(1)
    while True:
        yield moments.expovariate(rate)


def opened(gaps: Iterator[float], port: int, process: psutil.Process, bodies: list[Body], seconds: float) -> Result:
    """Requests that come when they come, so many seconds after each other, whatever was answered."""
    async def run(result: Result) -> None:
        idle: list[_Connection] = []

        async def one(body: Body) -> None:
            if not idle:
                idle.append(_Connection(port))
            ask = idle.pop()
            await judge(ask, body, result)
            idle.append(ask)

        asked, start = [], time.perf_counter()
        due = start
        for body, gap in zip(itertools.cycle(bodies), gaps, strict=False):
            due += gap
            if due > start + seconds:
                break
            await asyncio.sleep(max(0, due - time.perf_counter()))
            asked.append(asyncio.create_task(one(body)))
        await asyncio.gather(*asked)
        for ask in idle:
            await ask.close()

    return measured(run, process)


def times_in_queue(load: float, requests: int = 1_000_000) -> np.ndarray:
    """Waiting and service, in units of the service, of requests that come at random to one server which takes the same
    time for each (M/D/1): what a service without batches could reach, itself for nothing. Lindley's recursion."""
    gaps = np.random.default_rng(0).exponential(1 / load, requests)
    ahead = np.cumsum(1 - gaps)
    return 1 + ahead - np.minimum.accumulate(np.minimum(ahead, 0))


def measured(run: Callable[[Result], Awaitable[None]], process: psutil.Process) -> Result:
    """What `run` fills in, and the memory of the service meanwhile."""
    result = Result()

    async def watch() -> None:
        while True:
            result.rss.append(process.memory_info().rss)
            await asyncio.sleep(1)

    async def all_of_it() -> None:
        watching = asyncio.create_task(watch())
        started = time.perf_counter()
        await run(result)
        result.seconds = time.perf_counter() - started
        watching.cancel()

    asyncio.run(all_of_it())
    return result


async def judge(ask: _Connection, body: Body, result: Result) -> None:
    started = time.perf_counter()
    try:
        status, answer = await asyncio.wait_for(ask(body.data), GIVEN_UP)
    except (OSError, EOFError, TimeoutError) as error:
        await ask.close()
        result.lost[type(error).__name__] += 1
        return
    result.statuses[status] += 1
    if status == 200:
        result.took.append(time.perf_counter() - started)
    if status not in NOT_NOW:
        given = {key: json.loads(answer)[key] for key in COMPARED} if status == 200 else None
        result.wrong += given != body.verdict or status >= 500


class _Connection:
    """HTTP/1.1 with as little as a client can do with, for it shares the cores with the service."""

    def __init__(self, port: int) -> None:
        self._port, self._streams = port, None

    async def __call__(self, body: bytes) -> tuple[int, bytes]:
        if self._streams is None:
            self._streams = await asyncio.open_connection("127.0.0.1", self._port)
        reader, writer = self._streams
        writer.write(b"POST /v1/check HTTP/1.1\r\nHost: localhost\r\nContent-Length: %d\r\n\r\n" % len(body) + body)
        head = (await reader.readuntil(b"\r\n\r\n")).lower()
        length = int(head.partition(b"content-length: ")[2].partition(b"\r\n")[0])
        answer = await reader.readexactly(length)
        if b"connection: close" in head:
            await self.close()
        return int(head.split()[1]), answer

    async def close(self) -> None:
        if self._streams is not None:
            self._streams[1].close()
            self._streams = None


@asynccontextmanager
async def connection(port: int) -> AsyncIterator[_Connection]:
    ask = _Connection(port)
    try:
        yield ask
    finally:
        await ask.close()


class _CheapEngine:
    """Scores by the mean colour of an image and the length of a rule: no work, and another score for each image."""

    def __init__(self, bundle: Bundle) -> None:
        self.bundle = replace(bundle, geometry=replace(bundle.geometry, side=SIDE))

    def count_tokens(self, text: str) -> int:
        return len(text.split())

    def read(self, text: str) -> Prefix:
        return Prefix((), len(text))

    def encode(self, images: Iterable[np.ndarray]) -> list[ImageEmbedding]:
        return [ImageEmbedding(image.mean(axis=(1, 2))[None]) for image in images]

    def score(self, prefix: Prefix, images: Sequence[ImageEmbedding]) -> np.ndarray:
        weights = np.cos(np.arange(1, 4) * prefix.length).astype(np.float32)
        logits = [float((image.tokens[0] * weights).sum()) for image in images]
        return np.array([[-logit, logit] for logit in logits], np.float32)


def _bomb() -> bytes:
    """A small file of more pixels than the service takes."""
    file = io.BytesIO()
    Image.new("1", (10_000, 6_000)).save(file, "PNG")
    return file.getvalue()


if __name__ == "__main__":
    typer.run(main)
