"""What the routes share: one engine, the policies, the queue. Knows nothing of HTTP but the words for failures."""

from __future__ import annotations

import asyncio
import logging
import math
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

from safeguard_sdk.engine import Engine
from safeguard_sdk.errors import ImageError, SafeguardError
from safeguard_sdk.guard import prepare
from safeguard_sdk.serve.batching import Answer, Batches
from safeguard_sdk.serve.failures import RequestError
from safeguard_sdk.serve.judging import Judge, Question
from safeguard_sdk.serve.logs import log
from safeguard_sdk.serve.metrics import Metrics
from safeguard_sdk.serve.options import Options
from safeguard_sdk.serve.policies import Named, PolicyFile, PolicyOfScan, load_policies, reload_policies
from safeguard_sdk.serve.prefixes import Prefixes
from safeguard_sdk.verdict import Verdict

LONGEST_RETRY = 60  # seconds


class Service:
    """Reads all policies when it is made: PolicyError, ServeError.

    engine   of the bundle that judges; from now on for this service alone
    files    of its policies; the first is that of requests that name none
    """

    def __init__(self, engine: Engine, files: Sequence[PolicyFile | PolicyOfScan], options: Options) -> None:
        self.engine, self.options, self.metrics, self._files = engine, options, Metrics(), files
        self.draining = False  # set by a signal, never unset
        self._prefixes = Prefixes(engine, options.prefix_bytes)
        self._judge = Judge(engine, self._prefixes)
        self.policies: dict[str, Named] = load_policies(files, engine)
        self._warm(self.policies)
        self._batches = Batches(self._judge, options.batch_size, options.batch_delay, self.metrics.saw_batch)
        self._decoders = ThreadPoolExecutor(options.decoding_threads, thread_name_prefix="decoder")
        self._running: asyncio.Task | None = None
        self._reloading = asyncio.Lock()
        self._in_work = self._held_bytes = 0
        self.metrics.gauge("requests_in_work", "Requests that have a place in the queue.", lambda: self._in_work)
        self.metrics.gauge("images_waiting", "Images ready for the engine.", lambda: self._batches.waiting)
        self.metrics.gauge("held_bytes", "Of images that wait, as files.", lambda: self._held_bytes)
        self.metrics.gauge("prefix_bytes", "Of the KV caches of rules that are kept.", lambda: self._prefixes.nbytes)
        self.metrics.gauge("prefix_reads", "Rules that the engine has read so far.", lambda: self._prefixes.reads)

    def start(self) -> None:
        """On the event loop that it is to run on."""
        self._running = asyncio.create_task(self._batches.run())

    async def stop(self) -> None:
        """Once no request is in work."""
        self._running.cancel()
        await asyncio.gather(self._running, return_exceptions=True)
        self._batches.close()
        self._decoders.shutdown()

    @property
    def alive(self) -> bool:
        """Whether anything is judged any more."""
        return self._running is not None and not self._running.done()

    @property
    def ready(self) -> bool:
        return self.alive and not self.draining

    @property
    def idle(self) -> bool:
        return self._in_work == 0

    @contextmanager
    def place(self) -> Iterator[Callable[[int], None]]:
        """A place in the queue for one request, and what it tells of the bytes that it holds. Raises RequestError."""
        if self.draining:
            raise RequestError(503, "draining", "this service is about to end; ask another one, or this one later", 1)
        if self._in_work >= self.options.queue or self._seconds_ahead > self.options.timeout:
            raise self._full(f"{self._in_work} requests are in work, which is all that this service takes at a time")
        held = 0

        def hold(count: int) -> None:
            nonlocal held
            if self._held_bytes + count > self.options.held_bytes:
                raise self._full("the images in work fill the memory that this service gives them")
            held += count
            self._held_bytes += count

        self._in_work += 1
        try:
            yield hold
        finally:
            self._in_work -= 1
            self._held_bytes -= held

    async def judge(self, image: bytes, named: Named) -> Verdict:
        """As `Guard.check` under that policy; its `ms` are those of this service. Raises RequestError."""
        started = time.perf_counter()
        try:
            with self._batches.expecting():
                model_input, _ = await self.on_decoding_thread(
                    prepare, image, self.engine.bundle.geometry, "image", self.options.pixels)
        except ImageError as error:
            raise RequestError.of_image(error) from error
        decoded = time.perf_counter()
        answer = await self._batches.ask(Question(model_input, named.policy))
        seconds = {"decode": decoded - started, "queue": answer.queue, "engine": answer.engine}
        for stage, value in seconds.items():
            self.metrics.stages.labels(stage).observe(value)
        verdict = _verdict_of(answer)
        verdict.ms.update({stage: value * 1000 for stage, value in seconds.items()})
        return verdict

    async def on_decoding_thread(self, call: Callable, *arguments: object) -> object:
        """For work that takes longer than the event loop should wait."""
        return await asyncio.get_running_loop().run_in_executor(self._decoders, call, *arguments)

    async def reload(self) -> None:
        """Reads all files of policies again: all of them change at once, or none does where one is bad."""
        async with self._reloading:
            try:
                loaded = await self.on_decoding_thread(reload_policies, self._files, self.engine)
                await self._batches.on_engine_thread(self._warm, loaded)
            except Exception as error:  # whatever it is, the policies stay as they are
                self.metrics.reloads.labels("refused").inc()
                log("reload_refused", logging.ERROR, error=" ".join(str(error).split()) or type(error).__name__)
                return
            self.policies = loaded
            self.metrics.reloads.labels("done").inc()
            log("reloaded", policies={name: named.policy.sha256 for name, named in loaded.items()})

    def _warm(self, policies: dict[str, Named]) -> None:
        for named in policies.values():
            self._judge.read(named.policy)

    @property
    def _seconds_ahead(self) -> float:
        """That the engine will be busy with what is in work: one more request would wait for as long."""
        return self._in_work * self._batches.seconds_an_image

    def _full(self, why: str) -> RequestError:
        seconds = min(max(math.ceil(self._seconds_ahead), 1), LONGEST_RETRY)
        return RequestError(429, "queue_full", f"{why}; ask again later", seconds)


def _verdict_of(answer: Answer) -> Verdict:
    error = answer.outcome
    if isinstance(error, Verdict):
        return error
    told = " ".join(str(error).split()) if isinstance(error, SafeguardError) else "its runtime failed"
    raise RequestError(500, "engine", f"the engine gave no verdict: {told}") from error
