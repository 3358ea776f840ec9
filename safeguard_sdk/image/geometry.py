"""What a model wants to see: the size of its input and the scale of its values."""

from dataclasses import dataclass

from PIL import Image

RESAMPLE = {"bicubic": Image.Resampling.BICUBIC, "bilinear": Image.Resampling.BILINEAR}


@dataclass(frozen=True, slots=True)
class Geometry:
    """What a model with a square input, such as nano, wants to see."""

    side: int                         # pixels, >= 1; the input is side × side
    mean: tuple[float, float, float]  # of R, G, B in [0, 1]
    std: tuple[float, float, float]   # of R, G, B in [0, 1], > 0
    resample: str = "bicubic"         # a name in RESAMPLE

    def __post_init__(self) -> None:
        if not isinstance(self.side, int) or self.side < 1:
            raise ValueError(f"geometry: side is {self.side!r}, must be a whole number of pixels >= 1")
        if len(self.mean) != 3 or len(self.std) != 3 or min(self.std) <= 0:
            raise ValueError(f"geometry: mean {self.mean} and std {self.std} must hold 3 numbers each, with std > 0")
        if self.resample not in RESAMPLE:
            raise ValueError(f"geometry: resample is {self.resample!r}, must be one of {', '.join(RESAMPLE)}")
