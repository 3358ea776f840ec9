"""The way of an item: read → decode and prepare → judge → write, each stage on threads of its own, and decoding in
processes. Channels of bounded weight lie between them, so that a slow stage holds the ones before it and memory stays
as it is.

    _read    one thread goes through the sources
    _decode  a thread for each decoding process; what is known by its sha256 goes straight on to be written
    _judge   one thread runs the engine, on as many images of one shape as are ready
    _write   one thread settles outcomes, makes rows and parts
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import replace
from typing import Protocol

from safeguard_sdk.engine import ImageEmbedding
from safeguard_sdk.errors import ImageError, VerdictError
from safeguard_sdk.guard import Guard
from safeguard_sdk.record import Record
from safeguard_sdk.scan.batches import batches
from safeguard_sdk.scan.channel import Channel, Stopped
from safeguard_sdk.scan.decoding import TRIES, Decoder, Prepared
from safeguard_sdk.scan.item import Item
from safeguard_sdk.scan.job import Job, Ready, Settled
from safeguard_sdk.scan.ledger import Ledger, Outcome
from safeguard_sdk.scan.options import Options, Progress
from safeguard_sdk.scan.pace import Pace
from safeguard_sdk.scan.rows import Hashes, Row, row_of
from safeguard_sdk.scan.thumbnail import thumbnail_of
from safeguard_sdk.verdict import LABELS, Verdict

ITEM_WEIGHT = 64 << 10        # bytes: an item weighs its data and this
WAITING_BYTES = 128 << 20     # of archive members that are read and not decoded
IN_FLIGHT = 8192              # items between being claimed and having a row
SETTLED_BYTES = 64 << 20      # of outcomes that wait to be written, some with pixels or embeddings
ROWS_AT_ONCE = 1024
CACHED_BYTES = 128 << 20      # of embeddings in one part
TICK_SECONDS = 0.1


class RowSink(Protocol):
    """Where rows go: a ScanFolder, or whatever else keeps them."""

    hashes: Hashes

    def add(self, rows: list[Row], embeddings: bytes | None = None) -> None:
        """Keep rows, and what `encode_embeddings` has made of their images."""


class Pipeline:
    """Judges items and writes a row for each; a content that the ledger knows is not judged again."""

    def __init__(self, guard: Guard, folder: RowSink, ledger: Ledger[Job], options: Options,
                 progress: Progress) -> None:
        self._guard, self._folder, self._ledger = guard, folder, ledger
        self._options, self._progress = options, progress
        self._claimed: Channel[None] = Channel(IN_FLIGHT)
        self._items: Channel[Job] = Channel(WAITING_BYTES)
        self._ready: Channel[Ready] = Channel(2 * options.batch_size)
        self._settled: Channel[Settled] = Channel(SETTLED_BYTES)
        self._pace = Pace(options.max_rate)
        self._decoding = options.workers
        self._decoding_lock = threading.Lock()
        self._failure: BaseException | None = None
        self._rows: list[Row] = []
        self._cached: list[tuple[str, int, bytes]] = []  # (sha256, frame, embedding) of the rows
        self._cached_bytes = 0
        self._began_part = time.monotonic()

    def run(self, items: Iterable[tuple[Item, bytes]], tick: Callable[[], None] = lambda: None) -> None:
        """Returns when all items have rows. Raises what made it stop; the rows until then are written on Ctrl-C.

        items  with their identities: those that `ledger.claim` has given, or another ledger
        tick   is called ten times a second, on the thread of the caller
        """
        self._run([(self._read, items)] + [(self._decode,)] * self._decoding, tick)

    def run_ready(self, ready: Iterable[Ready], tick: Callable[[], None] = lambda: None) -> None:
        """The same for images that are encoded already."""
        self._run([(self._hand_on, ready)], tick)

    def _run(self, stages: list[tuple], tick: Callable[[], None]) -> None:
        stages = [*stages, (self._judge,), (self._write,)]
        threads = [threading.Thread(target=self._guarded, args=stage, name=stage[0].__name__, daemon=True)
                   for stage in stages]
        for thread in threads:
            thread.start()
        try:
            self._wait_for(threads, tick)
        except KeyboardInterrupt:
            for gate in (self._items, self._claimed, self._pace):
                gate.stop()                    # what is being decoded is still judged and written
            self._wait_for(threads[1:], tick)  # the first may wait for a source that says nothing
            raise
        if self._failure is not None:
            raise self._failure

    def _wait_for(self, threads: list[threading.Thread], tick: Callable[[], None]) -> None:
        for thread in threads:
            while thread.is_alive():
                thread.join(TICK_SECONDS)
                tick()

    def _guarded(self, stage: Callable, *arguments: object) -> None:
        try:
            stage(*arguments)
        except Stopped:
            pass
        except BaseException as error:  # raised again by `run`, on the thread of the caller
            self._failure = self._failure or error
            for gate in (self._claimed, self._items, self._ready, self._settled, self._pace):
                gate.stop()

    # read

    def _read(self, items: Iterable[tuple[Item, bytes]]) -> None:
        for item, identity in items:
            self._claimed.put(None)
            self._items.put(Job(item, identity), weight=len(item.data or b"") + ITEM_WEIGHT)
        self._items.close()

    def _hand_on(self, ready: Iterable[Ready]) -> None:
        try:
            for one in ready:
                self._claimed.put(None)
                if (failure := one.job.item.failure) is not None:
                    self._settle(Settled(one.job, _failed(failure, one.job.item.name), is_new=False))
                    continue
                if not self._is_known(one.job):
                    self._ready.put(one, one.weight)
        finally:
            self._ready.close()

    def _is_known(self, job: Job) -> bool:
        """Whether its content has an outcome, with which it is settled, or is being judged, for which it waits."""
        known = self._ledger.known(job.sha256, job)
        if isinstance(known, Outcome):
            self._settle(Settled(job, known, is_new=False, is_duplicate=True))
        return known is not False

    # decode

    def _decode(self) -> None:
        decoder = Decoder(self._guard.bundle.geometry, self._options.limits)
        try:
            while taken := self._items.take():
                self._decode_one(decoder, taken[0])
                del taken  # its data need not wait with this thread
        finally:
            decoder.close()
            with self._decoding_lock:
                self._decoding -= 1
                if not self._decoding:
                    self._ready.close()

    def _decode_one(self, decoder: Decoder, job: Job) -> None:
        item, job.item = job.item, replace(job.item, data=None, load=None)
        try:
            if item.failure is not None:
                raise item.failure
            self._pace.wait()
            if item.load is not None:
                item = replace(item, data=item.load(), load=None)
            job.sha256, job.size = _again_if_it_crashes(lambda: _read_content(decoder, item))
        except ImageError as error:
            self._settle(Settled(job, _failed(error, item.name), is_new=False))
            return
        if self._is_known(job):
            return
        try:
            prepared = self._prepared(decoder, item, job.sha256)
        except ImageError as error:
            self._settle(Settled(job, _failed(error, item.name), is_new=True))
            return
        ready = Ready(job, prepared.frames, prepared.nbytes, prepared, pdq=prepared.pdq)
        self._ready.put(ready, ready.weight)

    def _prepared(self, decoder: Decoder, item: Item, sha256: str) -> Prepared:
        """Of an item that the decoder has read."""
        has_read = True

        def prepare() -> Prepared:
            nonlocal has_read
            if not has_read and _read_content(decoder, item)[0] != sha256:
                raise ImageError(f"{item.name}: changed while it was read; scan it when it is finished", "unreadable")
            has_read = False  # should it crash
            return decoder.prepare(item.name, self._options.frames, self._options.near_duplicates,
                                   item.kind == "video")

        return _again_if_it_crashes(prepare)

    def _settle(self, settled: Settled) -> None:
        self._settled.put(settled, settled.nbytes + ITEM_WEIGHT)

    # judge

    def _judge(self) -> None:
        for batch in batches(self._ready, self._options.batch_size):
            started = time.perf_counter()
            results = self._judged(batch)
            self._progress.engine_seconds += time.perf_counter() - started
            for settled in results:
                self._settle(settled)
            del batch, results
        self._settled.close()

    def _judged(self, batch: list[Ready]) -> list[Settled]:
        try:
            embeddings = self._encoded(batch)
            verdicts = self._guard.judge([one for row in embeddings for one in row])
        except VerdictError as error:
            if len(batch) > 1:  # one image must not take the others along
                return [settled for ready in batch for settled in self._judged([ready])]
            outcome = Outcome(None, failure_kind="no_verdict", failure=f"has no verdict ({error})")
            return [Settled(batch[0].job, outcome, is_new=True)]
        results = []
        for ready, encoded in zip(batch, embeddings, strict=True):
            own, verdicts = verdicts[:len(encoded)], verdicts[len(encoded):]
            results.append(self._settled_by(ready, own, encoded))
        return results

    def _encoded(self, batch: list[Ready]) -> list[list[ImageEmbedding]]:
        """For each job the embeddings of its frames; the engine sees no more than a batch at a time."""
        fresh = [frame for ready in batch if ready.prepared is not None for frame in ready.prepared.inputs]
        encoded: list[ImageEmbedding] = []
        for start in range(0, len(fresh), self._options.batch_size):
            encoded += self._guard.engine.encode(fresh[start:start + self._options.batch_size])
        rows = []
        for ready in batch:
            if ready.embeddings is not None:
                rows.append(ready.embeddings)
            else:
                rows.append(encoded[:len(ready.frames)])
                encoded = encoded[len(ready.frames):]
        return rows

    def _settled_by(self, ready: Ready, verdicts: list[Verdict], embeddings: list[ImageEmbedding]) -> Settled:
        """The gravest frame counts, of equally grave ones that with the highest score, then the first."""
        worst = max(range(len(verdicts)), key=lambda at: (LABELS.index(verdicts[at].label), verdicts[at].score, -at))
        verdict = verdicts[worst]
        outcome = Outcome(verdict.label, verdict.score, verdict.rule, verdict.rules,
                          ready.frames[worst] if len(verdicts) > 1 else None, pdq=ready.pdq)
        settled = Settled(ready.job, outcome, is_new=True)
        if self._options.thumbnails and ready.prepared is not None and (
                verdict.label != "safe" or self._options.near_duplicates):  # any image may turn out to have a copy
            settled.picture = ready.prepared.inputs[worst], ready.prepared.sizes[worst]
        if self._options.cache_embeddings:
            settled.embeddings, settled.frames = tuple(map(self._guard.engine.pack, embeddings)), ready.frames
        return settled

    # write

    def _write(self) -> None:
        while not self._settled.over:
            for settled in self._settled.take(ROWS_AT_ONCE, patience=1.0):
                outcome = settled.outcome
                if settled.picture is not None:
                    outcome = replace(outcome, thumbnail=thumbnail_of(*settled.picture, self._guard.bundle.geometry))
                for embedding, frame in zip(settled.embeddings, settled.frames, strict=True):
                    self._cached.append((settled.job.sha256, frame, embedding))
                    self._cached_bytes += len(embedding)
                self._progress.duplicates += settled.is_duplicate
                self._add(settled.job, outcome)  # before those that have the same content, in this part or a later one
                if settled.is_new and settled.job.sha256 is not None:
                    for waiting in self._ledger.settle(settled.job.sha256, outcome):
                        self._progress.duplicates += 1
                        self._add(waiting, outcome)
            if time.monotonic() - self._began_part >= self._options.part_seconds:
                self._flush()
        self._flush()

    def _add(self, job: Job, outcome: Outcome) -> None:
        verdict = failure = None
        hashes = self._folder.hashes
        if outcome.label is None:
            failure = f"{job.item.name}: {outcome.failure}"
        else:
            verdict = Verdict(outcome.label, outcome.score, outcome.rule, outcome.rules, hashes.policy_sha256,
                              hashes.bundle_sha256, hashes.prompt_sha256)
        record = Record(job.item.path, verdict, failure, outcome.failure_kind, job.item.member, job.sha256,
                        outcome.frame)
        self._rows.append(row_of(record, job.identity, hashes, job.size, outcome.thumbnail, outcome.pdq))
        self._progress.add(outcome.label)
        with suppress(Stopped):  # interrupted: nobody claims any more, and what is judged is still written
            self._claimed.take()
        if len(self._rows) >= self._options.part_rows or self._cached_bytes >= CACHED_BYTES:
            self._flush()

    def _flush(self) -> None:
        if self._rows:
            embeddings = None
            if self._options.cache_embeddings:
                from safeguard_sdk.scan.embeddings import encode_embeddings
                embeddings = encode_embeddings(self._cached)
            self._folder.add(self._rows, embeddings)
            self._rows, self._cached, self._cached_bytes = [], [], 0
        self._began_part = time.monotonic()


def _read_content(decoder: Decoder, item: Item) -> tuple[str, int]:
    if item.data is not None:
        return decoder.take(item.data, item.name)
    return decoder.read(item.path, item.name)


def _again_if_it_crashes(attempt: Callable) -> object:
    """A decoder may die for a reason that is not in the file, but not twice."""
    for _ in range(TRIES - 1):
        try:
            return attempt()
        except ImageError as error:
            if error.kind != "crashed":
                raise
    return attempt()


def _failed(error: ImageError, name: str) -> Outcome:
    return Outcome(None, failure_kind=error.kind, failure=str(error).removeprefix(f"{name}: "))
