"""Many requests, one engine: images that arrive together are judged together.

A batch goes to the engine as soon as the engine is free and one of three is true: the batch is full; no other image is
being decoded, so that waiting is in vain; the first image has waited for `delay`.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field

from safeguard_sdk.serve.judging import Outcome, Question

OF_THE_LAST = 0.25  # share of the last batch in the running mean of seconds an image


@dataclass(frozen=True, slots=True)
class Answer:
    """What became of a question, and how long it took, in seconds."""

    outcome: Outcome
    queue: float   # until the engine began
    engine: float  # the whole batch


@dataclass(eq=False, slots=True)
class _Waiting:
    question: Question
    answer: asyncio.Future[Answer]
    since: float = field(default_factory=time.perf_counter)


class Batches:
    """Runs on one event loop; the engine has a thread of its own.

    judge   questions → an outcome for each; called on the engine's thread alone
    size    questions of a batch, at most
    delay   seconds that a question waits for others, at most, while the engine is free
    watch   called after each batch with its images and the seconds that it took
    """

    def __init__(self, judge: Callable[[Sequence[Question]], list[Outcome]], size: int, delay: float,
                 watch: Callable[[int, float], None]) -> None:
        self._judge, self._size, self._delay, self._watch = judge, size, delay, watch
        self._waiting: deque[_Waiting] = deque()
        self._coming = 0
        self._changed = asyncio.Event()
        self._engine_thread = ThreadPoolExecutor(1, thread_name_prefix="engine")
        self.seconds_an_image = 0.0  # a running mean

    async def run(self) -> None:
        """Judges until it is cancelled."""
        while True:
            batch = await self._next()
            started = time.perf_counter()
            try:
                outcomes = await self.on_engine_thread(self._judge, [one.question for one in batch])
            except Exception as error:
                outcomes = [error] * len(batch)
            seconds = time.perf_counter() - started
            self._learn(seconds / len(batch))
            self._watch(len(batch), seconds)
            for one, outcome in zip(batch, outcomes, strict=True):
                if not one.answer.done():  # its request was given up meanwhile
                    one.answer.set_result(Answer(outcome, started - one.since, seconds))

    async def ask(self, question: Question) -> Answer:
        """Cancelled, it leaves the queue."""
        waiting = _Waiting(question, asyncio.get_running_loop().create_future())
        self._waiting.append(waiting)
        self._changed.set()
        return await waiting.answer

    @contextmanager
    def expecting(self) -> Iterator[None]:
        """While an image is decoded that will be asked about: a batch waits for it a moment."""
        self._coming += 1
        try:
            yield
        finally:
            self._coming -= 1
            self._changed.set()

    async def on_engine_thread(self, call: Callable, *arguments: object) -> object:
        """What the call returns; the engine does nothing else meanwhile."""
        return await asyncio.get_running_loop().run_in_executor(self._engine_thread, call, *arguments)

    @property
    def waiting(self) -> int:
        """Questions that the engine has not begun with."""
        return len(self._waiting)

    def close(self) -> None:
        """Waits for the engine to end what it is at."""
        self._engine_thread.shutdown()

    async def _next(self) -> list[_Waiting]:
        while True:
            while self._waiting and self._waiting[0].answer.done():
                self._waiting.popleft()
            patience = self._patience()
            if patience == 0 and (batch := self._take()):
                return batch
            self._changed.clear()
            try:
                async with asyncio.timeout(patience):
                    await self._changed.wait()
            except TimeoutError:
                pass

    def _patience(self) -> float | None:
        """Seconds to wait for a better batch; None where there is nothing to judge."""
        if not self._waiting:
            return None
        if len(self._waiting) >= self._size or not self._coming:
            return 0
        return max(0.0, self._waiting[0].since + self._delay - time.perf_counter())

    def _take(self) -> list[_Waiting]:
        batch: list[_Waiting] = []
        while self._waiting and len(batch) < self._size:
            one = self._waiting.popleft()
            if not one.answer.done():
                batch.append(one)
        return batch

    def _learn(self, seconds: float) -> None:
        last = self.seconds_an_image or seconds
        self.seconds_an_image = last + OF_THE_LAST * (seconds - last)
