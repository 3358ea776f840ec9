"""TensorRT engines of a Qwen-VL bundle, built where they are to run, or by TensorRT for RTX for a named GPU without it.

    python -m export tensorrt bundles/safeguard-vl --out engines/

An engine multiplies what its bundle does, see engine_graph.py: in bfloat16 for fp32 and fp16, in int8 for w8a8, in
float8 for fp8, and by int8 and int4 that are widened to bfloat16 for w8a16 and w4a16.
"""

from __future__ import annotations

import importlib
import json
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path
from types import ModuleType

import onnx

from export.engine_graph import write_engine_graph
from export.failures import ExportError
from safeguard_sdk.bundle import Bundle, file_sha256
from safeguard_sdk.engine.cuda import Cuda, open_runtime

MODULES = ("tensorrt", "tensorrt_rtx")  # of the same API; the second builds for a GPU that is not here
LEAST = 80                    # compute capability that multiplies in bfloat16: Ampere
LEAST_FOR = {"fp8": 89}       # scheme of a bundle that needs more: float8 came with Ada
GRAPHS = ("vision", "decoder", "lm_head")
CACHE = "timing.cache"


@dataclass(frozen=True)
class Limits:
    """The largest sizes an engine takes, and those it is tuned for."""

    batch: int = 8
    patches: int = 5120         # of an image: four times its tokens
    common_patches: int = 1024
    policy: int = 4096          # tokens of a rule's cache
    common_policy: int = 512

    def range_of(self, axis: str) -> tuple[int, int, int]:
        """(least, common, most) of a free axis by its name in the graph."""
        tokens = self.patches // 4 + 256  # and the question
        return {"batch": (1, 1, self.batch), "patches": (4, self.common_patches, self.patches),
                "windows": (1, -(-self.common_patches // 64), self.patches),
                "length": (1, self.common_patches // 4 + 16, max(tokens, self.policy)),
                "cached": (0, self.common_policy, self.policy + tokens)}[axis]


def build_engines(bundle: Bundle, out: Path, limits: Limits, module: str, capability: str | None) -> dict:
    """Write one engine for each graph and `engines.json`; returns what stands in it.

    module      a name in MODULES
    capability  of the GPU, "86" for 8.6; None: of the GPU in this machine
    raises      ExportError if TensorRT is missing, does not know the GPU, or cannot build a graph; EngineError if it is
                to be the GPU in this machine and CUDA finds none
    """
    if bundle.architecture != "qwen-vl":
        raise ExportError(f"{bundle.path}: engines are built from Qwen-VL bundles; {bundle.name} runs in ONNX Runtime "
                          "only")
    trt = load_tensorrt(module)
    gpu = capability or Cuda(open_runtime()).capability()
    require_capability(bundle.manifest["quantization"]["scheme"], gpu)
    out.mkdir(parents=True, exist_ok=True)
    cache = out / CACHE
    built = {}
    for name in GRAPHS:
        if (bundle.path / f"{name}.onnx").is_file():
            path = out / f"{name}.engine"
            with tempfile.TemporaryDirectory(dir=out) as work:
                graph = write_engine_graph(bundle.path / f"{name}.onnx", Path(work))
                path.write_bytes(_build(trt, graph, limits, capability, cache))
            built[path.name] = file_sha256(path)
    facts = {"bundle_sha256": bundle.sha256, "module": module, "version": trt.__version__, "capability": gpu,
             "limits": asdict(limits), "engines": built}
    (out / "engines.json").write_text(json.dumps(facts, indent=1) + "\n", encoding="utf-8")
    return facts


def load_tensorrt(module: str) -> ModuleType:
    """A module of MODULES. Raises ExportError where it is not installed."""
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise ExportError(f"{module} cannot be imported ({error}); tensorrt comes with JetPack or pip install "
                          "tensorrt, tensorrt_rtx with pip install 'safeguard[tensorrt]'") from error


def require_capability(scheme: str, capability: str) -> None:
    """Raise ExportError if a GPU cannot multiply as a scheme does. capability: as of build_engines."""
    least = LEAST_FOR.get(scheme, LEAST)
    if capability.isdecimal() and int(capability) < least:  # what else stands there TensorRT does not know either
        mend = "export with another --quant" if scheme in LEAST_FOR else "run the bundle in ONNX Runtime"
        raise ExportError(f"engines of {scheme} need a GPU of compute capability {least // 10}.{least % 10} or later, "
                          f"this one has {capability[:-1]}.{capability[-1]}; {mend}")


def _build(trt, graph: Path, limits: Limits, capability: str | None, cache: Path):
    """The engine in memory of TensorRT's, which can be written as it is: a copy would be gigabytes."""
    logger = trt.Logger(trt.Logger.ERROR)
    builder = trt.Builder(logger)
    typed = getattr(trt.NetworkDefinitionCreationFlag, "STRONGLY_TYPED", None)  # newer versions know no other kind
    network = builder.create_network(0 if typed is None else 1 << int(typed))
    parser = trt.OnnxParser(network, logger)
    if not parser.parse_from_file(str(graph)):
        errors = "; ".join(str(parser.get_error(number).desc()) for number in range(parser.num_errors))
        raise ExportError(f"{graph.name}: TensorRT {trt.__version__} cannot read it: {errors}")
    config = builder.create_builder_config()
    if capability is not None:
        _aim(trt, config, capability)
    profile = builder.create_optimization_profile()
    axes = _axes(graph)
    for number in range(network.num_inputs):
        name = network.get_input(number).name
        ranges = [limits.range_of(axis) if isinstance(axis, str) else (axis,) * 3 for axis in axes[name]]
        profile.set_shape(name, *zip(*ranges, strict=True))
    config.add_optimization_profile(profile)
    timings = None
    if capability is None:  # kernels are timed on the GPU that is here; for another one TensorRT for RTX times none
        timings = config.create_timing_cache(cache.read_bytes() if cache.is_file() else b"")
        config.set_timing_cache(timings, False)
    engine = builder.build_serialized_network(network, config)
    if engine is None:
        raise ExportError(f"{graph.name}: TensorRT {trt.__version__} could not build an engine; free memory, or lower "
                          "--batch, --patches and --policy-tokens")
    if timings is not None:
        cache.write_bytes(bytes(timings.serialize()))
    return engine


def _aim(trt, config, capability: str) -> None:
    if not hasattr(config, "set_compute_capability"):
        raise ExportError(f"TensorRT {trt.__version__} builds for the GPU of this machine only; leave out "
                          "--capability, or take tensorrt_rtx")
    target = getattr(trt.ComputeCapability, f"SM{capability}", None)
    if target is None:
        known = ", ".join(sorted(name[2:] for name in dir(trt.ComputeCapability) if name.startswith("SM")))
        raise ExportError(f"TensorRT {trt.__version__} knows no GPU of compute capability {capability!r}; it knows "
                          f"{known}")
    config.num_compute_capabilities = 1
    config.set_compute_capability(target, 0)


def _axes(graph: Path) -> dict[str, list[str | int]]:
    model = onnx.load(graph, load_external_data=False)
    return {entry.name: [axis.dim_param or axis.dim_value for axis in entry.type.tensor_type.shape.dim]
            for entry in model.graph.input}
