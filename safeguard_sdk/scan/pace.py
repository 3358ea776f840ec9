"""How fast a scan may go at most, as `--max-rate` says."""

from __future__ import annotations

import threading
import time

from safeguard_sdk.scan.channel import Stopped


class Pace:
    """For several threads: at most `rate` starts a second. Time in which none was made is not caught up."""

    def __init__(self, rate: float | None) -> None:
        self._gap = 1 / rate if rate else 0.0  # seconds
        self._next = time.monotonic()
        self._turn = threading.Lock()
        self._stopped = threading.Event()

    def wait(self) -> None:
        """Returns when a start is due. Raises Stopped."""
        if not self._gap:
            return
        with self._turn:
            if self._stopped.wait(max(0.0, self._next - time.monotonic())):
                raise Stopped
            self._next = time.monotonic() + self._gap

    def stop(self) -> None:
        """Whoever waits gets Stopped."""
        self._stopped.set()
