"""From the pixels of a PIL image of any mode to RGB: transparency on white, 16 bits to 8, nothing guessed."""

import numpy as np
from PIL import Image

from safeguard_sdk.errors import ImageError

_KEY_TO_8_BITS = {"L;2": lambda key: key * 85, "L;4": lambda key: key * 17,  # PNG rawmode → what its pixels go through
                  "RGB;16B": lambda key: tuple(value >> 8 for value in key)}


def to_rgb(picture: Image.Image, name: str) -> Image.Image:
    """The picture in mode RGB, as it is stored; loads `picture`, which the caller may own, and alters nothing else.

    raises  ImageError (unsupported) for samples whose range nothing tells; whatever Pillow raises while it decodes
    """
    rawmode = picture.tile[0][3] if picture.format == "PNG" and getattr(picture, "tile", None) else None
    picture.load()
    picture = _without_wide_grey(picture, name)
    if picture.mode in ("La", "RGBa"):  # premultiplied alpha; convert() knows one way out of each
        picture = picture.convert({"La": "LA", "RGBa": "RGBA"}[picture.mode])
    if picture.has_transparency_data:
        rgba = _with_key_of_pixels(picture, rawmode).convert("RGBA")
        picture = Image.new("RGB", rgba.size, "white")
        picture.paste(rgba, mask=rgba)
    return picture if picture.mode == "RGB" else picture.convert("RGB")


def _without_wide_grey(picture: Image.Image, name: str) -> Image.Image:
    """16-bit grey → L, or LA if one level means transparent. Refuses samples whose range nothing tells."""
    if picture.mode == "F":
        raise ImageError(f"{name}: has float pixels, their range unknown; scale them to uint8 yourself", "unsupported")
    if not picture.mode.startswith("I"):
        return picture
    grey = np.asarray(picture)  # (h, w) uint16; int32 in mode I, which may hold 16-bit samples or anything else
    if picture.mode == "I" and not (grey.min() >= 0 and 255 < grey.max() < 65536):
        raise ImageError(f"{name}: has 32-bit grey pixels in {grey.min()}..{grey.max()}, their range unknown; "
                         "scale them to uint8 yourself", "unsupported")
    tags = getattr(picture, "tag_v2", {})  # TIFF: 258 is bits per sample, 262 is 0 where zero means white
    if tags.get(258, 16) not in (16, (16,)) or tags.get(262) == 0:
        raise ImageError(f"{name}: is an uncommon grey TIFF (not 16 bits, or zero means white); save it as "
                         "8-bit PNG", "unsupported")
    level = Image.fromarray((grey >> 8).astype(np.uint8))
    if "transparency" not in picture.info:
        return level
    opaque = Image.fromarray(np.where(grey == picture.info["transparency"], 0, 255).astype(np.uint8))
    return Image.merge("LA", (level, opaque))


def _with_key_of_pixels(picture: Image.Image, rawmode: str | None) -> Image.Image:
    """Pillow brings a PNG's pixels to 8 bits, but not the colour that its tRNS chunk declares transparent."""
    if rawmode not in _KEY_TO_8_BITS or "transparency" not in picture.info:
        return picture
    picture = picture.copy()  # the caller may own it
    picture.info["transparency"] = _KEY_TO_8_BITS[rawmode](picture.info["transparency"])
    return picture
