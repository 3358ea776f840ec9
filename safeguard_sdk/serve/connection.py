"""A connection that nobody keeps for nothing: it is closed where the header of a request does not come in time.

uvicorn itself limits only the time between an answer and the first byte after it.
"""

from __future__ import annotations

import asyncio

from uvicorn.protocols.http.auto import AutoHTTPProtocol


class Connection(AutoHTTPProtocol):
    """uvicorn's; `timeout_keep_alive` of its config is the limit, from the beginning and from each answer on."""

    _limit: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:
        super().connection_made(transport)
        self._expect_request()

    def on_response_complete(self) -> None:
        super().on_response_complete()
        self._expect_request()

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        self._limit.cancel()

    def _expect_request(self) -> None:
        if self._limit is not None:
            self._limit.cancel()
        self._limit = self.loop.call_later(self.timeout_keep_alive, self._close_unless_in_work)

    def _close_unless_in_work(self) -> None:
        if self.cycle is None or self.cycle.response_complete:  # no header since then; at most the rest of a body
            self.transport.abort()  # close() would wait for a client that does not read its answer
