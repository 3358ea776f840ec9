"""Bodies of requests, read within limits while they arrive and kept in memory: nothing is written to a disk."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass

from python_multipart.multipart import parse_options_header
from starlette.datastructures import UploadFile
from starlette.formparsers import MultiPartException, MultiPartParser
from starlette.requests import ClientDisconnect, Request

from safeguard_sdk.serve.failures import RequestError

FIELDS = ("image", "policy")
EACH_BYTE = "latin-1"  # a character for every byte: who reads a text finds out whether it is UTF-8
AROUND = 16 << 10      # bytes of a multipart body beside its fields: boundaries, headers, file names
SHORT_SECONDS = 10     # for a body of some KiB
PATIENCE = 4           # times the limit that is read and thrown away, so that a client hears why; it is cut off beyond

Hold = Callable[[int], None]  # is told of bytes that a request holds from now on; raises RequestError


@dataclass(frozen=True, slots=True)
class Upload:
    """The fields of a multipart body."""

    image: bytes
    policy: bytes | None


async def read_body(request: Request, most: int, hold: Hold) -> bytes:
    """A whole body. Raises RequestError as soon as it is known to be too large."""
    return b"".join([chunk async for chunk in _chunks(request, most, hold)])


async def read_short_body(request: Request, most: int) -> bytes:
    """A whole body that has no place in the queue and is not waited for long. Raises RequestError."""
    try:
        async with asyncio.timeout(SHORT_SECONDS):
            return await read_body(request, most, hold=lambda count: None)
    except TimeoutError as error:
        raise RequestError(504, "timeout", f"the body did not come within {SHORT_SECONDS} s; send it again",
                           closes=True) from error
    except ClientDisconnect as error:
        raise gone() from error


async def read_upload(request: Request, image_bytes: int, policy_bytes: int, hold: Hold) -> Upload:
    """A multipart/form-data body with the field `image` and perhaps `policy`. Raises RequestError."""
    _refuse_other_than_utf8(request.headers["content-type"])
    chunks = _chunks(request, image_bytes + policy_bytes + AROUND, hold)
    parser = _InMemory(request.headers, chunks, max_files=len(FIELDS), max_fields=len(FIELDS),
                       max_part_size=image_bytes)
    try:
        form = await parser.parse()
    except MultiPartException as error:
        raise RequestError(400, "bad_request", f"the body is no multipart/form-data that can be read ({error.message})"
                           ) from error
    fields = form.multi_items()
    found = dict(fields)
    if not isinstance(found.get("image"), UploadFile) or len(found) < len(fields) or not found.keys() <= set(FIELDS):
        await form.close()
        raise RequestError(400, "bad_request", f"the form has the fields {[name for name, _ in fields]!r:.80}; send "
                                               "the image as a file, `image`, and perhaps `policy` beside it")
    contents = {name: await value.read() if isinstance(value, UploadFile) else value.encode(EACH_BYTE)
                for name, value in found.items()}
    await form.close()
    if len(contents["image"]) > image_bytes:
        raise too_large(image_bytes)
    return Upload(contents["image"], contents.get("policy"))


def gone() -> RequestError:
    return RequestError(499, "gone", "the client closed the connection before it was answered")


def too_large(most: int, closes: bool = False) -> RequestError:
    return RequestError(413, "too_large", f"it has over {most} bytes, more than this service takes; make it smaller",
                        closes=closes)


async def _chunks(request: Request, most: int, hold: Hold) -> AsyncIterator[bytes]:
    announced = int(request.headers.get("content-length", 0))
    if announced > most:
        raise too_large(most, closes=announced > most * PATIENCE)
    received = 0
    async for chunk in request.stream():
        received += len(chunk)
        if received > most * PATIENCE:
            raise too_large(most, closes=True)
        if received <= most:
            hold(len(chunk))
            yield chunk
    if received > most:
        raise too_large(most)


def _refuse_other_than_utf8(content_type: str) -> None:
    _, parameters = parse_options_header(content_type)
    charset = parameters.get(b"charset", b"utf-8").decode("latin-1")
    if charset.lower() not in ("utf-8", "utf8"):
        raise RequestError(400, "bad_request", f"the form says that its charset is {charset!r:.60}; send it in UTF-8, "
                                               "and leave charset out")


class _InMemory(MultiPartParser):
    """Starlette's, which would have texts that are not UTF-8 read as other ones, and large files on the disk."""

    spool_max_size = 0  # of SpooledTemporaryFile: never to the disk

    def on_part_begin(self) -> None:
        super().on_part_begin()
        self._charset = EACH_BYTE
