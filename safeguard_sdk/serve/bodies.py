"""Bodies of requests, read within limits while they arrive and kept in memory: nothing is written to a disk."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass

from starlette.datastructures import UploadFile
from starlette.formparsers import MultiPartException, MultiPartParser
from starlette.requests import Request

from safeguard_sdk.serve.failures import RequestError

FIELDS = ("image", "policy")
AROUND = 16 << 10  # bytes of a multipart body beside its fields: boundaries, headers, file names
PATIENCE = 4      # times the limit that is read and thrown away, so that a client hears why; it is cut off beyond

Hold = Callable[[int], None]  # is told of bytes that a request holds from now on; raises RequestError


@dataclass(frozen=True, slots=True)
class Upload:
    """The fields of a multipart body."""

    image: bytes
    policy: bytes | None


async def read_body(request: Request, most: int, hold: Hold) -> bytes:
    """A whole body. Raises RequestError as soon as it is known to be too large."""
    return b"".join([chunk async for chunk in _chunks(request, most, hold)])


async def read_upload(request: Request, image_bytes: int, policy_bytes: int, hold: Hold) -> Upload:
    """A multipart/form-data body with the field `image` and perhaps `policy`. Raises RequestError."""
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
    contents = {name: await value.read() if isinstance(value, UploadFile) else value.encode()
                for name, value in found.items()}
    await form.close()
    if len(contents["image"]) > image_bytes:
        raise too_large(image_bytes)
    return Upload(contents["image"], contents.get("policy"))


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


class _InMemory(MultiPartParser):
    spool_max_size = 0  # of SpooledTemporaryFile: never to the disk
