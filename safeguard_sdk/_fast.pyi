"""Compiled parts of safeguard_sdk; the source is cpp_ext/."""

def cpu_features() -> list[str]:
    """Instruction sets for inference that this CPU and its operating system support, oldest first.

    x86: sse4.2, avx, avx2, fma, f16c, avx512f, avx512bw, avx512vl, avx512_vnni, avx512_bf16, avx_vnni, amx_int8,
    amx_bf16. ARM64: neon, dotprod, i8mm, bf16, sve. Empty on other processors.
    """
