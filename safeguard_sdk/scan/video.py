"""Frames of a video, evenly spaced in time, through PyAV. Extra `video`."""

from __future__ import annotations

import io
from collections.abc import Iterator

import av
from PIL import Image

from safeguard_sdk.errors import ImageError
from safeguard_sdk.image.failures import as_image_error


def video_frames(data: bytes, name: str, most: int) -> Iterator[tuple[int, Image.Image]]:
    """Up to `most` frames with their numbers, upright, the first among them. Raises ImageError.

    A frame is found by seeking to the key frame before it, so a long video takes no longer than a short one.
    """
    with as_image_error(name, "cannot be decoded as a video", "corrupt"), av.open(io.BytesIO(data)) as container:
        if not container.streams.video:
            raise ImageError(f"{name}: holds no picture, only sound or text; leave it out", "not_an_image")
        stream = container.streams.video[0]
        stream.codec_context.thread_count = 1  # each decoder has one core
        rate = float(stream.average_rate or 1)
        start = float((stream.start_time or 0) * stream.time_base)
        seconds = (container.duration or 0) / av.time_base
        found = -1
        for at in range(most if seconds else 1):
            moment = start + seconds * at / most
            container.seek(int(moment / stream.time_base), stream=stream)
            for frame in container.decode(stream):
                number = round(((frame.time or 0.0) - start) * rate)
                if (frame.time or 0.0) + 0.5 / rate > moment and number > found:
                    found = number
                    yield number, frame.to_image().rotate(frame.rotation, expand=True)
                    break
        if found < 0:
            raise ImageError(f"{name}: holds no frame that can be decoded; fetch it again", "truncated")
