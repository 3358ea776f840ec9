"""The kernels of ARM64 on another machine: they give the bits of the portable ones, which give Pillow's.

Needs g++ for ARM64 and qemu (Debian and Ubuntu: apt install g++-aarch64-linux-gnu qemu-user).
"""

import shutil
import subprocess
from pathlib import Path

import pytest
from image_files import file_of
from PIL import Image

SOURCES = ("resample", "taps", "kernels", "kernels_portable", "kernels_avx2", "kernels_neon", "cpu_features", "jpeg",
           "jpeg_header", "jpeg_codes", "jpeg_kernels", "jpeg_kernels_portable", "jpeg_kernels_avx2",
           "jpeg_kernels_neon")
ROOT = Path(__file__).parents[1]
COMPILER, EMULATOR = "aarch64-linux-gnu-g++", "qemu-aarch64"


@pytest.mark.skipif(not (shutil.which(COMPILER) and shutil.which(EMULATOR)), reason=f"needs {COMPILER} and {EMULATOR}")
def test_neon_has_the_bits_of_the_portable_kernel_on_arm64_and_here(tmp_path, photos):
    files = []
    with Image.open(photos["china.jpg"]) as photo:
        for subsampling in ("4:4:4", "4:2:2", "4:2:0"):
            files.append(tmp_path / f"{subsampling.replace(':', '')}.jpg")
            files[-1].write_bytes(file_of(photo.crop((0, 0, 331, 217)), "JPEG", subsampling=subsampling))
    on_arm64 = digests(COMPILER, tmp_path / "arm64", files, EMULATOR)
    assert [kernel for _, kernel in on_arm64] == ["neon", "portable"] * 2
    here = digests("g++", tmp_path / "here", files)
    for work in ("resize", "jpeg"):
        results = {digest for (what, _), digest in [*on_arm64.items(), *here.items()] if what == work}
        assert len(results) == 1 and int(results.pop(), 16) != 0


def digests(compiler: str, program: Path, files: list[Path], *runner: str) -> dict[tuple[str, str], str]:
    """(resize or jpeg, kernel) → digest of what came out."""
    sources = [ROOT / "tests" / "kernels_agree.cpp", *(ROOT / "cpp_ext" / f"{name}.cpp" for name in SOURCES)]
    subprocess.run([compiler, "-std=c++17", "-O2", "-ffp-contract=off", "-static", "-I", ROOT / "cpp_ext", *sources,
                    "-o", program], check=True)
    run = subprocess.run([*runner, program, *files], check=True, capture_output=True, text=True)
    lines = [line.split() for line in run.stdout.splitlines()]
    return {(what, kernel): digest for what, kernel, digest in lines}
