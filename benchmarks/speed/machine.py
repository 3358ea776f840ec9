"""What machine this is: processor, memory, GPU, Jetson; what the numbers depend on besides the code."""

from __future__ import annotations

import importlib.metadata
import platform
import re
import shutil
import subprocess
from pathlib import Path

import psutil

from benchmarks.speed.power import nvml
from safeguard_sdk import __version__
from safeguard_sdk._fast import cpu_features, preprocessing_kernels
from safeguard_sdk.image import jpeg_decoder
from safeguard_sdk.scan.options import usable_cores

PACKAGES = ("numpy", "pillow", "tokenizers", "onnxruntime", "onnxruntime-gpu", "tensorrt")
ROOT = Path("/")


def describe() -> dict:
    """Everything that can be found out; None where the machine does not say."""
    clock = psutil.cpu_freq()
    return {
        "cpu": cpu_name(), "cpu_features": cpu_features(), "cores": usable_cores(), "cpu_quota": cpu_quota(),
        "clock_mhz": None if clock is None else {"now": round(clock.current), "most": round(clock.max)},
        "governor": _first_line(ROOT / "sys/devices/system/cpu/cpu0/cpufreq/scaling_governor"),
        "virtual": "hypervisor" in _read(ROOT / "proc/cpuinfo"),
        "memory_gb": round(psutil.virtual_memory().total / 1e9, 1),
        "gpus": nvml.describe(), "jetson": jetson(),
        "platform": platform.platform(), "python": platform.python_version(), "safeguard": __version__,
        "jpeg_decoder": jpeg_decoder(), "kernel": preprocessing_kernels()[0],
        "packages": {name: version for name in PACKAGES if (version := _version(name))},
    }


def cpu_name(root: Path = ROOT) -> str:
    """Linux knows the name of the model, platform.processor() often only the architecture."""
    names = re.findall(r"^model name\s*:\s*(.+)$", _read(root / "proc/cpuinfo"), re.MULTILINE)
    return names[0] if names else platform.processor() or platform.machine()


def cpu_quota(root: Path = ROOT) -> float | None:
    """Cores that the control group of a container allows; None if it sets no limit."""
    allowed, _, period = _read(root / "sys/fs/cgroup/cpu.max").partition(" ")
    return round(int(allowed) / int(period), 2) if allowed.isdigit() else None


def jetson(root: Path = ROOT) -> dict | None:
    """Model, L4T and power mode of a Jetson; None on any other machine."""
    release = _first_line(root / "etc/nv_tegra_release")
    if release is None:
        return None
    model = _read(root / "proc/device-tree/model").strip("\0\n ")
    return {"model": model or None, "l4t": release, "power_mode": power_mode(_output("nvpmodel", "-q"))}


def power_mode(said: str) -> str | None:
    """The *name* of the mode out of what `nvpmodel -q` prints: mode 0 is the fastest on some Jetsons only."""
    found = re.search(r"NV Power Mode:\s*(\S+)", said)
    return found[1] if found else None


def _output(*command: str) -> str:
    if shutil.which(command[0]) is None:
        return ""
    return subprocess.run(command, capture_output=True, text=True, timeout=10).stdout


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError:  # another system, or not for this user
        return ""


def _first_line(path: Path) -> str | None:
    return next(iter(_read(path).splitlines()), None)


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None
