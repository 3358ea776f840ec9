"""The process that decodes: it reads and hashes files and prepares them for the engine, and may die of them.

`decoding.Decoder` starts it and speaks with it. Answers are JSON and bare arrays, never pickles: whoever takes over a
decoder through a hostile file must not get further.
"""

from __future__ import annotations

import hashlib
import json
import signal
from collections.abc import Iterator
from multiprocessing.connection import Connection

from PIL import Image

from safeguard_sdk.errors import ImageError
from safeguard_sdk.guard import prepare
from safeguard_sdk.image import ModelInput, PatchGeometry, SquareGeometry, read_bytes
from safeguard_sdk.image.failures import as_image_error
from safeguard_sdk.image.files import one_line
from safeguard_sdk.image.header import open_header
from safeguard_sdk.scan.inputs import values_of
from safeguard_sdk.scan.pdq import pdq_of

try:
    import resource
except ImportError:  # Windows
    resource = None

READY = b"ready"
GRACE_SECONDS = 10  # after the limit, in case nobody is left who could end this process
PAGES = "/proc/self/statm"


def work(pipe: Connection, geometry: SquareGeometry | PatchGeometry, seconds: float, memory_bytes: int) -> None:
    """Answer requests until the other side is gone.

    {"do": "read", "name", "path"}          → {"sha256", "bytes"}; keeps what was read
    {"do": "take", "name"}, then the bytes  → the same
    {"do": "prepare", "name", "video": is it one?, "frames": most, "pdq": is it asked for?}
                                            → {"frames": [number, …], "sizes": [[h, w], …], "pdq": [hash, quality] or
                                              null}, then the float32 values of each frame
    Each may be answered {"kind", "message"}, of an ImageError, in its place.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the scan, which then ends this process
    _limit_memory(memory_bytes)
    pipe.send_bytes(READY)
    held = b""
    while True:
        try:
            request = json.loads(pipe.recv_bytes())
            if request["do"] == "take":
                held = pipe.recv_bytes()
        except EOFError:
            return
        _die_after(seconds + GRACE_SECONDS)
        inputs: list[ModelInput] = []
        try:
            if request["do"] == "read":
                held = b""
                held = read_bytes(request["path"])
            if request["do"] == "prepare":
                answer, inputs = _prepared(held, geometry, request)
                held = b""
            else:
                answer = {"sha256": hashlib.sha256(held).hexdigest(), "bytes": len(held)}
        except ImageError as error:
            answer = {"kind": error.kind, "message": str(error)}
        except MemoryError:
            answer = {"kind": "too_large", "message": f"{request['name']}: does not fit into the memory that a decoder "
                                                      "may use; raise --memory"}
        _die_after(0)
        pipe.send_bytes(json.dumps(answer).encode())
        for one in inputs:
            pipe.send_bytes(values_of(one))


def _prepared(data: bytes, geometry: SquareGeometry | PatchGeometry, request: dict) -> tuple[dict, list[ModelInput]]:
    name, numbers, sizes, inputs, pdq = request["name"], [], [], [], None
    frames = _video_frames if request["video"] else _frames
    for number, source in frames(data, name, request["frames"]):
        model_input, rgb = prepare(source, geometry, name)
        if request["pdq"] and source is data:
            pdq = pdq_of(data, rgb, name)
        numbers.append(number)
        sizes.append(rgb.shape[:2])
        inputs.append(model_input)
    return {"frames": numbers, "sizes": sizes, "pdq": pdq}, inputs


def _frames(data: bytes, name: str, most: int) -> Iterator[tuple[int, bytes | Image.Image]]:
    """Up to `most` frames with their numbers: the first of an image as its file, as `check` takes it, all others as
    pictures."""
    yield 0, data
    if most > 1:
        picture = open_header(data, name)
        with as_image_error(name, "its frames cannot be counted", "corrupt"):
            count = getattr(picture, "n_frames", 1)
        for number in sampled(count, most)[1:]:
            with as_image_error(name, f"frame {number} cannot be found", "corrupt"):
                picture.seek(number)
            yield number, picture


def _video_frames(data: bytes, name: str, most: int) -> Iterator[tuple[int, Image.Image]]:
    try:
        from safeguard_sdk.scan.video import video_frames
    except ImportError as error:
        raise ImageError(f"{name}: is a video, which needs PyAV ({one_line(error)}); install it: "
                         "pip install 'safeguard[video]'", "unsupported") from error
    return video_frames(data, name, most)


def sampled(count: int, most: int) -> list[int]:
    """Numbers of up to `most` frames out of `count`: evenly spaced, the first and the last among them."""
    if count <= most:
        return list(range(count))
    return [round(at * (count - 1) / (most - 1)) for at in range(most)]


def _die_after(seconds: float) -> None:
    """By the system's hand, as no Python code runs while a decoder does; 0 calls it off."""
    if hasattr(signal, "setitimer"):  # not on Windows
        signal.setitimer(signal.ITIMER_REAL, seconds)


def _limit_memory(memory_bytes: int) -> None:
    """Linux alone: elsewhere the limit is not kept."""
    try:
        with open(PAGES) as file:
            used = int(file.read().split()[0]) * resource.getpagesize()
    except OSError:
        return
    resource.setrlimit(resource.RLIMIT_AS, (used + memory_bytes,) * 2)
