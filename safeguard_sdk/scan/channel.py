"""A bounded queue between two stages, which can be closed by either side: `queue.Queue` learnt that in Python 3.13."""

from __future__ import annotations

import threading
import time
from collections import deque
from typing import Generic, TypeVar

Thing = TypeVar("Thing")


class Stopped(Exception):
    """Another stage has failed or the scan was interrupted: nobody waits for more."""


class Channel(Generic[Thing]):
    """At most `capacity` of weight waits here; what is heavier by itself passes alone, so nothing waits for ever."""

    def __init__(self, capacity: int) -> None:
        self._capacity, self._weight = capacity, 0
        self._waiting: deque[tuple[Thing, int]] = deque()
        self._changed = threading.Condition()
        self._closed = self._stopped = False

    def put(self, thing: Thing, weight: int = 1) -> None:
        """Waits while the channel is full. Raises Stopped."""
        with self._changed:
            while self._waiting and self._weight + weight > self._capacity and not self._stopped:
                self._changed.wait()
            if self._stopped:
                raise Stopped
            self._waiting.append((thing, weight))
            self._weight += weight
            self._changed.notify_all()

    def take(self, most: int = 1, linger: float = 0.0, patience: float | None = None) -> list[Thing]:
        """Up to `most` of what waits, oldest first. Raises Stopped.

        Waits for the first as long as it takes, or `patience` seconds, and for the others `linger` seconds. Gives none
        once the channel is `over`, or when its patience ends.
        """
        taken: list[Thing] = []
        deadline = None if patience is None else time.monotonic() + patience
        with self._changed:
            while len(taken) < most:
                if self._stopped:
                    raise Stopped
                if self._waiting:
                    thing, weight = self._waiting.popleft()
                    self._weight -= weight
                    if not taken:
                        deadline = time.monotonic() + linger
                    taken.append(thing)
                    self._changed.notify_all()
                    continue
                if self._closed:
                    break
                if deadline is None and not taken:
                    self._changed.wait()
                elif (left := deadline - time.monotonic()) > 0:
                    self._changed.wait(left)
                else:
                    break
        return taken

    @property
    def over(self) -> bool:
        """Closed and empty."""
        with self._changed:
            return self._closed and not self._waiting

    def close(self) -> None:
        """Nothing more will be put; what waits can still be taken."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()

    def stop(self) -> None:
        """Whoever puts or takes from here on gets Stopped."""
        with self._changed:
            self._stopped = True
            self._changed.notify_all()
