"""Compiled parts of safeguard_sdk; the source is cpp_ext/."""

from typing import Literal

import numpy as np

def cpu_features() -> list[str]:
    """Instruction sets for inference that this CPU and its operating system support, oldest first.

    x86: sse4.2, avx, avx2, fma, f16c, avx512f, avx512bw, avx512vl, avx512_vnni, avx512_bf16, avx_vnni, amx_int8,
    amx_bf16. ARM64: neon, dotprod, i8mm, bf16, sve. Empty on other processors.
    """

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
        """For a style of PROMPTS by name. Raises ValueError if there is no grammar for it."""

    @property
    def state(self) -> Literal["dead", "open", "complete"]: ...
    def feed(self, piece: bytes) -> None: ...
    def admits(self, piece: bytes) -> bool:
        """Whether it would not be dead after these bytes; reads nothing."""

    def allowed(self) -> np.ndarray:
        """(256,) bool: the bytes that an answer can go on with."""

    def fields(self) -> tuple[str, str, str] | None:
        """(label, category, rationale) as the model wrote them, "" for what is not there; None unless complete."""
