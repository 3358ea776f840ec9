"""A graph as a TensorRT engine: pinned buffers, caches of rules that stay on the device, and CUDA graphs.

Engines are built by `python -m export tensorrt` for one GPU, one version of TensorRT and one bundle; all else is
refused.
"""

from __future__ import annotations

import importlib
import json
import math
from collections import OrderedDict
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from threading import Lock
from types import ModuleType

import numpy as np

from safeguard_sdk.bundle import Bundle, file_sha256
from safeguard_sdk.engine.cuda import Cuda, DeviceArray, Memory, Recording, open_runtime
from safeguard_sdk.errors import EngineError

RECORDINGS = 32  # shapes and rules that are kept ready as CUDA graphs; they share the memory of activations
AGAIN = "build the engines again: python -m export tensorrt"


@dataclass(frozen=True)
class EngineFolder:
    """What `python -m export tensorrt` wrote, checked against the bundle, the GPU and TensorRT."""

    path: Path
    most_rows: int  # of a batch
    cuda: Cuda
    runtime: object  # tensorrt.Runtime
    trt: ModuleType

    @classmethod
    def open(cls, path: str | Path, bundle: Bundle) -> EngineFolder:
        """Raises EngineError naming what does not fit."""
        path = Path(path)
        try:
            facts = json.loads((path / "engines.json").read_text(encoding="utf-8"))
            engines, module, version = facts["engines"], facts["module"], facts["version"]
            capability, most_rows = facts["capability"], int(facts["limits"]["batch"])
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise EngineError(f"{path}: is no folder of engines ({type(error).__name__}: {error}); {AGAIN}") from error
        if facts.get("bundle_sha256") != bundle.sha256:
            raise EngineError(f"{path}: was built from another bundle than {bundle.path}; {AGAIN} {bundle.path}")
        for name, sha256 in engines.items():
            if not (path / name).is_file() or file_sha256(path / name) != sha256:
                raise EngineError(f"{path / name}: is missing or not what engines.json says; {AGAIN}")
        try:
            trt = importlib.import_module(module)
        except ImportError as error:
            raise EngineError(f"{module} cannot be imported ({error}); tensorrt comes with JetPack or pip install "
                              "tensorrt, tensorrt_rtx with pip install 'safeguard[tensorrt]'") from error
        if trt.__version__ != version:
            raise EngineError(f"{path}: was built by {module} {version}, {trt.__version__} is installed; {AGAIN}")
        cuda = Cuda(open_runtime())
        if cuda.capability() != capability:
            raise EngineError(f"{path}: is for a GPU of compute capability {capability}, this one has "
                              f"{cuda.capability()}; {AGAIN} --capability {cuda.capability()}")
        return cls(path, most_rows, cuda, trt.Runtime(trt.Logger(trt.Logger.ERROR)), trt)


class EngineGraph:
    """An engine with the face of session.Graph; thread-safe, one run at a time."""

    def __init__(self, folder: EngineFolder, name: str) -> None:
        path = folder.path / f"{name}.engine"
        self._name, self._cuda, self._trt = path.name, folder.cuda, folder.trt
        self._engine = folder.runtime.deserialize_cuda_engine(path.read_bytes())
        if self._engine is None:
            raise EngineError(f"{path}: {folder.trt.__name__} {folder.trt.__version__} cannot load it on this GPU, see "
                              f"the messages above; {AGAIN}")
        self.providers = [f"{folder.trt.__name__} {folder.trt.__version__}"]
        self.most_rows = folder.most_rows
        names = [self._engine.get_tensor_name(number) for number in range(self._engine.num_io_tensors)]
        kinds = {one: np.dtype(folder.trt.nptype(self._engine.get_tensor_dtype(one))) for one in names}
        given = folder.trt.TensorIOMode.INPUT
        self._kinds = kinds
        self.inputs = {one: tuple(self._engine.get_tensor_shape(one)) for one in names
                       if self._engine.get_tensor_mode(one) == given}
        self._outputs = [one for one in names if one not in self.inputs]
        self._stream = self._cuda("StreamCreate")
        self._activations = Memory(self._cuda, self._engine.device_memory_size_v2)
        self._lock = Lock()
        self._seen: OrderedDict[tuple, _Lane | None] = OrderedDict()  # what came once, and is recorded the second time
        self._common = _Lane(self)

    def run(self, feeds: Mapping[str, np.ndarray | DeviceArray], results: Sequence[str],
            kept: Collection[str] = ()) -> list[np.ndarray | DeviceArray]:
        """As session.Graph.run. Sizes beyond those that the engine was built for are an EngineError."""
        feeds = {name: value if isinstance(value, DeviceArray) else np.ascontiguousarray(value, self._kinds[name])
                 for name, value in feeds.items()}
        with self._lock:
            if any(name in kept for name in results):  # results that are given away lie elsewhere each time
                return self._common.run(feeds, results, kept)
            key = (*results, *((name, value.shape, value.memory.address if isinstance(value, DeviceArray) else 0)
                               for name, value in feeds.items()))
            if key not in self._seen:
                self._remember(key, None)
                return self._common.run(feeds, results)
            lane = self._seen[key] or _Lane(self)
            self._remember(key, lane)
            return lane.run_recorded(feeds, results)

    def place(self, array: np.ndarray) -> DeviceArray:
        """An array on the device."""
        array = np.ascontiguousarray(array)
        held, pinned = Memory(self._cuda, array.nbytes), Memory(self._cuda, array.nbytes, pinned=True)
        pinned.as_array(array.shape, array.dtype)[...] = array
        with self._lock:
            self._cuda.copy(held.address, pinned.address, array.nbytes, True, self._stream)
            self._cuda("StreamSynchronize", self._stream)
        return DeviceArray(held, array.shape, array.dtype)

    def _remember(self, key: tuple, lane: _Lane | None) -> None:
        self._seen[key] = lane
        self._seen.move_to_end(key)
        while len(self._seen) > RECORDINGS:
            self._seen.popitem(last=False)


