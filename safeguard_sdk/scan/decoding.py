"""Decoding in a process that can be ended: hostile files cost the scan a failure row and at most some seconds."""

from __future__ import annotations

import json
import multiprocessing
import signal
import sys
import threading
import time
import types
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from safeguard_sdk.errors import ImageError, ScanError
from safeguard_sdk.image import ModelInput, PatchGeometry, SquareGeometry
from safeguard_sdk.image.files import one_line
from safeguard_sdk.scan.inputs import empty_input, values_of
from safeguard_sdk.scan.pdq import BITS, Pdq
from safeguard_sdk.scan.worker import READY, work

START_SECONDS = 120           # a process that is not there by then is not coming
END_SECONDS = 5               # one that speaks no more has died by then, or is ended
MAX_ANSWER_BYTES = 1 << 20
TRIES = 2                     # a decoder may be killed for another's greed, when the system runs out of memory
PAUSE_SECONDS = 0.5           # between attempts to start one
NO_START = "a process for decoding does not start; see the messages above, and raise --memory"
START_LOCK = threading.Lock()


@dataclass(frozen=True, slots=True)
class Limits:
    """What decoding one image may take."""

    seconds: float = 30.0
    memory_bytes: int = 2 << 30  # of address space on top of the idle process, so somewhat less of pixels


@dataclass(frozen=True, slots=True)
class Prepared:
    """An image as the engine takes it."""

    frames: tuple[int, ...]             # the number of each frame; (0,) for a still
    sizes: tuple[tuple[int, int], ...]  # (h, w) that each was decoded to: its side ratio
    inputs: tuple[ModelInput, ...]      # of each
    pdq: Pdq | None                     # of the first, if it was asked for; none of a video

    @property
    def nbytes(self) -> int:
        return sum(values_of(one).nbytes for one in self.inputs)


class Decoder:
    """One process that decodes, started when it is needed and again when it has died. For one thread at a time.

    `read` or `take` come first, then `prepare`. Each raises ImageError, of the kinds "timeout" and "crashed" too.
    """

    def __init__(self, geometry: SquareGeometry | PatchGeometry, limits: Limits) -> None:
        self._geometry, self._limits = geometry, limits
        self._process = self._pipe = None

    def read(self, path: str, name: str) -> tuple[str, int]:
        """Have the process read a file: its sha256 and its bytes."""
        answer = self._ask({"do": "read", "name": name, "path": path}, name)
        return answer["sha256"], answer["bytes"]

    def take(self, data: bytes, name: str) -> tuple[str, int]:
        """Hand the process the bytes of a file."""
        answer = self._ask({"do": "take", "name": name}, name, data)
        return answer["sha256"], answer["bytes"]

    def prepare(self, name: str, frames: int, pdq: bool = False, video: bool = False) -> Prepared:
        """Decode what it was handed: one frame of a still, up to `frames` of an animation.

        pdq    compute the hash by which near duplicates are known, too
        video  whether it is one
        """
        answer = self._ask({"do": "prepare", "name": name, "video": video, "frames": frames, "pdq": pdq}, name)
        with self._no_answer_is_an_error(name):
            prepared = _room_for(answer, frames, self._geometry)
            for one in prepared.inputs:
                values = values_of(one)
                if (received := self._pipe.recv_bytes_into(memoryview(values).cast("B"))) != values.nbytes:
                    raise ValueError(f"{received} bytes of {values.nbytes}")
        return prepared

    def close(self) -> None:
        """End the process, whatever it does."""
        if self._process is not None:
            self._process.kill()
            self._process.join()
            self._process.close()
            self._pipe.close()
            self._process = self._pipe = None

    def _ask(self, request: dict, name: str, payload: bytes | None = None) -> dict:
        if request["do"] != "prepare" and self._process is not None and not self._process.is_alive():
            self.close()  # it was killed while it waited, which is not this file's fault
        if self._process is None:
            self._start()
        with self._no_answer_is_an_error(name):
            self._pipe.send_bytes(json.dumps(request).encode())
            if payload is not None:
                self._pipe.send_bytes(payload)
            if not self._pipe.poll(self._limits.seconds):
                self.close()
                raise ImageError(f"{name}: not decoded within {self._limits.seconds:g} s; raise --timeout if you trust "
                                 "its source", "timeout")
            answer = json.loads(self._pipe.recv_bytes(MAX_ANSWER_BYTES))
            if "kind" in answer:
                raise ImageError(answer["message"], answer["kind"])
            return answer

    @contextmanager
    def _no_answer_is_an_error(self, name: str) -> Iterator[None]:
        """Or one that `work` never gives, so that somebody else speaks; the process is ended."""
        try:
            yield
        except (EOFError, OSError) as error:
            self._process.join(END_SECONDS)
            code = self._process.exitcode
            self.close()
            reason = signal.Signals(-code).name if code and code < 0 else f"exit status {code}"
            raise ImageError(f"{name}: its decoder died ({reason}); do not trust this file", "crashed") from error
        except (LookupError, TypeError, ValueError, ArithmeticError, multiprocessing.BufferTooShort) as error:
            self.close()
            raise ImageError(f"{name}: its decoder gave an answer without sense ({one_line(error)}); do not trust this "
                             "file", "crashed") from error

    def _start(self) -> None:
        context = prepare_to_start()
        ours, theirs = context.Pipe()
        process = context.Process(
            target=work, args=(theirs, self._geometry, self._limits.seconds, self._limits.memory_bytes),
            name="safeguard-decoder", daemon=True)
        with theirs:
            _start_persistently(process)
        self._process, self._pipe = process, ours
        try:
            if self._pipe.poll(START_SECONDS) and self._pipe.recv_bytes() == READY:
                return
        except (EOFError, OSError):
            pass
        self.close()
        raise ScanError(NO_START)


