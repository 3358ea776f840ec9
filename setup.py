"""The compiled part of the wheel: safeguard_sdk._fast. All else about the package stands in pyproject.toml.

Every .cpp in cpp_ext/ belongs to it. There is no -march=native: a wheel runs on every CPU of its architecture,
and kernels choose their instruction set when they run.
"""

import sys
from glob import glob

from pybind11.setup_helpers import Pybind11Extension
from setuptools import setup

# No fused multiply-add where the source has two operations: its double arithmetic gives the same bits everywhere.
WINDOWS = sys.platform == "win32"
FLAGS = ["/O2", "/W3"] if WINDOWS else ["-O3", "-ffp-contract=off", "-Wall", "-Wextra", "-pthread"]

setup(ext_modules=[Pybind11Extension(
    "safeguard_sdk._fast", sorted(glob("cpp_ext/*.cpp")), depends=sorted(glob("cpp_ext/*.hpp")), cxx_std=17,
    extra_compile_args=FLAGS, extra_link_args=[] if WINDOWS else ["-pthread"],
)])
