"""The kernels of ARM64 on another machine: they give the bits of the portable ones, which give Pillow's.

Needs g++ for ARM64 and qemu (Debian and Ubuntu: apt install g++-aarch64-linux-gnu qemu-user).
"""

import shutil
import subprocess
from pathlib import Path

import pytest

SOURCES = ("resample", "taps", "kernels", "kernels_portable", "kernels_avx2", "kernels_neon", "cpu_features")
ROOT = Path(__file__).parents[1]
COMPILER, EMULATOR = "aarch64-linux-gnu-g++", "qemu-aarch64"


@pytest.mark.skipif(not (shutil.which(COMPILER) and shutil.which(EMULATOR)), reason=f"needs {COMPILER} and {EMULATOR}")
def test_neon_has_the_bits_of_the_portable_kernel_on_arm64_and_here(tmp_path):
    on_arm64 = digests(COMPILER, tmp_path / "arm64", EMULATOR)
    assert list(on_arm64) == ["neon", "portable"]
    here = digests("g++", tmp_path / "here")
    assert set(on_arm64.values()) == set(here.values()) and len(set(here.values())) == 1


def digests(compiler: str, program: Path, *runner: str) -> dict[str, str]:
    """Kernel → digest of what it resizes."""
    sources = [ROOT / "tests" / "kernels_agree.cpp", *(ROOT / "cpp_ext" / f"{name}.cpp" for name in SOURCES)]
    subprocess.run([compiler, "-std=c++17", "-O2", "-ffp-contract=off", "-static", "-I", ROOT / "cpp_ext", *sources,
                    "-o", program], check=True)
    run = subprocess.run([*runner, program], check=True, capture_output=True, text=True)
    return dict(line.split() for line in run.stdout.splitlines())
