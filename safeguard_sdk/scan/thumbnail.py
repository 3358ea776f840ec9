"""Small pictures of what was flagged, made from what the model saw: no file is read a second time."""

from __future__ import annotations

import io

from PIL import Image

from safeguard_sdk.image import ModelInput, PatchGeometry, SquareGeometry
from safeguard_sdk.scan.inputs import picture_in

SIDE, QUALITY = 160, 70  # pixels of the longer side; of JPEG


def thumbnail_of(model_input: ModelInput, size: tuple[int, int], geometry: SquareGeometry | PatchGeometry) -> bytes:
    """An image as the engine takes it and the (h, w) that it was made from → a JPEG file. The same bytes each time."""
    scale = SIDE / max(size)
    height, width = (max(1, round(side * scale)) for side in size)
    picture = Image.fromarray(picture_in(model_input, geometry)).resize((width, height))
    buffer = io.BytesIO()
    picture.save(buffer, "JPEG", quality=QUALITY)
    return buffer.getvalue()
