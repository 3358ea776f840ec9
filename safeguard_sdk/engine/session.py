"""A graph in ONNX Runtime, where it was asked to run and nowhere else."""

from __future__ import annotations

import os
import platform
import sys
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path

import numpy as np
import onnxruntime

from safeguard_sdk._fast import cpu_features
from safeguard_sdk.engine.narrow import unsigned_twin, widened
from safeguard_sdk.errors import EngineError

onnxruntime.disable_telemetry_events()  # on Windows; elsewhere safeguard_sdk/telemetry.py has turned it off

PROVIDERS = {"cpu": "CPUExecutionProvider", "cuda": "CUDAExecutionProvider", "tensorrt": "TensorrtExecutionProvider"}
# x86 CPUs without these add products of uint8 and int8 in pairs of 16 bits, which overflow without a word. There
# weights are uint8: the same bits, at the speed that such CPUs have. A graph that has no twin over uint8 is turned by
# the runtime as it is loaded, which takes longer than all else; for it graphs give these weights no zero point, as it
# cannot turn one that two products share.
EXACT_IN_INT8 = {"avx512_vnni", "avx_vnni"}
X86 = ("x86_64", "AMD64")
ONLY_ON_CPU = b"MatMulIntegerToFloat"  # an operator that no GPU provider has; it would run on the CPU without a word
DEVICES = {"cpu": "cpu", "cuda": "cuda", "tensorrt": "cuda"}  # where the memory of a provider lies


class Graph:
    """A session whose values may stay on its device; thread-safe.

    inputs     name → shape, free axes by name
    providers  that it runs on, first choice first
    most_rows  of a batch
    """

    most_rows = sys.maxsize

    def __init__(self, path: Path, provider: str, threads: int) -> None:
        self.session = open_session(path, provider, threads)
        self.device = DEVICES[provider]
        self.inputs = {entry.name: tuple(entry.shape) for entry in self.session.get_inputs()}
        self.providers = self.session.get_providers()

    def run(self, feeds: Mapping[str, np.ndarray | onnxruntime.OrtValue], results: Sequence[str],
            kept: Collection[str] = ()) -> list[np.ndarray | onnxruntime.OrtValue]:
        """Results by name and in order: arrays, but for those in `kept`, which stay on the device as they are."""
        binding = self.session.io_binding()
        for name, value in feeds.items():
            if isinstance(value, onnxruntime.OrtValue):
                binding.bind_ortvalue_input(name, value)
            else:
                binding.bind_cpu_input(name, np.ascontiguousarray(value))
        for name in results:
            binding.bind_output(name, self.device if name in kept else "cpu")
        self.session.run_with_iobinding(binding)
        return [value if name in kept else value.numpy()
                for name, value in zip(results, binding.get_outputs(), strict=True)]

    def place(self, array: np.ndarray) -> onnxruntime.OrtValue:
        """An array on the device."""
        return onnxruntime.OrtValue.ortvalue_from_numpy(np.ascontiguousarray(array), self.device)


def open_session(path: Path, provider: str, threads: int) -> onnxruntime.InferenceSession:
    """Raises EngineError rather than run elsewhere. threads: 0 for all cores."""
    if provider not in PROVIDERS:
        raise EngineError(f"unknown execution provider {provider!r}; known: {', '.join(PROVIDERS)}")
    wanted, available = PROVIDERS[provider], onnxruntime.get_available_providers()
    if wanted not in available:
        here = ", ".join(name for name, provider in PROVIDERS.items() if provider in available)
        raise EngineError(f"{wanted} is not in the ONNX Runtime {onnxruntime.__version__} installed here, which runs "
                          f"on: {here}; for an NVIDIA GPU install 'safeguard[gpu]' in place of 'safeguard[cpu]'")
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 3
    # A pattern is kept for each shape that ever came, and shapes are many: prefixes, batches, lengths of tags.
    options.enable_mem_pattern = False
    # A check runs several graphs in turn, each on threads of its own; those of one must not spin while the next works.
    options.add_session_config_entry("session.force_spinning_stop", "1")
    if provider != "cpu" and ONLY_ON_CPU in path.read_bytes():
        raise EngineError(f"{path}: multiplies whole numbers row by row, as only the provider cpu does, not "
                          f"{provider}; ask for cpu, or for a bundle of a Qwen-VL checkpoint: exported with --quant "
                          "fp16, fp8, w8a16 or w4a16, or any with TensorRT engines (python -m export tensorrt)")
    exact, twin = platform.machine() not in X86 or bool(EXACT_IN_INT8 & set(cpu_features())), unsigned_twin(path)
    signed = exact or not twin.is_file()
    if not exact:  # finds nothing to turn in a twin
        options.add_session_config_entry("session.x64quantprecision", "1")
    levels = widened(path, threads or os.cpu_count() or 1, signed)
    options.add_external_initializers(list(levels), [onnxruntime.OrtValue.ortvalue_from_numpy(array)
                                                     for array in levels.values()])
    try:
        session = onnxruntime.InferenceSession(str(path if signed else twin), options, providers=[wanted])
    except Exception as error:  # onnxruntime's exceptions share no base class
        raise EngineError(f"{path}: ONNX Runtime {onnxruntime.__version__} cannot load it "
                          f"({' '.join(str(error).split())}); "
                          "see `safeguard info`") from error
    found = session.get_providers()[0]
    if found != wanted:  # onnxruntime falls back to the CPU without a word where a driver is missing
        raise EngineError(f"{path.name} was to run on {wanted}, ONNX Runtime {onnxruntime.__version__} chose {found}; "
                          "see to the driver and its libraries, or ask for the provider cpu")
    return session