def _start_persistently(process: multiprocessing.process.BaseProcess) -> None:
    """The server that forks may have been killed, as when memory runs out; then another one is started."""
    for last in (False, False, True):
        try:
            with START_LOCK, _without_main():
                process.start()
            return
        except (EOFError, OSError) as error:
            if last:
                raise ScanError(NO_START) from error
            time.sleep(PAUSE_SECONDS)  # until the system knows that it is gone


def _room_for(answer: dict, most: int, geometry: SquareGeometry | PatchGeometry) -> Prepared:
    """What a decoder says of an image, with room for the values that follow. Raises ValueError and its like for an
    answer that makes no sense."""
    frames = tuple(int(number) for number in answer["frames"])
    sizes = tuple((int(height), int(width)) for height, width in answer["sizes"])
    if len(frames) != len(sizes) or not 1 <= len(frames) <= most or not all(0 <= frame < 1 << 31 for frame in frames):
        raise ValueError(f"the frames {frames} of the sizes {sizes}")
    pdq = None if answer["pdq"] is None else Pdq(str(answer["pdq"][0]), int(answer["pdq"][1]))
    if pdq and (len(bytes.fromhex(pdq.hash)) * 8 != BITS or not 0 <= pdq.quality <= 100):
        raise ValueError(f"the hash {pdq}")
    if min(map(min, sizes)) < 1:
        raise ValueError(f"the sizes {sizes}")
    try:
        return Prepared(frames, sizes, tuple(empty_input(size, geometry) for size in sizes), pdq)
    except ImageError as error:
        raise ValueError(f"the sizes {sizes}") from error


def prepare_to_start() -> multiprocessing.context.BaseContext:
    """How decoders are started. Where it can be, a server forks each in milliseconds, with all modules loaded, so that
    dying is cheap."""
    if "forkserver" not in multiprocessing.get_all_start_methods():
        return multiprocessing.get_context("spawn")
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["safeguard_sdk.scan.worker"])
    return context


@contextmanager
def _without_main() -> Iterator[None]:
    """Decoders need nothing of the program that scans, and shall not run its main module again."""
    main = sys.modules["__main__"]
    sys.modules["__main__"] = types.ModuleType("__main__")
    try:
        yield
    finally:
        sys.modules["__main__"] = main
