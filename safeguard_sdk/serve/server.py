"""The process: one socket, signals, an orderly end.

SIGTERM and SIGINT drain: /readyz answers 503, requests in work are answered, new ones refused with 503; then it ends. A
second one ends it at once. SIGHUP reads all policies again.
"""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import socket
import threading
from types import FrameType
from typing import NoReturn

import uvicorn
from fastapi import FastAPI

from safeguard_sdk.errors import ServeError
from safeguard_sdk.serve.connection import Connection
from safeguard_sdk.serve.logs import log

CONNECTIONS = 1000     # beyond these, uvicorn answers 503 itself
BACKLOG = 1024         # connections that wait to be accepted
KEEP_ALIVE = 75        # seconds for a request's header; longer than proxies keep one, so that none asks on a connection
                       # that just closed
LAST_PORT = 65535
FORCED = 2             # requests were in work and are lost
LAST_ANSWERS = 5       # seconds for what is not in the queue, such as /metrics, once all verdicts are given


def bind(host: str, port: int) -> socket.socket:
    """A socket that listens there; port 0 is any free one. Raises ServeError."""
    if not 0 <= port <= LAST_PORT:  # the resolver would take it modulo 65536
        raise ServeError(f"port is {port}, must be in 0…{LAST_PORT}, where 0 is any free one; choose another: --port")
    listener = None
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        listener = socket.socket(family, kind, protocol)  # asyncio sets TCP_NODELAY only where it sees the protocol
        if os.name == "posix":
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
        listener.listen(BACKLOG)
        return listener
    except (OSError, OverflowError, UnicodeError) as error:
        if listener is not None:
            listener.close()
        reason = getattr(error, "strerror", None) or str(error)
        raise ServeError(f"cannot listen on {host} port {port} ({reason}); choose another: --host, --port") from error


def run(app: FastAPI, listener: socket.socket) -> None:
    """Serve until a signal ends it; a second one ends the process, with the exit status FORCED."""
    Server(app).run(sockets=[listener])


class Server(uvicorn.Server):
    """uvicorn's, with a drain before its end."""

    def __init__(self, app: FastAPI) -> None:
        super().__init__(uvicorn.Config(
            app, http=Connection, log_config=None, access_log=False, server_header=False, timeout_keep_alive=KEEP_ALIVE,
            limit_concurrency=CONNECTIONS, timeout_graceful_shutdown=LAST_ANSWERS))
        self._service = app.state.service
        self._tasks: set[asyncio.Task] = set()

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        if hasattr(signal, "SIGHUP") and threading.current_thread() is threading.main_thread():
            asyncio.get_running_loop().add_signal_handler(signal.SIGHUP, self._reload)
        for one in sockets or []:
            host, port = one.getsockname()[:2]
            log("listening", url=f"http://{f'[{host}]' if ':' in host else host}:{port}",
                bundle_sha256=self._service.engine.bundle.sha256,
                policies={name: named.policy.sha256 for name, named in self._service.policies.items()})

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        if self._service.draining:
            _end_at_once()
        self._service.draining = True

    async def on_tick(self, counter: int) -> bool:
        if self._service.draining and self._service.idle:
            self.should_exit = True
        return await super().on_tick(counter)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        await super().shutdown(sockets)
        log("ended")

    def _reload(self) -> None:
        task = asyncio.get_running_loop().create_task(self._service.reload())
        self._tasks.add(task)  # the loop itself holds tasks weakly
        task.add_done_callback(self._tasks.discard)


def _end_at_once() -> NoReturn:
    """From within a signal handler: the event loop may wait for a thread that reads or judges for long."""
    try:
        log("ended_at_once", logging.WARNING)
    finally:
        os._exit(FORCED)
