"""A bundle on an engine: what is measured. Engines run in ONNX Runtime, with the provider that their names say."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from benchmarks.errors import BenchmarkError
from safeguard_sdk import Bundle, Guard, Policy
from safeguard_sdk.bundle import EMBEDDED, MANIFEST
from safeguard_sdk.engine.session import PROVIDERS
from safeguard_sdk.errors import EngineError

ENGINES = {"onnx-cpu": "cpu", "onnx-cuda": "cuda", "onnx-tensorrt": "tensorrt"}  # to the provider of a Guard
BUNDLES = Path(__file__).parents[2] / "bundles"  # where exports of this clone usually lie
NOT_MEASURED = {
    "torch": "PyTorch is the reference of training and export, not an engine of the SDK; `--peers --peer-model "
             "transformers=CHECKPOINT` measures the checkpoint there",
    "tensorrt": "engines that were built ahead (`Guard(..., engines=DIR)`) are not measured here; with onnx-tensorrt "
                "ONNX Runtime builds engines of a bundle's graphs",
}


@dataclass(frozen=True)
class System:
    name: str    # "nano, onnx-cpu": the same whatever its version, for comparisons; unique in a run
    bundle: Bundle
    engine: str  # a key of ENGINES
    guard: Guard

    def describe(self) -> dict:
        policy = self.guard.policy
        return {"name": self.name, "bundle": f"{self.bundle.name} {self.bundle.version}", "engine": self.engine,
                "bundle_sha256": self.bundle.sha256, "quantization": self.bundle.manifest.get("quantization"),
                "providers": self.guard.engine.providers, "policy": policy.name, "policy_sha256": policy.sha256,
                "rules": len(policy.rules)}


def find_bundles(folder: Path = BUNDLES) -> list[Path]:
    """The embedded bundle, and the folders of those that this clone has exported."""
    return [EMBEDDED, *sorted(manifest.parent for manifest in folder.glob(f"*/{MANIFEST}"))]


def open_systems(bundles: list[Bundle], engines: list[str], policy: Policy, threads: int
                 ) -> tuple[list[System], dict[str, str]]:
    """Every bundle on every engine; and of those that do not run there, why not.

    raises  EngineError if none runs, PolicyError if a bundle cannot read a rule
    """
    systems: dict[str, System] = {}
    refused: dict[str, EngineError] = {}
    for bundle in bundles:
        for engine in engines:
            name = f"{bundle.name}, {engine}"
            count = 1 + sum(one.bundle.name == bundle.name and one.engine == engine for one in systems.values())
            name += f" ({count})" if count > 1 else ""
            try:
                guard = Guard(policy, bundle, provider=ENGINES[engine], threads=threads)
            except EngineError as error:
                refused[name] = error
            else:
                systems[name] = System(name, bundle, engine, guard)
    if not systems:
        raise next(iter(refused.values()))
    return list(systems.values()), {name: str(error) for name, error in refused.items()}


def choose_engines(asked: list[str]) -> tuple[list[str], dict[str, str]]:
    """The engines to measure, and of the others why not. Those asked for by name must be there.

    raises  BenchmarkError for an engine that is not measured here, or that cannot run on this machine
    """
    absent = _absent()
    for name in asked:
        if name in NOT_MEASURED:
            raise BenchmarkError(f"engine {name}: {NOT_MEASURED[name]}")
        if name not in ENGINES:
            raise BenchmarkError(f"engine {name!r} is not known; choose of {', '.join(ENGINES)}")
        if name in absent:
            raise BenchmarkError(f"engine {name}: {absent[name]}; for an NVIDIA GPU install 'safeguard[gpu]' in place "
                                 "of 'safeguard[cpu]'")
    return list(dict.fromkeys(asked)) or [name for name in ENGINES if name not in absent], absent


def _absent() -> dict[str, str]:
    try:
        import onnxruntime
    except ImportError as error:
        raise BenchmarkError(f"ONNX Runtime cannot be imported ({error}); install it: pip install 'safeguard[cpu]', or "
                             "'safeguard[gpu]'") from error
    available = onnxruntime.get_available_providers()
    return {name: f"{PROVIDERS[provider]} is not in the ONNX Runtime {onnxruntime.__version__} installed here"
            for name, provider in ENGINES.items() if PROVIDERS[provider] not in available}
