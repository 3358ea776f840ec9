"""Qwen2.5-VL and Qwen3-VL: what they see, which of their weights are trained, and adapters merged into them; the last
two also of nano's language model, a Llama."""

from __future__ import annotations

import shutil
from pathlib import Path

import torch
from peft import LoraConfig, PeftModel
from transformers import (
    AutoConfig,
    AutoImageProcessor,
    AutoModelForCausalLM,
    AutoModelForImageTextToText,
    AutoProcessor,
    PretrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    ProcessorMixin,
)

from safeguard_sdk.image import PatchGeometry
from training.errors import TrainingError
from training.vlm.recipe import Lora

FAMILIES = ("qwen2_5_vl", "qwen3_vl")
# Every linear layer of the language model; those of the vision tower, which stay as they are, stand in "blocks".
ADAPTED = r".*\.layers\.\d+\.(self_attn\.[qkvo]_proj|mlp\.(gate|up|down)_proj)"
VISION = ".visual."            # in the names of the vision tower's weights, its merger among them
EMBEDDINGS = ".embed_tokens."  # in those of a Llama: all training of nano leaves them as they are


def load_config(name: str) -> PretrainedConfig:
    """Raises TrainingError if there is no such model or it is of another family."""
    config = _loaded(AutoConfig, name)
    if config.model_type not in FAMILIES:
        raise TrainingError(f"{name}: is a {config.model_type}; what can be trained here is {', '.join(FAMILIES)}")
    return config


def load_processor(name: str, max_pixels: int) -> ProcessorMixin:
    """With Pillow's resizing, which the SDK's own matches bit for bit, and the recipe's limit of pixels."""
    processor = _loaded(AutoProcessor, name)
    least = processor.image_processor.size["shortest_edge"]
    if max_pixels < least:
        raise TrainingError(f"max_pixels is {max_pixels}, below the least that {name} sees, {least}; raise it")
    processor.image_processor = _loaded(AutoImageProcessor, name, backend="pil",
                                        size={"shortest_edge": least, "longest_edge": max_pixels})
    return processor


def geometry_of(processor: ProcessorMixin) -> PatchGeometry:
    image = processor.image_processor
    return PatchGeometry(
        patch=image.patch_size, min_pixels=image.size["shortest_edge"], max_pixels=image.size["longest_edge"],
        mean=tuple(image.image_mean), std=tuple(image.image_std), merge=image.merge_size,
        temporal=image.temporal_patch_size)


def load_model(name: str, lora: Lora | None, precision: str) -> PreTrainedModel:
    """Ready to train: the vision tower is frozen. Adapters go onto 16-bit weights; what is trained whole is kept in 32
    bits, or steps of 1e-6 would round to nothing."""
    load_config(name)
    model = _loaded(AutoModelForImageTextToText, name, dtype=weight_type(lora, precision))
    freeze(model)
    return model


def model_class(config: PretrainedConfig) -> type:
    return AutoModelForCausalLM if config.model_type == "llama" else AutoModelForImageTextToText


def freeze(model: PreTrainedModel) -> None:
    """Keep from training, in place, what no stage changes."""
    fixed = EMBEDDINGS if model.config.model_type == "llama" else VISION
    for weight, parameter in model.named_parameters():
        if fixed in f".{weight}":
            parameter.requires_grad_(False)


def weight_type(lora: Lora | None, precision: str) -> torch.dtype:
    return torch.bfloat16 if lora is not None and precision == "bf16" else torch.float32


def lora_config(lora: Lora | None) -> LoraConfig | None:
    if lora is None:
        return None
    return LoraConfig(r=lora.rank, lora_alpha=lora.alpha, lora_dropout=lora.dropout, target_modules=ADAPTED,
                      task_type="CAUSAL_LM")


def merge_adapter(name: str, adapter: Path, dtype: torch.dtype, out: Path) -> None:
    """Write the model `name` with the adapter's changes added to its weights into `out`."""
    model = PeftModel.from_pretrained(_loaded(model_class(_loaded(AutoConfig, name)), name, dtype=dtype), adapter)
    model.merge_and_unload().save_pretrained(out)


def keep(folder: Path, processor: ProcessorMixin | PreTrainedTokenizerBase, out: Path) -> None:
    """Make a written model whole with its processor, then give it its name, so that `out` is never half of one."""
    processor.save_pretrained(folder)
    (folder / "training_args.bin").unlink(missing_ok=True)  # a pickle
    shutil.rmtree(out, ignore_errors=True)
    folder.rename(out)


def _loaded(kind: type, name: str, **arguments: object):
    try:
        return kind.from_pretrained(name, **arguments)
    except (OSError, ValueError, KeyError) as error:
        reason = " ".join(str(error).split())
        raise TrainingError(f"{name}: cannot be loaded ({reason:.200}); give a folder with a model, or a name on the "
                            "Hugging Face hub that this machine can reach or has in its cache") from error
