"""The application: all routes on one service.

    app = create_app(open_engine(Bundle.embedded()), ["general", "shop=shop.yaml"])

server.py runs it; any ASGI server can, but only server.py drains it and reloads its policies.
"""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

from fastapi import Depends, FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.security import HTTPBearer
from fastapi_offline import FastAPIOffline
from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse

from safeguard_sdk import __version__
from safeguard_sdk.engine import Engine
from safeguard_sdk.errors import SafeguardError
from safeguard_sdk.serve import checks, moderations
from safeguard_sdk.serve.failures import RequestError
from safeguard_sdk.serve.keys import Keys
from safeguard_sdk.serve.logs import log, where
from safeguard_sdk.serve.middleware import RequestLog, RequireKey, RequireOwnHost, response_to
from safeguard_sdk.serve.options import Options
from safeguard_sdk.serve.page import add_page
from safeguard_sdk.serve.policies import PolicyFile, PolicyOfScan
from safeguard_sdk.serve.service import Service
from safeguard_sdk.serve.urls import Fetcher


def create_app(engine: Engine, policies: Sequence[str], options: Options | None = None, keys: Keys | None = None,
               review: Path | None = None, fetcher: Fetcher | None = None) -> FastAPI:
    """An ASGI application; `app.state.service` is its Service.

    engine    judges; for this application alone
    policies  "FILE" or "NAME=FILE" each; the first is that of requests that name none. None at all: that of `review`
    keys      whoever asks for anything below /v1/ needs one of them. None: only requests to a name of this machine
              itself are answered, so that no web page can have a browser ask for it under another name
    review    the folder of a finished scan, to be looked through
    fetcher   of URLs; by default one for the hosts of the options
    raises    PolicyError, ServeError, ScanError
    """
    options = options or Options()
    files = [PolicyFile.parse(argument) for argument in policies]
    service = Service(engine, files or ([PolicyOfScan(review)] if review else []), options)

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        service.start()
        yield
        await service.stop()

    app = FastAPIOffline(
        title="safeguard", version=__version__, docs_url="/docs", redoc_url=None, lifespan=lifespan,
        redirect_slashes=False,
        description="Judges images by policies in plain words. Nothing leaves this machine.")
    app.state.service = service
    app.state.fetcher = fetcher or Fetcher(options.allow_urls, options.image_bytes)
    described = [Depends(HTTPBearer(auto_error=False))] if keys else []  # for /docs; RequireKey is what asks for it
    app.include_router(checks.router, dependencies=described)
    app.include_router(moderations.router, dependencies=described)
    _add_probes(app, service)
    _add_failures(app)
    add_page(app)
    if review is not None:
        from safeguard_sdk.serve.review import add_review
        add_review(app, review)
    if keys is not None:
        app.add_middleware(RequireKey, keys=keys)
    else:
        app.add_middleware(RequireOwnHost)
    app.add_middleware(RequestLog, metrics=service.metrics)
    return app


def _add_probes(app: FastAPI, service: Service) -> None:
    @app.head("/healthz", include_in_schema=False)
    @app.get("/healthz")
    async def healthz() -> JSONResponse:
        """Whether the process is worth keeping."""
        return JSONResponse({"alive": service.alive}, 200 if service.alive else 503)

    @app.head("/readyz", include_in_schema=False)
    @app.get("/readyz")
    async def readyz() -> JSONResponse:
        """Whether it takes requests: 503 once it is about to end."""
        return JSONResponse({"ready": service.ready}, 200 if service.ready else 503)

    @app.get("/metrics")
    async def metrics() -> Response:
        """For Prometheus."""
        return Response(service.metrics.exposition(), media_type=service.metrics.content_type)


def _add_failures(app: FastAPI) -> None:
    @app.exception_handler(RequestError)
    async def failed(request: Request, error: RequestError) -> JSONResponse:
        if error.kind == "engine":
            cause = error.__cause__
            log("engine_failed", logging.ERROR, request=request.state.request_id, error=type(cause).__name__,
                message=" ".join(str(cause).split()) if isinstance(cause, SafeguardError) else None,
                where=where(cause))
        return response_to(error, request.scope)

    @app.exception_handler(HTTPException)
    async def not_routed(request: Request, error: HTTPException) -> JSONResponse:
        kind = {404: "not_found", 405: "method"}.get(error.status_code, "bad_request")
        return await failed(request, RequestError(error.status_code, kind, f"{error.detail}; /docs lists all routes"))

    @app.exception_handler(RequestValidationError)
    async def invalid(request: Request, error: RequestValidationError) -> JSONResponse:
        first = error.errors()[0]
        place = ".".join(str(part) for part in first["loc"])
        return await failed(request, RequestError(400, "bad_request", f"{place}: {first['msg']}"))