class _Lane:
    """A context of the engine with buffers of its own. What is recorded in one must see no other shapes there."""

    def __init__(self, graph: EngineGraph) -> None:
        self._graph, self._cuda, self._stream = graph, graph._cuda, graph._stream
        strategy = graph._trt.ExecutionContextAllocationStrategy.USER_MANAGED
        self._context = graph._engine.create_execution_context(strategy)
        self._context.set_device_memory(graph._activations.address, graph._activations.size)
        self._device: dict[str, Memory] = {}
        self._pinned: dict[str, Memory] = {}
        self._shapes: dict[str, tuple[int, ...]] = {}  # of the outputs, for what was run last
        self._recording: Recording | None = None

    def run(self, feeds: Mapping[str, np.ndarray | DeviceArray], results: Sequence[str],
            kept: Collection[str] = ()) -> list[np.ndarray | DeviceArray]:
        given_away = self._bind(feeds, results, kept)
        self._work(feeds, results, kept)
        self._cuda("StreamSynchronize", self._stream)
        return [given_away[name] if name in kept else self._read(name) for name in results]

    def run_recorded(self, feeds: Mapping[str, np.ndarray | DeviceArray], results: Sequence[str]) -> list[np.ndarray]:
        """All that follows the filling of pinned buffers, as one launch. The first time it is recorded."""
        if self._recording is None:
            first = self.run(feeds, results)  # what TensorRT does once for new shapes must not be recorded
            self._recording = self._cuda.record(self._stream, lambda: self._work(feeds, results))
            return first
        self._fill(feeds)
        self._recording.run(self._stream)
        self._cuda("StreamSynchronize", self._stream)
        return [self._read(name) for name in results]

    def _bind(self, feeds: Mapping[str, np.ndarray | DeviceArray], results: Sequence[str], kept: Collection[str]
              ) -> dict[str, DeviceArray]:
        """A place for every input and output; those of the outputs that the caller keeps."""
        self._fill(feeds)
        for name, value in feeds.items():
            if not self._context.set_input_shape(name, value.shape):
                raise EngineError(f"{self._graph._name}: was not built for {name} of the shape {tuple(value.shape)}; "
                                  f"{AGAIN}, with larger --batch, --patches or --policy-tokens")
            self._context.set_tensor_address(name, value.memory.address if isinstance(value, DeviceArray)
                                             else self._device[name].address)
        given_away = {}
        for name in self._graph._outputs:  # every output needs a place, asked for or not
            self._shapes[name] = shape = tuple(self._context.get_tensor_shape(name))
            size = self._size(name)
            if name in kept and name in results:
                given_away[name] = DeviceArray(Memory(self._cuda, size), shape, self._graph._kinds[name])
                address = given_away[name].memory.address
            else:
                address = self._reserve(self._device, name, size)
                if name in results:
                    self._reserve(self._pinned, name, size)
            self._context.set_tensor_address(name, address)
        return given_away

    def _fill(self, feeds: Mapping[str, np.ndarray | DeviceArray]) -> None:
        for name, value in feeds.items():
            if not isinstance(value, DeviceArray):
                self._reserve(self._device, name, value.nbytes)
                self._reserve(self._pinned, name, value.nbytes)
                self._pinned[name].as_array(value.shape, value.dtype)[...] = value

    def _work(self, feeds: Mapping[str, np.ndarray | DeviceArray], results: Sequence[str],
              kept: Collection[str] = ()) -> None:
        for name, value in feeds.items():
            if not isinstance(value, DeviceArray):
                self._cuda.copy(self._device[name].address, self._pinned[name].address, value.nbytes, True,
                                self._stream)
        if not self._context.execute_async_v3(self._stream):
            raise EngineError(f"{self._graph._name}: TensorRT could not run it, see the messages above")
        for name in results:
            if name not in kept:
                self._cuda.copy(self._pinned[name].address, self._device[name].address, self._size(name), False,
                                self._stream)

    def _size(self, name: str) -> int:
        """Bytes of an output."""
        return math.prod(self._shapes[name]) * self._graph._kinds[name].itemsize

    def _read(self, name: str) -> np.ndarray:
        return self._pinned[name].as_array(self._shapes[name], self._graph._kinds[name]).copy()

    def _reserve(self, held: dict[str, Memory], name: str, size: int) -> int:
        if name not in held or held[name].size < size:
            held[name] = Memory(self._cuda, size, pinned=held is self._pinned)
        return held[name].address
