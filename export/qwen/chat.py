"""A checkpoint's tokenizer, chat format and image processor, as a bundle keeps them."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

from transformers import AutoTokenizer, PreTrainedTokenizerBase

from export.failures import ExportError, first_line
from export.qwen.shapes import VisionShape
from safeguard_sdk.engine.qwen_vl import ChatTurns
from safeguard_sdk.image import PatchGeometry
from safeguard_sdk.prompt import PromptStyle

PLACES = ("\ue000", "\ue001")         # stand for the texts before and after the image; no chat template uses them
RESAMPLE = {2: "bilinear", 3: "bicubic"}  # numbers of Pillow


def read_tokenizer(checkpoint: Path) -> PreTrainedTokenizerBase:
    """Raises ExportError unless it is a fast one with a chat template."""
    try:
        tokenizer = AutoTokenizer.from_pretrained(checkpoint, local_files_only=True)
    except (OSError, ValueError) as error:
        raise ExportError(f"{checkpoint}: its tokenizer cannot be read ({first_line(error)}); copy "
                          "tokenizer.json and tokenizer_config.json beside the weights") from error
    if not tokenizer.is_fast:
        raise ExportError(f"{checkpoint}: has no tokenizer.json; save its tokenizer with transformers once")
    older = checkpoint / "chat_template.json"  # where transformers before 4.58 kept that of a processor
    if tokenizer.chat_template is None and older.is_file():
        tokenizer.chat_template = json.loads(older.read_text(encoding="utf-8"))["chat_template"]
    if tokenizer.chat_template is None:
        raise ExportError(f"{checkpoint}: has no chat template (chat_template.jinja); copy it from the base model")
    return tokenizer


def chat_turns(tokenizer: PreTrainedTokenizerBase, checkpoint: Path, image_token: int, style: PromptStyle) -> ChatTurns:
    """The chat format around a prompt of this style, found by rendering one message: policy, image, question."""
    content = [{"type": "text", "text": PLACES[0]}, {"type": "image"}, {"type": "text", "text": PLACES[1]}]
    messages = [{"role": "user", "content": content}]
    if style.system is not None:
        messages.insert(0, {"role": "system", "content": style.system})
    rendered = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    pad = tokenizer.convert_ids_to_tokens(image_token)
    if [rendered.count(mark) for mark in (*PLACES, pad)] != [1, 1, 1] or not (
            rendered.index(PLACES[0]) < rendered.index(pad) < rendered.index(PLACES[1])):
        raise ExportError(f"{checkpoint}: its chat template does not put a text, an image ({pad}) and a text into one "
                          "turn, in this order; take the template of the base model")
    before, rest = rendered.split(PLACES[0])
    image, after = rest.split(PLACES[1])
    parts = (before, *image.split(pad), after)
    ids = (tuple(tokenizer.encode(part, add_special_tokens=False)) for part in parts)
    return ChatTurns(*ids, stop=_stop_ids(tokenizer, checkpoint))


def verdict_ids(tokenizer: PreTrainedTokenizerBase, style: PromptStyle) -> tuple[int, int]:
    """First token of safe and of unsafe where the model's turn begins with `answer_start`."""
    def encode(text: str) -> list[int]:
        return tokenizer.encode(text, add_special_tokens=False)

    start = encode(style.answer_start)
    found = []
    for word in (style.verdict_tokens.safe, style.verdict_tokens.unsafe):
        ids = encode(style.answer_start + word)
        if ids[:len(start)] != start or len(ids) == len(start):
            raise ExportError(f"prompt style '{style.name}': this tokenizer joins {style.answer_start[-4:]!r} and "
                              f"{word!r} to one token, so the verdict has no position; use another style")
        found.append(ids[len(start)])
    if found[0] == found[1]:
        raise ExportError(f"prompt style '{style.name}': safe and unsafe begin with the same token in this tokenizer, "
                          "so one token cannot tell them apart; use another style")
    return found[0], found[1]


def read_geometry(checkpoint: Path, vision: VisionShape, max_tokens: int) -> PatchGeometry:
    """What its image processor does. max_tokens: of an image; the checkpoint's own limit holds where it is lower."""
    path = checkpoint / "preprocessor_config.json"
    entry = json.loads(path.read_bytes()) if path.is_file() else None
    if entry is None:
        path = checkpoint / "processor_config.json"
        entry = json.loads(path.read_bytes()).get("image_processor") if path.is_file() else None
    if entry is None:
        raise ExportError(f"{checkpoint}: has no preprocessor_config.json; copy it from the base model")
    size = entry.get("size") or {}
    try:
        least = entry["min_pixels"] if entry.get("min_pixels") else size["shortest_edge"]
        most = entry["max_pixels"] if entry.get("max_pixels") else size["longest_edge"]
        found = {"patch": entry["patch_size"], "merge": entry["merge_size"], "temporal": entry["temporal_patch_size"]}
        mean, std = tuple(entry["image_mean"]), tuple(entry["image_std"])
    except KeyError as error:
        raise ExportError(f"{path}: has no {error}; copy it from the base model") from error
    asked = {name: getattr(vision, name) for name in found}
    if found != asked:
        raise ExportError(f"{path}: says {found}, config.json says {asked}; they belong to different checkpoints")
    if off := [step for step in ("do_resize", "do_rescale", "do_normalize") if entry.get(step) is False]:
        raise ExportError(f"{path}: has {off[0]} switched off, no guard does without it; copy the file from the base "
                          "model")
    return PatchGeometry(**found, min_pixels=least, mean=mean, std=std, resample=RESAMPLE[entry.get("resample", 3)],
                         max_pixels=max(least, min(most, max_tokens * (vision.patch * vision.merge) ** 2)))


def _stop_ids(tokenizer: PreTrainedTokenizerBase, checkpoint: Path) -> tuple[int, ...]:
    path = checkpoint / "generation_config.json"
    stop = json.loads(path.read_bytes()).get("eos_token_id") if path.is_file() else None
    stop = tokenizer.eos_token_id if stop is None else stop
    if stop is None:
        raise ExportError(f"{checkpoint}: neither generation_config.json nor the tokenizer says which token ends an "
                          "answer (eos_token_id)")
    return tuple(stop) if isinstance(stop, list) else (stop,)


def as_json(turns: ChatTurns) -> dict[str, list[int]]:
    return {name: list(ids) for name, ids in asdict(turns).items()}
