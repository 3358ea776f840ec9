"""A GPU of a few lines, for the host code around TensorRT engines: device memory is memory of this process, a stream
does its work at once or, while it is captured, later; an "engine" is the ONNX graph of the same name, run on the CPU.

What it checks that a GPU would not say: that every byte read was written, that freed memory is not touched, and that
recorded work finds the shapes in its context that it was recorded with.
"""

from __future__ import annotations

import ctypes
import enum
import types
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnxruntime


class Status(enum.Enum):
    cudaSuccess = 0
    cudaErrorMemoryAllocation = 2


class FakeCuda(types.SimpleNamespace):
    """The functions of cuda.bindings.runtime that engine.cuda calls. `most` bytes of the device can be had."""

    cudaError_t = Status
    cudaMemcpyKind = types.SimpleNamespace(cudaMemcpyHostToDevice="to", cudaMemcpyDeviceToHost="from")
    cudaStreamCaptureMode = types.SimpleNamespace(cudaStreamCaptureModeThreadLocal="thread")
    cudaDeviceAttr = types.SimpleNamespace(cudaDevAttrComputeCapabilityMajor=0, cudaDevAttrComputeCapabilityMinor=1)

    def __init__(self, capability: str = "86", most: int = 1 << 30) -> None:
        super().__init__(capability=capability, most=most)
        self.device: dict[int, ctypes.Array] = {}
        self.host: dict[int, ctypes.Array] = {}
        self.captured: list[Callable[[], None]] | None = None
        self.launches = 0

    def do(self, work: Callable[[], None]) -> None:
        """What a stream does with work."""
        if self.captured is None:
            work()
        else:
            self.captured.append(work)

    def view(self, address: int, size: int) -> np.ndarray:
        """Bytes of the device. Only whole allocations have addresses."""
        return np.frombuffer(self.device[address], np.uint8, count=size)

    def cudaDeviceGetAttribute(self, which: int, device: int) -> tuple:
        return Status.cudaSuccess, int(self.capability[:-1] if which == 0 else self.capability[-1])

    def cudaMalloc(self, size: int) -> tuple:
        if sum(map(len, self.device.values())) + size > self.most:
            return Status.cudaErrorMemoryAllocation, 0
        return Status.cudaSuccess, _allocate(self.device, size)

    def cudaMallocHost(self, size: int) -> tuple:
        return Status.cudaSuccess, _allocate(self.host, size)

    def cudaFree(self, address: int) -> tuple:
        del self.device[address]
        return (Status.cudaSuccess,)

    def cudaFreeHost(self, address: int) -> tuple:
        del self.host[address]
        return (Status.cudaSuccess,)

    def cudaStreamCreate(self) -> tuple:
        return Status.cudaSuccess, 7

    def cudaStreamSynchronize(self, stream: int) -> tuple:
        assert self.captured is None, "a stream that is captured cannot be waited for"
        return (Status.cudaSuccess,)

    def cudaMemcpyAsync(self, target: int, source: int, size: int, kind: str, stream: int) -> tuple:
        targets, sources = (self.device, self.host) if kind == "to" else (self.host, self.device)
        assert size <= len(targets[target]) and size <= len(sources[source])
        self.do(lambda: ctypes.memmove(targets[target], sources[source], size))
        return (Status.cudaSuccess,)

    def cudaStreamBeginCapture(self, stream: int, mode: str) -> tuple:
        self.captured = []
        return (Status.cudaSuccess,)

    def cudaStreamEndCapture(self, stream: int) -> tuple:
        work, self.captured = self.captured, None
        return Status.cudaSuccess, work

    def cudaGraphInstantiate(self, graph: list, flags: int) -> tuple:
        return Status.cudaSuccess, list(graph)

    def cudaGraphDestroy(self, graph: list) -> tuple:
        return (Status.cudaSuccess,)

    def cudaGraphLaunch(self, executable: list, stream: int) -> tuple:
        self.launches += 1
        for work in executable:
            work()
        return (Status.cudaSuccess,)

    def cudaGraphExecDestroy(self, executable: list) -> tuple:
        executable.clear()
        return (Status.cudaSuccess,)


