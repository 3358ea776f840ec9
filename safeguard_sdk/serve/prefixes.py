"""The KV caches of rules, kept as long as there is room: the one not used for longest goes first."""

from __future__ import annotations

from collections import OrderedDict

from safeguard_sdk.engine import Engine, Prefix


class Prefixes:
    """For one thread: that of the engine.

    most  bytes that are kept; a prefix that is larger alone is read each time that it is needed
    """

    def __init__(self, engine: Engine, most: int) -> None:
        self._engine, self._most = engine, most
        self._kept: OrderedDict[str, Prefix] = OrderedDict()
        self.nbytes = 0
        self.reads = 0  # prefills so far, for whoever watches how well it keeps

    def read(self, text: str) -> Prefix:
        """As `Engine.read`, of a rule's prompt. Raises PolicyError if it is too long for the model."""
        if text in self._kept:
            self._kept.move_to_end(text)
            return self._kept[text]
        prefix = self._engine.read(text)
        self.reads += 1
        self._kept[text] = prefix
        self.nbytes += prefix.nbytes
        while self.nbytes > self._most:
            _, dropped = self._kept.popitem(last=False)
            self.nbytes -= dropped.nbytes
        return prefix
