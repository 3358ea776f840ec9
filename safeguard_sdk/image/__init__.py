"""From a path, bytes, a PIL image or an array to upright RGB, and from there to the model's input.

    rgb = decode_image("upload.jpg", target=geometry.size_of)  # decode.py: (h, w, 3) uint8, upright
    pixel_values = to_pixel_values(rgb, geometry)              # pixels.py: (3, side, side) float32
    patches, grid = to_patches(rgb, patch_geometry)            # for Qwen-VL

What decode.py takes together: files.py reads bytes, header.py knows formats and limits, jpeg.py decodes JPEGs at a
fraction of their size, colour.py brings every mode to RGB, orientation.py turns it upright, array.py takes arrays, and
failures.py turns whatever Pillow raises into an ImageError.
"""

from safeguard_sdk.image.decode import decode_image, image_sha256
from safeguard_sdk.image.files import MAX_FILE_BYTES, read_bytes
from safeguard_sdk.image.geometry import PatchGeometry, SquareGeometry
from safeguard_sdk.image.header import FORMATS, MAX_PIXELS
from safeguard_sdk.image.jpeg import Scaling, jpeg_decoder
from safeguard_sdk.image.pixels import (
    ModelInput,
    batch_to_patches,
    batch_to_pixel_values,
    to_model_input,
    to_patches,
    to_pixel_values,
)

__all__ = [
    "FORMATS", "MAX_FILE_BYTES", "MAX_PIXELS", "ModelInput", "PatchGeometry", "Scaling", "SquareGeometry",
    "batch_to_patches", "batch_to_pixel_values", "decode_image", "image_sha256", "jpeg_decoder", "read_bytes",
    "to_model_input", "to_patches", "to_pixel_values",
]
