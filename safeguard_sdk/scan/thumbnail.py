"""Small pictures of what was flagged, made from what the model saw: no file is read a second time."""

from __future__ import annotations

import io

import numpy as np
from PIL import Image

from safeguard_sdk.image import SquareGeometry

SIDE, QUALITY = 160, 70  # pixels of the longer side; of JPEG


def thumbnail_of(pixel_values: np.ndarray, size: tuple[int, int], geometry: SquareGeometry) -> bytes:
    """(3, side, side) float32 and the (h, w) that it was squashed from → a JPEG file. The same bytes each time."""
    mean, std = (np.array(values, np.float32)[:, None, None] for values in (geometry.mean, geometry.std))
    rgb = ((pixel_values * std + mean) * 255).round().clip(0, 255).astype(np.uint8)
    scale = SIDE / max(size)
    height, width = (max(1, round(side * scale)) for side in size)
    picture = Image.fromarray(rgb.transpose(1, 2, 0)).resize((width, height))
    buffer = io.BytesIO()
    picture.save(buffer, "JPEG", quality=QUALITY)
    return buffer.getvalue()