def _allocate(held: dict[int, ctypes.Array], size: int) -> int:
    memory = (ctypes.c_uint8 * size)(*b"\xff" * min(size, 4096))  # NaN, where nothing was written
    address = ctypes.addressof(memory)
    held[address] = memory
    return address


class FakeTensorRT(types.ModuleType):
    """The part of the module `tensorrt` that runs engines; a serialised one is the path of an ONNX graph."""

    TensorIOMode = types.SimpleNamespace(INPUT="in", OUTPUT="out")
    ExecutionContextAllocationStrategy = types.SimpleNamespace(USER_MANAGED="user")

    def __init__(self, cuda: FakeCuda, most_length: int, version: str = "10.9") -> None:
        super().__init__("tensorrt")
        self.__version__, self.cuda, self.most_length = version, cuda, most_length

    class Logger:
        ERROR = 1

        def __init__(self, level: int) -> None:
            pass

    @staticmethod
    def nptype(kind: type) -> type:
        return kind

    def Runtime(self, logger: Logger) -> types.SimpleNamespace:
        return types.SimpleNamespace(deserialize_cuda_engine=lambda data: _Engine(self, Path(data.decode())))


class _Engine:
    device_memory_size_v2 = 1024

    def __init__(self, trt: FakeTensorRT, graph: Path) -> None:
        self.trt, self.session = trt, onnxruntime.InferenceSession(str(graph), providers=["CPUExecutionProvider"])
        self.given = {one.name: one for one in self.session.get_inputs()}
        self.made = {one.name: one for one in self.session.get_outputs()}
        self.num_io_tensors = len(self.given) + len(self.made)

    def get_tensor_name(self, number: int) -> str:
        return [*self.given, *self.made][number]

    def get_tensor_mode(self, name: str) -> str:
        return "in" if name in self.given else "out"

    def get_tensor_dtype(self, name: str) -> type:
        return {"tensor(float)": np.float32, "tensor(int64)": np.int64}[(self.given | self.made)[name].type]

    def get_tensor_shape(self, name: str) -> list[int]:
        return [axis if isinstance(axis, int) else -1 for axis in (self.given | self.made)[name].shape]

    def create_execution_context(self, strategy: str) -> _Context:
        assert strategy == "user"
        return _Context(self)


class _Context:
    def __init__(self, engine: _Engine) -> None:
        self.engine, self.cuda = engine, engine.trt.cuda
        self.shapes: dict[str, tuple[int, ...]] = {}
        self.addresses: dict[str, int] = {}
        self.memory = None
        self.known: dict[tuple, dict[str, tuple[int, ...]]] = {}

    def set_device_memory(self, address: int, size: int) -> None:
        assert size >= self.engine.device_memory_size_v2
        self.memory = address

    def set_input_shape(self, name: str, shape: tuple[int, ...]) -> bool:
        self.shapes[name] = tuple(shape)
        return name != "inputs_embeds" or shape[1] <= self.engine.trt.most_length

    def set_tensor_address(self, name: str, address: int) -> None:
        self.addresses[name] = address

    def get_tensor_shape(self, name: str) -> tuple[int, ...]:
        if name in self.shapes:
            return self.shapes[name]
        key = tuple(sorted(self.shapes.items()))
        if key not in self.known:
            feeds = {one: np.zeros(shape, self.engine.get_tensor_dtype(one)) for one, shape in self.shapes.items()}
            values = self.engine.session.run(None, feeds)
            self.known[key] = {one: value.shape for one, value in zip(self.engine.made, values, strict=True)}
        return self.known[key][name]

    def execute_async_v3(self, stream: int) -> bool:
        shapes, addresses = dict(self.shapes), dict(self.addresses)

        def work() -> None:
            assert self.memory in self.cuda.device
            assert self.shapes == shapes, "recorded with other shapes in this context"
            feeds = {name: self._array(name, addresses[name], shapes[name]) for name in self.engine.given}
            for name, value in zip(self.engine.made, self.engine.session.run(None, feeds), strict=True):
                self._array(name, addresses[name], value.shape)[...] = value
        self.cuda.do(work)
        return True

    def _array(self, name: str, address: int, shape: tuple[int, ...]) -> np.ndarray:
        kind = np.dtype(self.engine.get_tensor_dtype(name))
        count = int(np.prod(shape))
        return self.cuda.view(address, count * kind.itemsize).view(kind).reshape(shape)
