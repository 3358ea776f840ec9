"""From rows and captions to chat turns: in the words of safeguard_sdk.prompt, with photos as a guard decodes them."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import datasets
from PIL import Image
from transformers import PreTrainedTokenizerBase

from safeguard_sdk.errors import ImageError
from safeguard_sdk.image import PatchGeometry, decode_image
from safeguard_sdk.prompt import Answer, PromptStyle
from training.datasets import Row
from training.datasets.captions import Caption
from training.errors import TrainingError

CAPTION_QUESTION = "Describe this photo in one paragraph: who and what is in it, where they are, and what happens."


@dataclass(frozen=True, slots=True)
class Example:
    """One user turn around a photo, and what the model's turn is to be or to be judged by."""

    image: Path
    image_sha256: str
    system: str | None  # None: the model's chat template decides
    before: str         # text before the photo, "" for none
    after: str          # text after it
    answer: str         # the whole of the model's turn that stage 1 trains on; "" in stage 2
    label: str          # "safe" or "unsafe"; "" of a caption
    source: str


def caption_example(caption: Caption) -> Example:
    return Example(caption.image, caption.image_sha256, None, "", CAPTION_QUESTION, caption.text, "", caption.source)


def question_example(row: Row, style: PromptStyle, answered: bool) -> Example:
    """The question that serving asks; `answered` with the verdict as serving reads it."""
    return Example(row.image, row.image_sha256, style.system, style.prefix(row.policy), style.suffix,
                   style.format(Answer(row.label)) if answered else "", row.label, row.source)


def turns(example: Example) -> list[dict]:
    """The turns before the model's own; {"type": "image"} stands where the photo goes."""
    parts = [_text(example.before), {"type": "image"}, _text(example.after)]
    user = {"role": "user", "content": [part for part in parts if part.get("text") != ""]}
    return [{"role": "system", "content": [_text(example.system)]}, user] if example.system else [user]


def examples_sha256(examples: Sequence[Example]) -> str:
    """Hex digest of all that training learns from, and its order; not where the photos lie."""
    digest = hashlib.sha256()
    for example in examples:
        seen = [example.image_sha256, example.system, example.before, example.after, example.answer, example.label]
        digest.update(json.dumps(seen).encode() + b"\n")
    return digest.hexdigest()


def to_dataset(examples: Sequence[Example], geometry: PatchGeometry) -> datasets.Dataset:
    """Rows as TRL's trainers read them; a photo is decoded when its row is read."""
    columns = {"image": [str(example.image) for example in examples]}
    columns |= {name: [getattr(example, name) for example in examples]
                for name in ("image_sha256", "system", "before", "after", "answer", "label", "source")}
    return datasets.Dataset.from_dict(columns).with_transform(partial(_read, geometry=geometry))


@contextmanager
def named_by(source: str) -> Iterator[None]:
    """Turn an image that cannot be decoded into a TrainingError that names its row."""
    try:
        yield
    except ImageError as error:
        raise TrainingError(f"{source}: {error}; take it out of the data") from error


def photo(path: Path, geometry: PatchGeometry) -> Image.Image:
    """As an engine decodes it: upright, RGB, JPEG files at a fraction of their size if the model sees no more."""
    return Image.fromarray(decode_image(path, target=geometry.size_of))


def refuse_special_tokens(examples: Sequence[Example], tokenizer: PreTrainedTokenizerBase) -> None:
    """Raises TrainingError if a policy or a caption holds text that this model reads as a mark."""
    special = [token for token in tokenizer.get_added_vocab() if token.strip()]
    seen: set[str] = set()
    for example in examples:
        text = f"{example.before}\n{example.after}\n{example.answer}"
        if text not in seen:
            seen.add(text)
            for token in special:
                if token in text and token not in _TAGS:
                    raise TrainingError(f"{example.source}: its text holds {token}, which this model reads as a mark "
                                        "of its own and not as text; take it out")


_TAGS = ("<think>", "</think>")  # Qwen3-VL has tokens of its own for them, and they are meant


def _text(text: str) -> dict[str, str]:
    return {"type": "text", "text": text}


def _read(columns: dict[str, list], geometry: PatchGeometry) -> dict[str, list]:
    examples = [Example(**dict(zip(columns, values, strict=True))) for values in zip(*columns.values(), strict=True)]
    read: dict[str, list] = {
        "prompt": [turns(example) for example in examples],
        "images": [[photo(Path(example.image), geometry)] for example in examples],
        "label": columns["label"], "source": columns["source"],
    }
    if any(columns["answer"]):
        read["completion"] = [[{"role": "assistant", "content": [_text(answer)]}] for answer in columns["answer"]]
    return read
