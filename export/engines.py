"""TensorRT engines of a Qwen-VL bundle, built where they are to run, or by TensorRT for RTX for a named GPU without it.

    python -m export tensorrt bundles/safeguard-vl-fp16 --out engines/ --capability 86

Matrix products with weights run in bfloat16, whose range is float32's (Qwen2.5-VL overflows float16); norms, softmax
and rotary embeddings stay in float32. Bundles in fp32 and fp16 can be built; the quantised products of the others are
operators of ONNX Runtime, which TensorRT does not have.
"""

from __future__ import annotations

import importlib
import json
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path
from types import ModuleType

import onnx
from onnx import TensorProto, helper

from export.failures import ExportError
from safeguard_sdk.bundle import Bundle, file_sha256

MODULES = ("tensorrt", "tensorrt_rtx")  # of the same API; the second builds for a GPU that is not here
SCHEMES = ("fp32", "fp16")            # of bundles that engines are built from
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
    raises      ExportError if TensorRT is missing, does not know the GPU, or cannot build a graph
    """
    trt = load_tensorrt(module)
    if bundle.architecture != "qwen-vl" or bundle.manifest["quantization"]["scheme"] not in SCHEMES:
        raise ExportError(f"{bundle.path}: engines are built from Qwen-VL bundles in fp32 or fp16; export the "
                          "checkpoint with --quant fp16")
    out.mkdir(parents=True, exist_ok=True)
    cache = out / CACHE
    built = {}
    for name in GRAPHS:
        if (bundle.path / f"{name}.onnx").is_file():
            path = out / f"{name}.engine"
            with tempfile.TemporaryDirectory(dir=out) as work:
                graph = _in_bfloat16(bundle.path / f"{name}.onnx", Path(work))
                path.write_bytes(_build(trt, graph, limits, capability, cache))
            built[path.name] = file_sha256(path)
    facts = {"bundle_sha256": bundle.sha256, "module": module, "version": trt.__version__, "capability": capability,
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


def _build(trt, graph: Path, limits: Limits, capability: str | None, cache: Path) -> bytes:
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
    return bytes(engine)


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


def _in_bfloat16(graph: Path, work: Path) -> Path:
    """A copy of the graph whose products with weights run in bfloat16; the weights stay in their file."""
    model = onnx.load(graph, load_external_data=False)
    stored = {tensor.name for tensor in model.graph.initializer}
    halves = {node.output[0]: node for node in model.graph.node if node.op_type == "Cast" and node.input[0] in stored}
    nodes, rounded = [], set()
    for node in model.graph.node:
        weight = node.input[1] if node.op_type == "MatMul" else ""
        if weight not in stored and weight not in halves:
            nodes.append(node)
            continue
        x, narrow = node.input[0], f"{weight}.bfloat16"
        if x not in rounded:
            nodes.append(helper.make_node("Cast", [x], [f"{x}.bfloat16"], to=TensorProto.BFLOAT16))
            rounded.add(x)
        held = halves[weight].input[0] if weight in halves else weight
        nodes += [helper.make_node("Cast", [held], [narrow], to=TensorProto.BFLOAT16),
                  helper.make_node("MatMul", [f"{x}.bfloat16", narrow], [f"{node.output[0]}.bfloat16"]),
                  helper.make_node("Cast", [f"{node.output[0]}.bfloat16"], [node.output[0]], to=TensorProto.FLOAT)]
    used = {name for node in nodes for name in node.input}
    del model.graph.node[:]
    model.graph.node.extend(node for node in nodes if node.op_type != "Cast" or node.output[0] in used
                            or node.output[0] in {entry.name for entry in model.graph.output})
    path = work / graph.name
    path.write_bytes(model.SerializeToString())
    path.with_suffix(".bin").symlink_to(graph.with_suffix(".bin").resolve())
    return path
