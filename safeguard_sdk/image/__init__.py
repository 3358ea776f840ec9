"""From a path, bytes, a PIL image or an array to upright RGB, and from there to the model's input.

    rgb = decode_image("upload.jpg")               # decode.py: (h, w, 3) uint8, upright
    pixel_values = to_pixel_values(rgb, geometry)  # pixels.py: (3, side, side) float32, or patches for Qwen-VL
"""

from safeguard_sdk.image.decode import FORMATS, MAX_PIXELS, decode_image, image_sha256
from safeguard_sdk.image.files import MAX_FILE_BYTES, read_bytes
from safeguard_sdk.image.geometry import PatchGeometry, SquareGeometry
from safeguard_sdk.image.pixels import batch_to_patches, batch_to_pixel_values, to_patches, to_pixel_values

__all__ = [
    "FORMATS", "MAX_FILE_BYTES", "MAX_PIXELS", "PatchGeometry", "SquareGeometry", "batch_to_patches",
    "batch_to_pixel_values", "decode_image", "image_sha256", "read_bytes", "to_patches", "to_pixel_values",
]
