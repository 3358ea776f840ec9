"""Decoding in a process that can be ended: hostile files cost the scan a failure row and at most some seconds."""

from __future__ import annotations

import json
import multiprocessing
import signal
import sys
import threading
import types
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np

from safeguard_sdk.errors import ImageError, ScanError
from safeguard_sdk.image import SquareGeometry
from safeguard_sdk.scan.worker import READY, work

START_SECONDS = 120           # a process that is not there by then is not coming
MAX_ANSWER_BYTES = 1 << 20
TRIES = 2                     # a decoder may be killed for another's greed, when the system runs out of memory
START_LOCK = threading.Lock()


@dataclass(frozen=True, slots=True)
class Limits:
    """What decoding one image may take."""

    seconds: float = 30.0
    memory_bytes: int = 2 << 30  # of address space on top of the idle process, so somewhat less of pixels


@dataclass(frozen=True, slots=True)
class Prepared:
    """An image as the engine takes it."""

    pixel_values: np.ndarray    # (frames, 3, side, side) float32
    size: tuple[int, int]       # (h, w) that it was decoded to: its side ratio
    frames: tuple[int, ...]     # the number of each frame; (0,) for a still


class Decoder:
    """One process that decodes, started when it is needed and again when it has died. For one thread at a time.

    `read` or `take` come first, then `prepare`. Each raises ImageError, of the kinds "timeout" and "crashed" too.
    """

    def __init__(self, geometry: SquareGeometry, limits: Limits) -> None:
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

    def prepare(self, name: str, frames: int) -> Prepared:
        """Decode what it was handed: one frame of a still, up to `frames` of an animation."""
        answer = self._ask({"do": "prepare", "name": name, "frames": frames}, name)
        count, side = len(answer["frames"]), self._geometry.side
        if answer["shape"] != [count, 3, side, side] or not 1 <= count <= frames:
            self.close()
            raise ImageError(f"{name}: its decoder gave the shape {answer['shape']}; do not trust this file", "crashed")
        values = np.empty(answer["shape"], np.float32)
        with self._dying_is_an_error(name):
            self._pipe.recv_bytes_into(memoryview(values).cast("B"))
        return Prepared(values, tuple(answer["size"]), tuple(answer["frames"]))

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
        with self._dying_is_an_error(name):
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
    def _dying_is_an_error(self, name: str) -> Iterator[None]:
        try:
            yield
        except (EOFError, OSError) as error:
            self._process.join()
            code = self._process.exitcode
            self.close()
            reason = signal.Signals(-code).name if code and code < 0 else f"exit status {code}"
            raise ImageError(f"{name}: its decoder died ({reason}); do not trust this file", "crashed") from error

    def _start(self) -> None:
        context = prepare_to_start()
        ours, theirs = context.Pipe()
        process = context.Process(
            target=work, args=(theirs, self._geometry, self._limits.seconds, self._limits.memory_bytes),
            name="safeguard-decoder", daemon=True)
        with START_LOCK, _without_main():
            process.start()
        theirs.close()
        self._process, self._pipe = process, ours
        try:
            if self._pipe.poll(START_SECONDS) and self._pipe.recv_bytes() == READY:
                return
        except (EOFError, OSError):
            pass
        self.close()
        raise ScanError("a process for decoding does not start; see the messages above, and raise --memory")


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
