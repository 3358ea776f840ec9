"""What a model wants to see: the size of its input and the scale of its values."""

import math
from dataclasses import dataclass

from safeguard_sdk.image.header import check_side_ratio

RESAMPLE = ("bicubic", "bilinear")  # both antialiased; bicubic is Keys' kernel with a = -0.5


@dataclass(frozen=True, slots=True)
class SquareGeometry:
    """What a model with a square input, such as nano, wants to see."""

    side: int                         # pixels, >= 1; the input is side × side
    mean: tuple[float, float, float]  # of R, G, B in [0, 1]
    std: tuple[float, float, float]   # of R, G, B in [0, 1], > 0
    resample: str = "bicubic"         # a name in RESAMPLE

    def __post_init__(self) -> None:
        _expect_whole("side", self.side)
        _expect_scale(self.mean, self.std)
        _expect_resample(self.resample)

    def size_of(self, height: int, width: int) -> tuple[int, int]:
        """(height, width) of a picture → those it is resized to: always the square."""
        return self.side, self.side


@dataclass(frozen=True, slots=True)
class PatchGeometry:
    """What Qwen2-VL, Qwen2.5-VL and Qwen3-VL want to see: a picture near its own size and shape, cut into patches.

    source  Qwen2-VL (arXiv:2409.12191), section 2.1; Qwen2VLImageProcessorPil of Hugging Face transformers
    """

    patch: int                        # pixels, >= 1; a patch is patch × patch: 14, or 16 for Qwen3-VL
    min_pixels: int                   # >= 1; smaller pictures are enlarged
    max_pixels: int                   # >= min_pixels; larger pictures are shrunk
    mean: tuple[float, float, float]  # of R, G, B in [0, 1]
    std: tuple[float, float, float]   # of R, G, B in [0, 1], > 0
    merge: int = 2                    # >= 1; merge × merge patches become one token
    temporal: int = 2                 # >= 1; frames of a patch, all of them the picture
    resample: str = "bicubic"         # a name in RESAMPLE

    def __post_init__(self) -> None:
        for name in ("patch", "min_pixels", "max_pixels", "merge", "temporal"):
            _expect_whole(name, getattr(self, name))
        if self.max_pixels < self.min_pixels:
            raise ValueError(f"geometry: max_pixels is {self.max_pixels}, must be >= min_pixels, {self.min_pixels}")
        _expect_scale(self.mean, self.std)
        _expect_resample(self.resample)

    def size_of(self, height: int, width: int) -> tuple[int, int]:
        """(height, width) of a picture → those it is resized to: multiples of patch · merge, near in size and shape,
        with min_pixels to max_pixels in all. Of very long pictures and narrow limits some miss their limit.

        raises  ImageError (bad_shape) where one side is over 200 times the other
        source  smart_resize of Hugging Face transformers (models/qwen2_vl), to the digit: halves round to even
        """
        check_side_ratio((width, height), "<array>")
        block = self.patch * self.merge
        sides = round(height / block) * block, round(width / block) * block
        if sides[0] * sides[1] > self.max_pixels:
            shrink = math.sqrt(height * width / self.max_pixels)
            return tuple(max(block, math.floor(side / shrink / block) * block) for side in (height, width))
        if sides[0] * sides[1] < self.min_pixels:
            stretch = math.sqrt(self.min_pixels / (height * width))
            return tuple(math.ceil(side * stretch / block) * block for side in (height, width))
        return sides

    def grid_of(self, height: int, width: int) -> tuple[int, int, int]:
        """(height, width) of a picture → its grid of patches (1, rows, columns). Raises as size_of does."""
        rows, columns = (side // self.patch for side in self.size_of(height, width))
        return 1, rows, columns


def _expect_whole(name: str, value: int) -> None:
    if not isinstance(value, int) or value < 1:
        raise ValueError(f"geometry: {name} is {value!r}, must be a whole number >= 1")


def _expect_scale(mean: tuple[float, ...], std: tuple[float, ...]) -> None:
    numbers = all(isinstance(value, int | float) for value in (*mean, *std))
    if len(mean) != 3 or len(std) != 3 or not numbers or min(std) <= 0:
        raise ValueError(f"geometry: mean {mean} and std {std} must hold 3 numbers each, with std > 0")


def _expect_resample(resample: str) -> None:
    if resample not in RESAMPLE:
        raise ValueError(f"geometry: resample is {resample!r}, must be one of {', '.join(RESAMPLE)}")
