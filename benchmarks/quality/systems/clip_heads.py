"""Classifiers on CLIP's embedding of a photo: LAION's NSFW detector, MultiHeaded, the Stable Diffusion safety checker.

    laion-nsfw:DIR     h14_nsfw.pth, or clip_ViT-L-14_openai_binary_nsfw_head.pth (LAION-AI/CLIP-based-NSFW-Detector)
    multiheaded:DIR    sexual.pt, violent.pt, disturbing.pt, hateful.pt, political.pt (YitingQu/unsafe-diffusion)
    sd-filter          CompVis/stable-diffusion-safety-checker on the Hugging Face hub, or a folder of it

Weights are read as tensors only, never as pickled objects. CLIP itself comes from the hub by its name in CLIPS.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image

from benchmarks.errors import BenchmarkError
from benchmarks.quality.systems.detectors import Categories, Detector, needed
from benchmarks.quality.systems.taxonomy import Taxonomy

CLIPS = {"ViT-L-14": "openai/clip-vit-large-patch14", "ViT-H-14": "laion/CLIP-ViT-H-14-laion2B-s32B-b79K"}
LAION_HEADS = {"h14_nsfw.pth": "ViT-H-14", "clip_ViT-L-14_openai_binary_nsfw_head.pth": "ViT-L-14"}
MULTIHEADED = ("sexual", "violent", "disturbing", "hateful", "political")
CHECKER = "CompVis/stable-diffusion-safety-checker"
Weights = dict[str, np.ndarray]
Embed = Callable[[np.ndarray], np.ndarray]  # (h, w, 3) uint8 → (width,) float32
PROBABLE = 0.5  # threshold of LAION's sigmoid and MultiHeaded's heads


def open_laion_nsfw(suite: str, folder: str | None, embedder: Callable[[str], Embed] | None = None) -> Detector:
    if folder is None:
        raise BenchmarkError(f"laion-nsfw: needs a folder with {' or '.join(LAION_HEADS)} from "
                             "https://github.com/LAION-AI/CLIP-based-NSFW-Detector; name it: laion-nsfw:DIR")
    heads = [name for name in LAION_HEADS if (Path(folder) / name).is_file()]
    if not heads:
        raise BenchmarkError(f"{folder}: has none of {', '.join(LAION_HEADS)}")
    weights, clip = read_tensors(Path(folder) / heads[0]), LAION_HEADS[heads[0]]
    embed = (embedder or clip_embedder)(CLIPS[clip])
    head = laion_h14 if clip == "ViT-H-14" else laion_l14
    # That embeddings are normalised first is not said in their code, and no score is published to check it by.
    return Detector(lambda rgb: {"nsfw": head(normalised(embed(rgb)), weights)}, Taxonomy.read("laion-nsfw", suite),
                    PROBABLE, {"head": heads[0], "clip": CLIPS[clip]})


def open_multiheaded(suite: str, folder: str | None, embedder: Callable[[str], Embed] | None = None) -> Detector:
    if folder is None:
        raise BenchmarkError(f"multiheaded: needs a folder with the heads {', '.join(MULTIHEADED)} (each .pt) from "
                             "https://github.com/YitingQu/unsafe-diffusion; name it: multiheaded:DIR")
    heads = {name: read_tensors(Path(folder) / f"{name}.pt") for name in MULTIHEADED}
    embed = (embedder or clip_embedder)(CLIPS["ViT-L-14"])

    def see(rgb: np.ndarray) -> Categories:
        embedding = embed(rgb)
        return {name: multiheaded_head(embedding, weights) for name, weights in heads.items()}

    return Detector(see, Taxonomy.read("multiheaded", suite), PROBABLE, {"heads": folder, "clip": CLIPS["ViT-L-14"]})


def open_sd_filter(suite: str, source: str | None) -> Detector:
    """The checker's checkpoint holds its CLIP and its hidden concepts."""
    name = source or CHECKER
    embed, concepts = checker_parts(name)
    return Detector(lambda rgb: checker_concepts(normalised(embed(rgb)), concepts), Taxonomy.read("sd-filter", suite),
                    0.0, {"model": CHECKER})


def laion_h14(embedding: np.ndarray, weights: Weights) -> float:
    """(1024,) → [0, 1]. ReLU after each layer but the last two; no sigmoid, so what lies outside is clipped."""
    layers = _layers(weights)
    x = embedding
    for number, (weight, bias) in enumerate(layers):
        x = weight @ x + bias
        if number < len(layers) - 2:
            x = np.maximum(x, 0)
    return float(np.clip(x[0], 0, 1))


def laion_l14(embedding: np.ndarray, weights: Weights) -> float:
    """(768,) → [0, 1]: standardised, ReLU layers, a sigmoid."""
    x = (embedding - weights["norm.mean"]) / (np.sqrt(weights["norm.variance"]) + 1e-10)
    layers = _layers(weights)
    for number, (weight, bias) in enumerate(layers):
        x = weight @ x + bias
        if number < len(layers) - 1:
            x = np.maximum(x, 0)
    return _sigmoid(x[0])


