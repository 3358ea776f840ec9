"""Pictures of scanned images for a reviewer: from the file that was scanned, or the thumbnail that the scan has kept.

A file is read only if a row of the scan names it, and used only if its bytes are still those that were judged.
"""

from __future__ import annotations

import hashlib
import io
import os
import threading
from pathlib import Path

from PIL import Image

from safeguard_sdk.errors import ImageError
from safeguard_sdk.image import decode_image, read_bytes
from safeguard_sdk.scan.rows import Row, item_name, record_of
from safeguard_sdk.scan.thumbnail import SIDE
from safeguard_sdk.serve.review_rows import ScanRows

MOST_BYTES = 64 << 20   # a larger file is not read for a picture
LARGE_SIDE = 720        # pixels of the longer side, of the picture that is looked at
QUALITY = 80            # of JPEG
DECODING = threading.BoundedSemaphore(2)  # at a time: a large photo takes several hundred MB


def picture_of(row: Row, rows: ScanRows, large: bool) -> bytes | None:
    """A JPEG, `large` or of a thumbnail's size; None if there is none to have."""
    kept = rows.thumbnail(row)
    if (kept and not large) or row["frame"] or (row["bytes"] or 0) > MOST_BYTES:  # of an animation any frame may count
        return kept
    try:
        with DECODING:
            return _jpeg(unchanged_bytes(row), LARGE_SIDE if large else SIDE)
    except ImageError:  # the file is gone, or is one that cannot be judged
        return kept


def unchanged_bytes(row: Row) -> bytes:
    """The file of a row. Raises ImageError unless it holds what was judged.

    A relative name counts from the folder that this process was started in, as it did for the scan.
    """
    path = local_path(row)
    if path is None:
        raise ImageError(f"{item_name(row)}: is no file of its own", "not_found")
    data = read_bytes(path) if _size(path) == row["bytes"] else b""
    if hashlib.sha256(data).hexdigest() != row["sha256"]:
        raise ImageError(f"{item_name(row)}: is not there as it was scanned; bring the file back, or start the service "
                         "in the folder that the scan was started in", "not_found")
    return data


def local_path(row: Row) -> Path | None:
    """The file that a row names; None for a member of an archive and for what was fetched from afar."""
    record = record_of(row)
    return Path(record.path) if record.member is None and "://" not in record.path else None


def _size(path: Path) -> int | None:
    try:
        return os.stat(path).st_size
    except (OSError, ValueError):
        return None


def _jpeg(data: bytes, side: int) -> bytes:
    def smaller(height: int, width: int) -> tuple[int, int]:
        scale = min(1.0, side / max(height, width))
        return max(1, round(height * scale)), max(1, round(width * scale))

    rgb = decode_image(data, target=smaller)
    height, width = smaller(*rgb.shape[:2])
    buffer = io.BytesIO()
    Image.fromarray(rgb).resize((width, height)).save(buffer, "JPEG", quality=QUALITY)
    return buffer.getvalue()
