"""Around every request: its id, its line in the log, its key. What goes wrong unforeseen becomes a 500 here."""

from __future__ import annotations

import logging
import re
import time
import uuid

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from safeguard_sdk.serve import moderations
from safeguard_sdk.serve.failures import RequestError
from safeguard_sdk.serve.keys import Keys
from safeguard_sdk.serve.logs import log, where
from safeguard_sdk.serve.metrics import Metrics

ID_HEADER = "X-Request-ID"
LOCKED = "/v1/"  # all below it needs a key, whoever added the route
LOOPBACK = ("127.0.0.1", "localhost", "[::1]")

_NAME_AND_PORT = re.compile(r"(?:https?://)?(.*?)(?::\d*)?")  # of Host, and of Origin
_ID = re.compile(r"[A-Za-z0-9._-]{1,64}")


class RequestLog:
    """Gives a request its id (the client's, if it sent a short one), and logs and counts what became of it."""

    def __init__(self, app: ASGIApp, metrics: Metrics) -> None:
        self._app, self._metrics = app, metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        started, status, told = time.perf_counter(), 0, {}
        wanted = Headers(scope=scope).get(ID_HEADER, "")
        request_id = wanted if _ID.fullmatch(wanted) else uuid.uuid4().hex
        scope.setdefault("state", {}).update(request_id=request_id, told=told)

        async def send_with_id(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                MutableHeaders(scope=message)[ID_HEADER] = request_id
            await send(message)

        try:
            await self._app(scope, receive, send_with_id)
        except Exception as error:
            log("fault", logging.ERROR, request=request_id, error=type(error).__name__, where=where(error))
            if not status:
                fault = RequestError(500, "internal", f"this service failed; its log has more under {request_id}")
                await refuse(fault, scope, receive, send_with_id)
        seconds = time.perf_counter() - started
        route = getattr(scope.get("route"), "path", "other")
        self._metrics.requests.labels(route, status).inc()
        self._metrics.seconds.labels(route).observe(seconds)
        if "failure" in told:
            self._metrics.failures.labels(told["failure"]).inc()
        log("request", request=request_id, method=scope["method"], route=route, status=status,
            seconds=round(seconds, 4), **told)


class RequireOwnHost:
    """Answers to this machine's names for itself alone, so that a web page from elsewhere which has a browser ask, by
    its own name (DNS rebinding) or across sites, gets nothing."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            headers, own = Headers(scope=scope), _own_names(scope)
            for name in (headers.get("Host", ""), *headers.getlist("Origin")):
                match = _NAME_AND_PORT.fullmatch(name)
                if match is None or match[1].lower() not in own:
                    await refuse(RequestError(403, "not_allowed", f"asked by or of {name!r:.80}, and without API keys "
                                              f"this service answers to {', '.join(own)} alone"),
                                 scope, receive, send)
                    return
        await self._app(scope, receive, send)


def _own_names(scope: Scope) -> tuple[str, ...]:
    """LOOPBACK, and the address that was connected to if it is another one of this machine alone."""
    address = (scope.get("server") or ("",))[0]
    return (*LOOPBACK, address) if address.startswith("127.") and address not in LOOPBACK else LOOPBACK


class RequireKey:
    """Refuses what is below LOCKED without one of the keys."""

    def __init__(self, app: ASGIApp, keys: Keys) -> None:
        self._app, self._keys = app, keys

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and scope["path"].startswith(LOCKED) \
                and not self._keys.admit(Headers(scope=scope).get("Authorization")):
            await refuse(RequestError(401, "unauthorized", "no API key, or a wrong one; send it as Authorization: "
                                      "Bearer KEY"), scope, receive, send)
            return
        await self._app(scope, receive, send)


async def refuse(error: RequestError, scope: Scope, receive: Receive, send: Send) -> None:
    await response_to(error, scope)(scope, receive, send)


def response_to(error: RequestError, scope: Scope) -> JSONResponse:
    """A failure in the shape of its route; the request's line in the log has its kind."""
    scope["state"]["told"]["failure"] = error.kind
    as_json = moderations.error_as_json(error) if scope["path"] == moderations.PATH else error.as_json()
    return JSONResponse(as_json, error.status, error.headers)
