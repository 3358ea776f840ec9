"""Memory of a GPU, copies, and recorded work, through NVIDIA's own bindings of the CUDA runtime.

`open_runtime` gives the module; whatever of it is used stands in this file.
Source: CUDA Runtime API, https://docs.nvidia.com/cuda/cuda-runtime-api/
"""

from __future__ import annotations

import math
import weakref
from collections.abc import Callable
from ctypes import c_uint8
from types import ModuleType

import numpy as np

from safeguard_sdk.errors import EngineError

LEAST = 256  # bytes of any allocation: an empty tensor needs an address, too


def open_runtime() -> ModuleType:
    """Raises EngineError where the bindings or the driver are missing."""
    try:
        from cuda.bindings import runtime
    except ImportError as error:
        raise EngineError(f"the bindings of CUDA cannot be imported ({error}); install them: "
                          "pip install 'safeguard[tensorrt]'") from error
    return runtime


class Cuda:
    """The runtime with errors raised. Each call's first result is its status."""

    def __init__(self, runtime: ModuleType) -> None:
        self._runtime = runtime

    def __call__(self, name: str, *arguments: object) -> object:
        """Call `cuda<name>`; what it returns besides its status. Raises EngineError."""
        status, *results = getattr(self._runtime, f"cuda{name}")(*arguments)
        if status != self._runtime.cudaError_t.cudaSuccess:
            raise EngineError(f"CUDA could not do {name}: {getattr(status, 'name', status)}; see to the driver and to "
                              "free memory with nvidia-smi (on a Jetson: tegrastats)")
        return results[0] if results else None

    def capability(self) -> str:
        """Of the first GPU: "86" for 8.6."""
        attribute = self._runtime.cudaDeviceAttr
        return "".join(str(self("DeviceGetAttribute", one, 0)) for one in (
            attribute.cudaDevAttrComputeCapabilityMajor, attribute.cudaDevAttrComputeCapabilityMinor))

    def copy(self, target: int, source: int, size: int, to_device: bool, stream: int) -> None:
        """Between a pinned and a device address; ends when the stream has come to it."""
        kinds = self._runtime.cudaMemcpyKind
        self("MemcpyAsync", target, source, size,
             kinds.cudaMemcpyHostToDevice if to_device else kinds.cudaMemcpyDeviceToHost, stream)

    def record(self, stream: int, work: Callable[[], None]) -> Recording:
        """What `work` puts into the stream, to be run again as one; nothing of it runs now."""
        mode = self._runtime.cudaStreamCaptureMode.cudaStreamCaptureModeThreadLocal
        self("StreamBeginCapture", stream, mode)
        try:
            work()
        finally:
            graph = self("StreamEndCapture", stream)
        try:
            return Recording(self, self("GraphInstantiate", graph, 0))
        finally:
            self("GraphDestroy", graph)


class Memory:
    """Bytes of the device, or pinned ones of the host; free when nobody holds them."""

    def __init__(self, cuda: Cuda, size: int, pinned: bool = False) -> None:
        self.size = max(size, LEAST)
        self.address = int(cuda("MallocHost" if pinned else "Malloc", self.size))
        _at_the_end_of(self, cuda, "FreeHost" if pinned else "Free", self.address)

    def as_array(self, shape: tuple[int, ...], kind: np.dtype) -> np.ndarray:
        """The first bytes of pinned memory, as they are."""
        held = (c_uint8 * self.size).from_address(self.address)
        return np.frombuffer(held, kind, count=math.prod(shape)).reshape(shape)


class DeviceArray:
    """An array on the device."""

    def __init__(self, memory: Memory, shape: tuple[int, ...], kind: np.dtype) -> None:
        self.memory, self.shape, self.kind = memory, shape, kind

    @property
    def nbytes(self) -> int:
        return math.prod(self.shape) * self.kind.itemsize


class Recording:
    """Work that was recorded, as a CUDA graph."""

    def __init__(self, cuda: Cuda, executable: object) -> None:
        self._cuda, self._executable = cuda, executable
        _at_the_end_of(self, cuda, "GraphExecDestroy", executable)

    def run(self, stream: int) -> None:
        self._cuda("GraphLaunch", self._executable, stream)


def _at_the_end_of(owner: object, cuda: Cuda, name: str, argument: object) -> None:
    """Give back what `owner` holds, but not when Python ends: by then the driver may be gone, and takes all with it."""
    weakref.finalize(owner, cuda, name, argument).atexit = False
