"""safeguard_sdk._fast.cpu_features: what the CPU offers and the operating system allows."""

import platform
from pathlib import Path

import pytest

from safeguard_sdk._fast import cpu_features

CPUINFO = Path("/proc/cpuinfo")
X86 = {"sse4.2", "avx", "avx2", "bmi2", "fma", "f16c", "avx512f", "avx512bw", "avx512vl", "avx512_vnni", "avx512_bf16",
       "avx_vnni", "amx_int8", "amx_bf16"}
ARM64 = {"neon": "asimd", "dotprod": "asimddp", "i8mm": "i8mm", "bf16": "bf16", "sve": "sve"}  # ours: Linux's


def linux_flags(field: str) -> set[str]:
    """The words behind the first line `field : …` of /proc/cpuinfo."""
    lines = CPUINFO.read_text(encoding="utf-8").splitlines() if CPUINFO.exists() else []
    for line in lines:
        name, _, words = line.partition(":")
        if name.strip() == field:
            return set(words.split())
    pytest.skip(f"{CPUINFO} has no line '{field}' on this machine ({platform.system()}, {platform.machine()})")


def test_on_x86_they_are_those_that_linux_lists():
    flags = linux_flags("flags")
    assert set(cpu_features()) == {name for name in X86 if name.replace(".", "_") in flags}


def test_on_arm64_they_are_those_that_linux_lists():
    flags = linux_flags("Features")
    assert set(cpu_features()) == {name for name, flag in ARM64.items() if flag in flags}


def test_every_64_bit_desktop_processor_has_one_at_least():
    if platform.machine().lower() not in ("x86_64", "amd64", "aarch64", "arm64"):
        pytest.skip(f"nothing is known of {platform.machine()}")
    assert cpu_features()


def test_each_is_named_once():
    assert len(cpu_features()) == len(set(cpu_features()))
