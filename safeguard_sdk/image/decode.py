"""From a path, bytes, a PIL image or an array to upright RGB.

The header comes first: format, dimensions and limits are judged before a pixel is decoded. Whatever goes wrong is an
ImageError with a stable kind, however Pillow fails. No global state of Pillow is changed.
Of several frames (GIF, APNG, WebP, AVIF) or pages (TIFF, MPO) the first is read. Colour profiles are not applied.
"""

import hashlib
import io
import os
import re
import struct
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress

import numpy as np
from PIL import Image, ImageFile

from safeguard_sdk.errors import ImageError
from safeguard_sdk.image.files import printable, read_bytes

MAX_PIXELS = 178_956_970  # Pillow's own limit; a 108 MP phone photo fits; decoding takes 7 to 16 bytes a pixel
BAND_ROWS = 64            # copied at a time: 12 MP in 9 ms, np.asarray 30 (one AVX512 core); 32 to 256 do alike
MAX_SIDE_RATIO = 200      # the Qwen2-VL processor refuses more
# What cameras, phones, scanners and browsers write. Each further decoder is one more door for hostile files: EPS starts
# Ghostscript, WMF the system's renderer; PSD and ICO hold pictures within pictures; TGA has no signature to know it by.
FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "AVIF", "HEIF")  # HEIF: once pillow-heif is registered

_REFUSED = {  # name: signature
    "HEIC": rb".{4}ftyp(hei[cxms]|hev[cxms])", "EPS": rb"%!PS|\xc5\xd0\xd3\xc6", "PDF": rb"%PDF", "PSD": rb"8BPS",
    "SVG or XML": rb"\s*<(svg|\?xml)", "JPEG 2000": rb"\xff\x4f\xff\x51|\x00{3}\x0cjP  ", "WMF": rb"\xd7\xcd\xc6\x9a",
    "JPEG XL": rb"\xff\x0a|\x00{3}\x0cJXL ", "ICO or CUR": rb"\x00\x00[\x01\x02]\x00", "QOI": rb"qoif", "DDS": rb"DDS ",
}
_UPRIGHT = {  # EXIF orientation (tag 274 of CIPA DC-008) → the transposition that undoes it; 1 needs none
    2: Image.Transpose.FLIP_LEFT_RIGHT, 3: Image.Transpose.ROTATE_180, 4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE, 6: Image.Transpose.ROTATE_270, 7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_KEY_TO_8_BITS = {"L;2": lambda key: key * 85, "L;4": lambda key: key * 17,  # PNG rawmode → what its pixels go through
                  "RGB;16B": lambda key: tuple(value >> 8 for value in key)}
_REASONS = (  # what Pillow's messages give away; the first match wins
    (r"truncated|incomplete checksum|cannot load this image|broken PNG file \(chunk b'\w{0,3}'\)", "truncated"),
    (r"exceeds limit", "too_large"),
    (r"unsupported|not supported|not implemented|cannot handle|unknown pixel mode|illegal conversion", "unsupported"),
    (r"closed image", "unreadable"),
)
_IGNORE_PILLOW = ("ignore", None, Warning, re.compile(r"PIL\."), 0)  # an entry of warnings.filters


def decode_image(
    image: str | os.PathLike | bytes | Image.Image | np.ndarray, *,
    max_pixels: int = MAX_PIXELS, target_side: int | None = None, name: str | None = None,
) -> np.ndarray:
    """One image as (h, w, 3) uint8: upright, RGB, C-contiguous; an array that fits already is returned as it is.

    image        a path; the bytes of a file (known by content, whatever its name says); a PIL image of any mode (its
                 current frame; its EXIF orientation counts); or an array (h, w, 3) uint8 in RGB order
    max_pixels   an image with w · h above this is refused from its header
    target_side  lets a JPEG file be decoded at 1/2, 1/4 or 1/8 while both sides stay >= 2 · target_side
    name         what messages call the image, such as a member of an archive; by default its path or "<bytes>"
    raises       ImageError, whatever the file holds
    Alpha, palette and single-colour transparency is composited on white. Of 16-bit samples the high byte is kept.
    """
    name = name and printable(name)  # names in an archive come from strangers
    if isinstance(image, np.ndarray):
        name = name or "<array>"
        rgb = np.ascontiguousarray(checked_rgb(image, name))
        _check_size((rgb.shape[1], rgb.shape[0]), max_pixels, name)
        return rgb
    if isinstance(image, str | os.PathLike):
        name, image = name or printable(image), read_bytes(image)
    with _pillow_not_warning():
        if isinstance(image, Image.Image):
            name, picture, target_side = name or "<PIL image>", image, None  # draft() would alter the caller's image
        elif isinstance(image, bytes | bytearray | memoryview):
            name = name or "<bytes>"
            picture = _open(bytes(image), name)
        else:
            raise ImageError(f"{name or '<image>'}: is of type {type(image).__name__}; pass a path, bytes, a PIL image "
                             "or an (h, w, 3) uint8 array", "unsupported")
        _check_size(picture.size, max_pixels, name)
        if ImageFile.LOAD_TRUNCATED_IMAGES and getattr(picture, "tile", None):  # not loaded yet
            raise ImageError(f"{name}: PIL.ImageFile.LOAD_TRUNCATED_IMAGES is on in this process, so a cut-off file "
                             "would pass as a whole one; set it to False", "unsupported")
        try:
            if target_side:
                picture.draft("RGB", (2 * target_side, 2 * target_side))
            return _to_array(_to_upright_rgb(picture, name))
        except ImageError:
            raise
        except Exception as error:  # Pillow documents no list; a dozen types have been seen on hostile files
            raise _as_image_error(error, name, "its pixels cannot be decoded", "corrupt") from error


def image_sha256(image: str | os.PathLike | bytes | Image.Image | np.ndarray) -> str:
    """The hex digest that names an image in a record: of a file's bytes, else of its upright RGB pixels and shape.

    raises  ImageError as read_bytes and decode_image do
    """
    if isinstance(image, str | os.PathLike):
        image = read_bytes(image)
    if isinstance(image, bytes | bytearray | memoryview):
        return hashlib.sha256(image).hexdigest()
    rgb = decode_image(image)
    return hashlib.sha256(f"rgb {rgb.shape[0]} {rgb.shape[1]}\n".encode() + rgb.tobytes()).hexdigest()


def _open(data: bytes, name: str) -> ImageFile.ImageFile:
    """The header of a file, known by its content, and no pixel of it."""
    if not data:
        raise ImageError(f"{name}: has zero bytes; fetch the file again", "empty")
    Image.init()  # registers Pillow's decoders, once
    failure = None
    for file_format in FORMATS:
        try:
            if picture := _read_header(data, file_format, name):
                return picture
        except ImageError as error:  # AVIF and HEIF share a signature: the next one may do
            failure = error
    if failure:
        raise failure
    for refused, signature in _REFUSED.items():
        if re.match(signature, data[:32], re.DOTALL):
            mend = " or call pillow_heif.register_heif_opener()" if refused == "HEIC" else ""
            raise ImageError(f"{name}: is {refused}, not read here; convert it to JPEG or PNG{mend}", "unsupported")
    raise ImageError(f"{name}: begins with {data[:8]!r}, unlike any format read here ({', '.join(FORMATS)}); check "
                     "that it is an image", "not_an_image")


def _read_header(data: bytes, file_format: str, name: str) -> ImageFile.ImageFile | None:
    """None where the signature is another format's. Not through Image.open, which hides why a header was refused."""
    factory, accept = Image.OPEN.get(file_format, (None, None))
    accepted = factory and (accept is None or accept(data[:32]))
    if isinstance(accepted, str):  # Pillow was built without this decoder, and says so
        raise ImageError(f"{name}: {accepted}; convert it to JPEG or PNG", "unsupported")
    if not accepted:
        return None
    try:
        picture = factory(io.BytesIO(data), "")
        if file_format == "PNG":  # the one format with checksums; of those after the header only verify() takes notice
            picture.verify()
            picture = factory(io.BytesIO(data), "")
        return picture
    except Exception as error:  # see decode_image
        cut_off = file_format == "WEBP" and int.from_bytes(data[4:8], "little") + 8 > len(data)
        raise _as_image_error(error, name, f"looks like {file_format}, but its header cannot be read",
                              "truncated" if cut_off else "bad_header") from error


def _check_size(size: tuple[int, int], max_pixels: int, name: str) -> None:
    width, height = size
    if min(size) < 1:
        raise ImageError(f"{name}: is {width} × {height}, without a pixel; fetch or draw it again", "empty")
    if width * height > max_pixels:
        raise ImageError(f"{name}: is {width} × {height} = {width * height} pixels, the limit is {max_pixels}; make it "
                         "smaller, or raise max_pixels if you trust its source", "too_large")
    if max(size) > MAX_SIDE_RATIO * min(size):
        raise ImageError(f"{name}: is {width} × {height}, one side over {MAX_SIDE_RATIO} times the other; cut it "
                         "into pieces and judge each", "bad_shape")


def _to_upright_rgb(picture: Image.Image, name: str) -> Image.Image:
    rawmode = picture.tile[0][3] if picture.format == "PNG" and getattr(picture, "tile", None) else None
    picture.load()
    orientation = _orientation(picture)  # after load(): PNG may keep its EXIF behind the pixels
    picture = _without_wide_grey(picture, name)
    if picture.mode in ("La", "RGBa"):  # premultiplied alpha; convert() knows one way out of each
        picture = picture.convert({"La": "LA", "RGBa": "RGBA"}[picture.mode])
    if picture.has_transparency_data:
        rgba = _with_key_of_pixels(picture, rawmode).convert("RGBA")
        picture = Image.new("RGB", rgba.size, "white")
        picture.paste(rgba, mask=rgba)
    elif picture.mode != "RGB":
        picture = picture.convert("RGB")
    return picture.transpose(_UPRIGHT[orientation]) if orientation in _UPRIGHT else picture


def _to_array(picture: Image.Image) -> np.ndarray:
    """RGB → (h, w, 3) uint8. In bands, as np.asarray of a whole picture holds two more copies of it for a while."""
    rgb = np.empty((picture.height, picture.width, 3), np.uint8)
    for top in range(0, picture.height, BAND_ROWS):
        bottom = min(top + BAND_ROWS, picture.height)
        rgb[top:bottom] = np.asarray(picture.crop((0, top, picture.width, bottom)))
    return rgb


def _with_key_of_pixels(picture: Image.Image, rawmode: str | None) -> Image.Image:
    """Pillow brings a PNG's pixels to 8 bits, but not the colour that its tRNS chunk declares transparent."""
    if rawmode not in _KEY_TO_8_BITS or "transparency" not in picture.info:
        return picture
    picture = picture.copy()  # the caller may own it
    picture.info["transparency"] = _KEY_TO_8_BITS[rawmode](picture.info["transparency"])
    return picture


def _orientation(picture: Image.Image) -> int | None:
    """EXIF orientation 1..8. Broken EXIF beside good pixels counts as none, as in browsers."""
    try:
        return picture.getexif().get(274)
    except (OSError, SyntaxError, ValueError, TypeError, LookupError, ArithmeticError, struct.error):
        return None


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


def checked_rgb(array: np.ndarray, name: str) -> np.ndarray:
    """The array itself. Raises ImageError (bad_shape, empty) that says how to convert what was passed."""
    shape = array.shape
    if array.dtype == np.uint8 and array.ndim == 3 and shape[2] == 3:
        if array.size == 0:
            raise ImageError(f"{name}: is an array of shape {shape}, without a pixel", "empty")
        return array
    steps = []
    if array.ndim == 4:
        steps.append("pass one image at a time")
    elif array.ndim == 3 and shape[0] in (1, 3, 4) and shape[2] not in (1, 3, 4):
        steps.append("move the channels last: image.transpose(1, 2, 0)")
    elif array.ndim == 2 or shape[-1:] == (1,):
        steps.append("repeat the grey channel: np.repeat(image.reshape(*image.shape[:2], 1), 3, axis=2)")
    elif shape[-1:] == (4,):
        steps.append("composite its alpha on white: pass PIL.Image.fromarray(image)")
    if np.issubdtype(array.dtype, np.floating):
        steps.append("scale floats in 0..1 to bytes: (image * 255).round().astype(np.uint8)")
    elif array.dtype == np.uint16:
        steps.append("keep the high byte: (image >> 8).astype(np.uint8)")
    elif array.dtype != np.uint8:
        steps.append("bring its values to 0..255 and its type to np.uint8")
    raise ImageError(f"{name}: is an array of shape {shape} and type {array.dtype}, must be (h, w, 3) uint8, RGB; "
                     f"{'; '.join(steps) or 'pass three channels'}", "bad_shape")


def _as_image_error(error: Exception, name: str, what: str, kind: str) -> ImageError:
    """`kind` unless the exception says more."""
    text = " ".join(str(error).split()) or type(error).__name__
    ends_early = (EOFError, IndexError, struct.error)
    if isinstance(error, MemoryError):
        text, kind = "not enough memory", "too_large"
    elif isinstance(error, ends_early) or isinstance(error.__cause__, ends_early):
        text, kind = "the data end too early", "truncated"
    else:
        kind = next((reason for pattern, reason in _REASONS if re.search(pattern, text, re.IGNORECASE)), kind)
    mend = {"truncated": "fetch the file again", "unsupported": "convert it to 8-bit JPEG or PNG",
            "too_large": "make it smaller", "unreadable": "pass an open image"}
    return ImageError(f"{name}: {what} ({text}); {mend.get(kind, 'open it in an editor and save it again')}", kind)


@contextmanager
def _pillow_not_warning() -> Iterator[None]:
    """Pillow warns about broken metadata and large headers; here the outcome is an array or an ImageError.

    warnings.catch_warnings swaps the process-wide list of filters, which threads undo for each other; adding and taking
    away one entry is safe among threads.
    """
    filters = warnings.filters
    filters.insert(0, _IGNORE_PILLOW)
    try:
        yield
    finally:
        with suppress(ValueError):  # somebody reset the list meanwhile
            filters.remove(_IGNORE_PILLOW)