def multiheaded_head(embedding: np.ndarray, weights: Weights) -> float:
    """(768,) → [0, 1]: layer, ReLU, (dropout,) batch norm, layer, sigmoid. The embedding is not normalised."""
    x = np.maximum(weights["0.weight"] @ embedding + weights["0.bias"], 0)
    x = (x - weights["3.running_mean"]) / np.sqrt(weights["3.running_var"] + 1e-5)
    x = x * weights["3.weight"] + weights["3.bias"]
    return _sigmoid((weights["4.weight"] @ x + weights["4.bias"])[0])


def checker_concepts(embedding: np.ndarray, concepts: Weights) -> Categories:
    """Categories with how far above its threshold the nearest concept of each kind is; those below have none.

    The rule of diffusers 0.42.1, PyTorch path: scores are rounded to 3 decimals, and from a special-care concept that
    fires on, 0.01 is added to all scores after it. Special care alone is no verdict.
    """
    adjustment = 0.0
    kinds: dict[str, list[float]] = {}
    for kind, stem in (("special-care", "special_care_embeds"), ("concept", "concept_embeds")):
        cosines = _unit(concepts[stem]) @ embedding
        for cosine, threshold in zip(cosines, concepts[f"{stem}_weights"], strict=True):
            score = round(float(cosine) - float(threshold) + adjustment, 3)
            if score > 0:
                kinds.setdefault(kind, []).append(score)
                if kind == "special-care":
                    adjustment = 0.01
    return {kind: max(scores) for kind, scores in kinds.items()}


def normalised(embedding: np.ndarray) -> np.ndarray:
    return embedding / np.linalg.norm(embedding)


def read_tensors(path: Path) -> Weights:
    """A state dict of PyTorch as arrays. Raises BenchmarkError if it is not there or holds anything but tensors."""
    torch = needed("torch", "torch")
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
        return {name: value.float().numpy() for name, value in state.items()}
    except Exception as error:  # torch raises whatever its unpickler and the zip reader do
        reason = " ".join(str(error).split())[:160]
        raise BenchmarkError(f"{path}: cannot be read as a state dict of tensors ({reason})") from error


def clip_embedder(name: str) -> Embed:
    """CLIP's image tower by transformers, with its own preparation of images."""
    transformers = needed("transformers", "transformers")
    try:
        processor = transformers.CLIPImageProcessor.from_pretrained(name)
        tower = transformers.CLIPVisionModelWithProjection.from_pretrained(name).eval()
    except (OSError, ValueError) as error:
        raise BenchmarkError(f"{name}: cannot be loaded ({' '.join(str(error).split())[:200]}); fetch it with "
                             f"`hf download {name}`") from error
    return _embedder(processor, tower)


def checker_parts(name: str) -> tuple[Embed, Weights]:
    """The checker's CLIP, and its concepts with their thresholds."""
    transformers = needed("transformers", "transformers")
    safetensors = needed("safetensors.numpy", "safetensors", "the extra export has it")
    hub = needed("transformers.utils", "transformers")
    try:
        tensors = safetensors.load_file(hub.cached_file(name, "model.safetensors"))
        config = transformers.CLIPConfig.from_pretrained(name)
        processor = transformers.CLIPImageProcessor.from_pretrained(name)
    except (OSError, ValueError) as error:
        raise BenchmarkError(f"{name}: cannot be loaded ({' '.join(str(error).split())[:200]}); fetch it with "
                             f"`hf download {CHECKER}`, or name a folder: sd-filter:DIR") from error
    vision = config.vision_config
    vision.projection_dim = config.projection_dim
    tower = transformers.CLIPVisionModelWithProjection(vision).eval()
    torch = needed("torch", "torch")
    state = {key.removeprefix("vision_model.") if key.startswith("vision_model.vision_model.") else key:
             torch.from_numpy(value) for key, value in tensors.items() if "concept" not in key and "special" not in key}
    missing = tower.load_state_dict(state, strict=False).missing_keys
    if any(not key.endswith("position_ids") for key in missing):
        raise BenchmarkError(f"{name}: its checkpoint lacks {', '.join(missing[:3])}")
    return _embedder(processor, tower), {key: value for key, value in tensors.items() if key not in state}


def _embedder(processor, tower) -> Embed:
    torch = needed("torch", "torch")

    def embed(rgb: np.ndarray) -> np.ndarray:
        with torch.inference_mode():
            pixels = processor(images=Image.fromarray(rgb), return_tensors="pt")["pixel_values"]
            return tower(pixels).image_embeds[0].float().numpy()

    return embed


def _layers(weights: Weights) -> list[tuple[np.ndarray, np.ndarray]]:
    """The linear layers of a head in their order: weight (out, in), bias (out,)."""
    stems = [name.removesuffix(".weight") for name in weights if name.endswith(".weight")]
    stems.sort(key=lambda stem: int(stem.replace("_", ".").rpartition(".")[2]))
    return [(weights[f"{stem}.weight"], weights[f"{stem}.bias"]) for stem in stems]


def _unit(rows: np.ndarray) -> np.ndarray:
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def _sigmoid(x: float) -> float:
    return float(1 / (1 + np.exp(-x)))
