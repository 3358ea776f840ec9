"""The header of a file: its format, known by content alone, and the limits that hold before a pixel is decoded."""

import io
import re

from PIL import Image, ImageFile

from safeguard_sdk.errors import ImageError
from safeguard_sdk.image.failures import as_image_error

MAX_PIXELS = 178_956_970  # Pillow's own limit; a 108 MP phone photo fits; decoding takes 7 to 16 bytes a pixel
MAX_SIDE_RATIO = 200      # the Qwen2-VL processor refuses more
# What cameras, phones, scanners and browsers write. Each further decoder is one more door for hostile files: EPS starts
# Ghostscript, WMF the system's renderer; PSD and ICO hold pictures within pictures; TGA has no signature to know it by.
FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "AVIF", "HEIF")  # HEIF: once pillow-heif is registered

_REFUSED = {  # name: signature
    "HEIC": rb".{4}ftyp(hei[cxms]|hev[cxms])", "EPS": rb"%!PS|\xc5\xd0\xd3\xc6", "PDF": rb"%PDF", "PSD": rb"8BPS",
    "SVG or XML": rb"\s*<(svg|\?xml)", "JPEG 2000": rb"\xff\x4f\xff\x51|\x00{3}\x0cjP  ", "WMF": rb"\xd7\xcd\xc6\x9a",
    "JPEG XL": rb"\xff\x0a|\x00{3}\x0cJXL ", "ICO or CUR": rb"\x00\x00[\x01\x02]\x00", "QOI": rb"qoif", "DDS": rb"DDS ",
}


def open_header(data: bytes, name: str) -> ImageFile.ImageFile:
    """The file as a PIL image of which no pixel is decoded yet. Raises ImageError."""
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


def check_size(size: tuple[int, int], max_pixels: int, name: str) -> None:
    """Raises ImageError for a (width, height) that is empty, too_large or of a bad_shape."""
    width, height = size
    if min(size) < 1:
        raise ImageError(f"{name}: is {width} × {height}, without a pixel; fetch or draw it again", "empty")
    if width * height > max_pixels:
        raise ImageError(f"{name}: is {width} × {height} = {width * height} pixels, the limit is {max_pixels}; make it "
                         "smaller", "too_large")
    check_side_ratio(size, name)


def check_side_ratio(size: tuple[int, int], name: str) -> None:
    """Raises ImageError (bad_shape) for a (width, height) of which one is over MAX_SIDE_RATIO times the other."""
    if max(size) > MAX_SIDE_RATIO * min(size):
        raise ImageError(f"{name}: is {size[0]} × {size[1]}, one side over {MAX_SIDE_RATIO} times the other; cut it "
                         "into pieces and judge each", "bad_shape")


def _read_header(data: bytes, file_format: str, name: str) -> ImageFile.ImageFile | None:
    """None where the signature is another format's. Not through Image.open, which hides why a header was refused."""
    factory, accept = Image.OPEN.get(file_format, (None, None))
    accepted = factory and (accept is None or accept(data[:32]))
    if isinstance(accepted, str):  # Pillow was built without this decoder, and says so
        raise ImageError(f"{name}: {accepted}; convert it to JPEG or PNG", "unsupported")
    if not accepted:
        return None
    cut_off = file_format == "WEBP" and int.from_bytes(data[4:8], "little") + 8 > len(data)
    with as_image_error(name, f"looks like {file_format}, but its header cannot be read",
                        "truncated" if cut_off else "bad_header"):
        picture = factory(io.BytesIO(data), "")
        if file_format == "PNG":  # the one format with checksums; of those after the header only verify() takes notice
            picture.verify()
            picture = factory(io.BytesIO(data), "")
        return picture
