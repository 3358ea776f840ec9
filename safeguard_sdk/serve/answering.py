"""What every request for a verdict goes through: a place in the queue, a limit of time, a client that waits."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine
from typing import TypeVar

from starlette.requests import ClientDisconnect, Request

from safeguard_sdk.serve.bodies import Hold, gone
from safeguard_sdk.serve.failures import RequestError
from safeguard_sdk.serve.policies import Named
from safeguard_sdk.serve.service import Service
from safeguard_sdk.verdict import Verdict

Result = TypeVar("Result")
Read = Callable[[Request, Service, Hold], Awaitable[tuple[bytes, Named]]]


async def verdict_of(request: Request, read: Read) -> tuple[Verdict, Named]:
    """Judge what `read` finds in the request: the file of an image and the policy. Raises RequestError."""
    service: Service = request.app.state.service

    async def work(hold: Hold) -> tuple[Verdict, Named]:
        image, named = await read(request, service, hold)
        tell(request, policy=named.counted_as, policy_sha256=named.policy.sha256)
        return await unless_gone(request, service.judge(image, named)), named

    verdict, named = await within_limits(service, work)
    service.metrics.verdicts.labels(named.counted_as, verdict.label).inc()
    tell(request, label=verdict.label, bundle_sha256=verdict.bundle_sha256, prompt_sha256=verdict.prompt_sha256,
         ms={stage: round(value, 1) for stage, value in verdict.ms.items()})
    return verdict, named


async def within_limits(service: Service, work: Callable[[Hold], Coroutine[None, None, Result]]) -> Result:
    """Work that has a place in the queue and ends in time. Raises RequestError."""
    with service.place() as hold:
        try:
            async with asyncio.timeout(service.options.timeout):
                return await work(hold)
        except TimeoutError as error:
            raise RequestError(504, "timeout", f"no verdict within {service.options.timeout:g} s; ask again when there "
                                               "is less to do, or send a smaller image", closes=True) from error
        except ClientDisconnect as error:
            raise gone() from error


async def unless_gone(request: Request, work: Coroutine[None, None, Result]) -> Result:
    """The result of work that is given up when the client does not wait for it. Only after the body has been read."""
    working, leaving = asyncio.create_task(work), asyncio.create_task(_disconnected(request))
    try:
        await asyncio.wait({working, leaving}, return_when=asyncio.FIRST_COMPLETED)
        if not working.done():
            raise gone()
        return working.result()
    finally:
        working.cancel()
        leaving.cancel()
        await asyncio.gather(working, leaving, return_exceptions=True)


def tell(request: Request, **fields: object) -> None:
    """Fields for the request's line in the log."""
    request.state.told.update(fields)


async def _disconnected(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass
