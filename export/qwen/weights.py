"""The weights of a checkpoint, read row by row from safetensors, LoRA merged on the way.

No tensor is held longer than it is used: a 7B checkpoint is read in the memory of its largest layer.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open

from export.failures import ExportError

INDEX, SINGLE, ADAPTER = "model.safetensors.index.json", "model.safetensors", "adapter_config.json"


@dataclass(frozen=True)
class Adapter:
    """LoRA (Hu et al. 2021, arXiv:2106.09685): weight + scale · B · A, by the name of the weight."""

    scale: float
    low: dict[str, torch.Tensor]   # A, (rank, inputs)
    high: dict[str, torch.Tensor]  # B, (outputs, rank)


class Weights:
    """Tensors of a checkpoint by canonical name: `visual.…`, `layers.…`, `embed_tokens.…`, `norm.…`, `lm_head.…`.

    folder  of a checkpoint, or of a LoRA adapter
    base    the checkpoint that an adapter belongs to; by default the one that it names itself
    """

    def __init__(self, folder: Path, base: Path | None = None) -> None:
        adapter = _read_adapter_config(folder)
        if adapter is None and base is not None:
            raise ExportError(f"{folder}: holds no {ADAPTER}, so it is no adapter and has no base; leave out --base")
        self.folder = folder if adapter is None else _base_of(folder, adapter, base)
        self.adapter = None if adapter is None else _read_adapter(folder, adapter)
        self._file_of: dict[str, tuple[safe_open, str]] = {}
        for path in _shards(self.folder):
            try:
                file = safe_open(path, framework="pt")
            except (SafetensorError, OSError) as error:
                raise ExportError(f"{path}: cannot be read as safetensors ({error}); copy the checkpoint again"
                                  ) from error
            self._file_of |= {canonical(name): (file, name) for name in file.keys()}  # noqa: SIM118, no dict
        if self.adapter is not None and (unknown := self.adapter.low.keys() - self._file_of.keys()):
            raise ExportError(f"{folder}: adapts {min(unknown)}, which {self.folder} does not have; it belongs to "
                              "another checkpoint, name that one with --base")

    def names(self) -> set[str]:
        return set(self._file_of)

    def shape(self, name: str) -> tuple[int, ...]:
        return tuple(self._slice(name).get_shape())

    def rows(self, name: str, start: int = 0, stop: int | None = None) -> torch.Tensor:
        """Rows of a tensor, float32, the adapter merged into it. Raises ExportError for numbers that are not finite."""
        rows = self._slice(name)[start:stop].float()
        if self.adapter is not None and name in self.adapter.low:
            rows = rows + self.adapter.scale * (self.adapter.high[name][start:stop] @ self.adapter.low[name])
        if not torch.isfinite(rows).all():
            raise ExportError(f"{self.folder}: {name} holds numbers that are not finite; the checkpoint is broken")
        return rows

    def _slice(self, name: str):
        if name not in self._file_of:
            raise ExportError(f"{self.folder}: has no tensor {name}; the files do not fit config.json, copy the "
                              "checkpoint again")
        file, stored = self._file_of[name]
        return file.get_slice(stored)


def canonical(name: str) -> str:
    """The name of a tensor, whichever version of transformers wrote it: "model.language_model.norm.weight", as
    "language_model.model.norm.weight" and "model.norm.weight", is "norm.weight"."""
    for prefix in ("model.language_model.", "language_model.model.", "language_model.", "model."):
        if name.startswith(prefix):
            return name.removeprefix(prefix)
    return name


def _shards(folder: Path) -> list[Path]:
    if (folder / INDEX).is_file():
        try:
            names = set(json.loads((folder / INDEX).read_bytes())["weight_map"].values())
        except (ValueError, KeyError, AttributeError) as error:
            raise ExportError(f"{folder / INDEX}: is no index of shards ({error}); copy the checkpoint again"
                              ) from error
        if strange := [name for name in names if Path(name).name != name]:
            raise ExportError(f"{folder / INDEX}: names {strange[0]!r}; shards lie in the checkpoint's own folder")
        return [folder / name for name in sorted(names)]
    if (folder / SINGLE).is_file():
        return [folder / SINGLE]
    raise ExportError(f"{folder}: has neither {SINGLE} nor {INDEX}; pickled weights (.bin, .pt) are not read, convert "
                      "them to safetensors")


def _read_adapter_config(folder: Path) -> dict | None:
    path = folder / ADAPTER
    if not path.is_file():
        return None
    try:
        config = json.loads(path.read_bytes())
    except ValueError as error:
        raise ExportError(f"{path}: is not JSON ({error}); copy the adapter again") from error
    if config.get("peft_type") != "LORA":
        raise ExportError(f"{path}: peft_type is {config.get('peft_type')!r}; only LORA is merged here, merge it with "
                          "peft first")
    for key in ("use_dora", "lora_bias", "modules_to_save", "alpha_pattern", "rank_pattern", "trainable_token_indices",
                "fan_in_fan_out", "target_parameters", "layer_replication", "alora_invocation_tokens", "use_qalora",
                "use_bdlora"):
        if config.get(key):
            raise ExportError(f"{path}: has {key}, which is not merged here; merge the adapter with peft first "
                              "(merge_and_unload) and export the result")
    if config.get("bias", "none") != "none":
        raise ExportError(f"{path}: trains biases ({config['bias']!r}), which is not merged here; merge it with peft "
                          "first")
    return config


def _base_of(folder: Path, config: dict, base: Path | None) -> Path:
    base = base or Path(config.get("base_model_name_or_path") or "")
    if not (base / "config.json").is_file():
        raise ExportError(f"{folder / ADAPTER}: its base is {str(base)!r}, no checkpoint folder here; name the folder "
                          "with --base")
    return base


def _read_adapter(folder: Path, config: dict) -> Adapter:
    path = folder / "adapter_model.safetensors"
    try:
        with safe_open(path, framework="pt") as file:
            stored = {name: file.get_tensor(name).float() for name in file.keys()}  # noqa: SIM118, no dict
    except (SafetensorError, OSError) as error:
        raise ExportError(f"{path}: cannot be read as safetensors ({error}); copy the adapter again") from error
    low, high = {}, {}
    for name, tensor in stored.items():
        for marker, part in ((".lora_A.weight", low), (".lora_B.weight", high)):
            if name.endswith(marker):
                part[canonical(name.removesuffix(marker).removeprefix("base_model.model.")) + ".weight"] = tensor
                break
        else:
            raise ExportError(f"{path}: holds {name}, which is no LoRA matrix; merge the adapter with peft first")
    if low.keys() != high.keys():
        raise ExportError(f"{path}: {min(low.keys() ^ high.keys())} has one of its two matrices; copy the adapter "
                          "again")
    rank, alpha = config["r"], config["lora_alpha"]
    return Adapter(alpha / (rank**0.5 if config.get("use_rslora") else rank), low, high)
