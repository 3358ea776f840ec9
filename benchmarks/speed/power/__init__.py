"""Power and heat while something is measured. Each reader knows one source; a Meter reads it in the background.

    nvml.py        NVIDIA GPUs of desktops and servers
    tegrastats.py  Jetson
    rapl.py        Intel and AMD processors, where the kernel lets the user read them
"""

from __future__ import annotations

import itertools
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol, Self

MJ = 1000  # in a joule


class Unreadable(Exception):
    """A source of power readings that this machine does not have, or does not let this user read."""


@dataclass(frozen=True)
class Reading:
    """What a source says at one moment; None where it does not say."""

    watts: float | None = None
    joules: float | None = None  # a counter that never falls
    celsius: float | None = None
    throttled: tuple[str, ...] | None = None  # why clocks are held down; () if they are not
    rails: tuple[str, ...] = ()  # whose sum the watts are, where a board tells them apart


class Reader(Protocol):
    pause: float  # seconds between two calls of read; 0 where read itself waits for news

    def read(self) -> Reading:
        """Raises Unreadable."""

    def close(self) -> None: ...


def open_readers() -> tuple[dict[str, Reader], dict[str, str]]:
    """The readers of this machine by name, and of the others why they are none."""
    from benchmarks.speed.power.nvml import NvmlReader
    from benchmarks.speed.power.rapl import RaplReader
    from benchmarks.speed.power.tegrastats import TegrastatsReader
    openers: dict[str, Callable[[], Reader]] = {"nvml": NvmlReader, "tegrastats": TegrastatsReader, "rapl": RaplReader}
    readers, absent = {}, {}
    for name, opened in openers.items():
        try:
            readers[name] = opened()
        except Unreadable as why:
            absent[name] = str(why)
    return readers, absent


@dataclass
class Meter:
    """Reads its readers while a `with` block runs; `energy` says what that took, itself included."""

    readers: dict[str, Reader]
    _taken: dict[str, list[tuple[float, Reading]]] = field(default_factory=dict)
    _failed: dict[str, str] = field(default_factory=dict)
    _cpu_s: dict[str, float] = field(default_factory=dict)

    def __enter__(self) -> Self:
        self._done = threading.Event()
        self._taken = {name: [] for name in self.readers}
        self._threads = [threading.Thread(target=self._watch, args=one) for one in self.readers.items()]
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._done.set()
        for thread in self._threads:
            thread.join()

    def energy(self, images: int) -> dict[str, dict]:
        """By reader: joules, mean watts, mJ an image, the highest temperature, and why clocks were held down."""
        return {name: {"failed": self._failed[name]} if name in self._failed
                else {**summarise(taken, images), "reader_cpu_s": round(self._cpu_s[name], 4)}
                for name, taken in self._taken.items()}

    def _watch(self, name: str, reader: Reader) -> None:
        try:
            while True:
                last = self._done.is_set()  # one more reading after the end: a counter is read at both ends
                self._taken[name].append((time.perf_counter(), reader.read()))
                if last:
                    self._cpu_s[name] = time.thread_time()  # what reading itself took
                    return
                self._done.wait(reader.pause)
        except Unreadable as why:
            self._failed[name] = str(why)
        except Exception as error:  # a driver may raise anything, and what is measured meanwhile is not to be lost
            self._failed[name] = f"{type(error).__name__}: {error}"


def summarise(taken: list[tuple[float, Reading]], images: int) -> dict:
    """Of readings at times in seconds: by the counter where there is one, or else the area under the watts."""
    seconds = taken[-1][0] - taken[0][0]
    joules = _joules(taken)
    throttled = [one.throttled for _, one in taken if one.throttled is not None]
    heat = [one.celsius for _, one in taken if one.celsius is not None]
    return {"readings": len(taken), "seconds": round(seconds, 3),
            "joules": None if joules is None else round(joules, 3),
            "watts": round(joules / seconds, 2) if joules is not None and seconds > 0 else None,
            "mj_per_image": round(joules * MJ / images, 2) if joules is not None and images else None,
            "celsius": max(heat) if heat else None,
            "throttled": sorted({why for one in throttled for why in one}) if throttled else None,
            "rails": list(dict.fromkeys(rail for _, one in taken for rail in one.rails))}


def _joules(taken: list[tuple[float, Reading]]) -> float | None:
    counted = [one.joules for _, one in taken]
    if len(taken) >= 2 and None not in counted:
        return counted[-1] - counted[0]
    powers = [(at, one.watts) for at, one in taken if one.watts is not None]
    if len(powers) < 2:
        return None
    return sum((after - before) * (watts + more) / 2
               for (before, watts), (after, more) in itertools.pairwise(powers))
