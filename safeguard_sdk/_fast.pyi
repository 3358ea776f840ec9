"""Compiled parts of safeguard_sdk; the source is cpp_ext/."""

from collections.abc import Sequence
from typing import Literal

import numpy as np

def cpu_features() -> list[str]:
    """Instruction sets for inference that this CPU and its operating system support, oldest first.

    x86: sse4.2, avx, avx2, bmi2, fma, f16c, avx512f, avx512bw, avx512vl, avx512_vnni, avx512_bf16, avx_vnni, amx_int8,
    amx_bf16. ARM64: neon, dotprod, i8mm, bf16, sve. Empty on other processors.
    """

# Preprocessing: behind safeguard_sdk.image.pixels, which has the public functions.

def preprocessing_kernels() -> list[str]:
    """Names of the resize kernels that run on this machine, the fastest first: avx2 or neon, then portable.

    All give the same bits.
    """

def to_planes(
    images: Sequence[np.ndarray], side: int, resample: str, values: np.ndarray, out: np.ndarray, threads: int,
    kernel: str,
) -> None:
    """Write n images into out (n, 3, side, side), each squashed to the square.

    images    (h, w, 3) uint8 each, of any strides, sides up to 2^24; only read
    resample  "bicubic" or "bilinear", both as Pillow 13 has them
    values    (3, 256) float32 or float16: what is written for each sample of each channel
    out       of the type of values, C-contiguous, aligned, writeable
    threads   images computed at a time; the GIL is released meanwhile
    kernel    a name in preprocessing_kernels()
    raises    ValueError for arguments that do not fit, MemoryError; RuntimeError where no thread can be started
    """

def to_patches(
    images: Sequence[np.ndarray], sizes: Sequence[tuple[int, int]], patch: int, merge: int, temporal: int,
    resample: str, values: np.ndarray, out: np.ndarray, threads: int, kernel: str,
) -> None:
    """Write n images into out (patches of all images, 3 · temporal · patch²), in the order of Qwen2-VL.

    sizes  (height, width) that each image is resized to, multiples of patch · merge
    All else is as in to_planes.
    """

# JPEG files: behind safeguard_sdk.image.jpeg.

def jpeg_kernels() -> list[str]:
    """Names of the JPEG decoder's kernels that run on this machine, the fastest first: avx2 or neon, then portable.

    All give the same bits.
    """

def decode_jpeg(file: bytes, height: int, width: int, scale: int, kernel: str) -> np.ndarray | None:
    """A JPEG file of height × width at 1/scale of its sides, rounded up, as stored: (h, w, 3) uint8.

    scale   2, 4 or 8
    kernel  a name in jpeg_kernels()
    None    for what is left to libjpeg: all but baseline files of one pass, grey or YCbCr with chroma whole, halved or
            halved both ways; a file of another size; whatever libjpeg-turbo would warn of; and coefficients that no
            samples of 8 bits give
    raises  ValueError for arguments that do not fit, MemoryError
    The pixels are those of libjpeg-turbo (slow integer DCT, fancy upsampling) in every bit; releases the GIL.
    """

def count_scan_markers(file: bytes) -> int:
    """How often the two bytes of the marker that opens a scan stand in a file, thumbnails included."""

# Verdict decoding: behind safeguard_sdk.verdict and safeguard_sdk.prompt.

def verdict_log_probabilities(logits: np.ndarray, safe: int, unsafe: int, *, portable: bool = False) -> np.ndarray:
    """Logits of a vocabulary → log-probabilities of two of its tokens, by a stable log-sum-exp; releases the GIL.

    logits    (rows, vocabulary) or (vocabulary,) float32, float16, or uint16 with the bits of bfloat16, in the
              machine's byte order; any strides, read-only too
    portable  without AVX2, as on a CPU that has none: the same bits, more slowly
    returns   (rows, 2) or (2,) float64, safe and unsafe, within 1e-6; a row does not depend on the other rows. NaN for
              a row in which a logit is NaN or +inf; -inf is a token that cannot come
    raises    TypeError, ValueError, IndexError; see safeguard_sdk.verdict.verdict_log_probabilities
    """

class AnswerAutomaton:
    """A generated answer, read byte by byte; safeguard_sdk.prompt.AnswerReader is its public face."""

    def __init__(self, style: str) -> None:
        """For the grammar of a style (`PromptStyle.grammar`). Raises ValueError for another name."""

    @property
    def state(self) -> Literal["dead", "open", "complete"]: ...
    def feed(self, piece: bytes) -> None: ...
    def admits(self, piece: bytes) -> bool:
        """Whether it would not be dead after these bytes; reads nothing."""

    def allowed(self) -> np.ndarray:
        """(256,) bool: the bytes that an answer can go on with."""

    def fields(self) -> tuple[str, str, str] | None:
        """(label, category, rationale) as the model wrote them, "" for what is not there; None unless complete."""

# Weights: behind safeguard_sdk.engine.narrow.

def widen(nibbles: np.ndarray, planes: np.ndarray, factors: np.ndarray, out: np.ndarray, threads: int) -> None:
    """Write the levels of a weight in 4 to 6 bits, see cpp_ext/widening.hpp.

    nibbles  (inputs, outputs / 2) uint8
    planes   (bits - 4, inputs, outputs / 8) uint8
    factors  (inputs / 32, outputs) uint8
    out      (inputs, outputs) int8, C-contiguous, writeable
    threads  that widen it; the GIL is released meanwhile
    raises   ValueError for shapes that do not fit, TypeError for another type; RuntimeError where no thread can be
             started
    """
