"""From a path, bytes, a PIL image or an array to upright RGB, and from there to the model's input.

    rgb = decode_image("upload.jpg")               # decode.py: (h, w, 3) uint8, upright
    pixel_values = to_pixel_values(rgb, geometry)  # pixels.py: (3, side, side) float32
"""

from safeguard_sdk.image.decode import FORMATS, MAX_PIXELS, decode_image, image_sha256
from safeguard_sdk.image.files import read_bytes
from safeguard_sdk.image.geometry import Geometry
from safeguard_sdk.image.pixels import to_pixel_values

__all__ = ["FORMATS", "MAX_PIXELS", "Geometry", "decode_image", "image_sha256", "read_bytes", "to_pixel_values"]
