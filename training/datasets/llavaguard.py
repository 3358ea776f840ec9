"""LlavaGuard: photos under its default policy and under variants that allow or forbid a category.

    train.json, eval.json, test.json, and the images that they name beside them

They are what the scripts of ml-research/LlavaGuard (840699c) write from the gated photos: a list of objects with `id`,
`image`, `category` and `conversations`, the policy in the human turn (template json-v24), the verdict in the other.
"""

from __future__ import annotations

import json
import re
from pathlib import Path

from safeguard_sdk.errors import VerdictError
from safeguard_sdk.prompt import PROMPTS
from training.datasets.rows import Row, photo_sha256
from training.errors import TrainingError

ASK = ("LlavaGuard is gated: ask for it at https://huggingface.co/datasets/AIML-TUDA/LlavaGuard, write train.json, "
       "eval.json and test.json with the scripts of https://github.com/ml-research/LlavaGuard (template json-v24)")
FILES = {"train": "train.json", "validation": "eval.json", "test": "test.json"}
STYLE = PROMPTS["llavaguard"]
DEFAULT_POLICY = (Path(__file__).with_name("llavaguard_policy.txt")).read_text(encoding="utf-8")  # 840699c, Apache-2.0
# At the end of an id, so that a file name with _v2 in it is no variant.
_VARIANT = re.compile(r"_(v[0-5]a?(?:_[a-c])?)$")


def read_llavaguard(folder: Path, split: str) -> list[Row]:
    """Rows of a split; `policy_name` is "default" or the variant: "v2", "v3_a"."""
    file = folder / FILES[split]
    if not file.is_file():
        raise TrainingError(f"{file}: no such file. {ASK}, and put them with their images into {folder}")
    try:
        entries = json.loads(file.read_text(encoding="utf-8-sig"))
    except (OSError, ValueError) as error:
        raise TrainingError(f"{file}: is no JSON ({error}); write it again") from error
    if not isinstance(entries, list):
        raise TrainingError(f"{file}: holds {entries!r:.40} and no list of entries; write it again")
    digests: dict[Path, str] = {}  # a photo stands under several policies
    return [_row(folder, file, number, entry, digests) for number, entry in enumerate(entries)]


def _row(folder: Path, file: Path, number: int, entry: dict, digests: dict[Path, str]) -> Row:
    place = f"{file}, entry {number}"
    try:
        name, photo, category = entry["id"], entry["image"], entry["category"]
        turns = {turn["from"]: turn["value"] for turn in entry["conversations"]}
        prompt, answer = turns["human"], turns["gpt"]
    except (KeyError, TypeError) as error:
        raise TrainingError(f"{place}: lacks {error}; it must have id, image, category and conversations, see "
                            "training/datasets/llavaguard.py") from error
    for what, value in (("id", name), ("image", photo), ("prompt", prompt), ("answer", answer)):
        if not isinstance(value, str):
            raise TrainingError(f"{place}: its {what} is {value!r:.40}, must be text; write the data again")
    policy, image, variant = _policy(prompt, place), folder / photo, _VARIANT.search(name)
    try:
        label = STYLE.parse(answer).label
    except VerdictError as error:
        raise TrainingError(f"{place}: its answer cannot be read: {error}") from error
    source = f"llavaguard:{name}"
    if image not in digests:
        digests[image] = photo_sha256(image, source)
    return Row(image, digests[image], policy, variant[1] if variant else "default", label, category, source)


def _policy(prompt: str, place: str) -> str:
    """The policy out of a whole prompt of template json-v24, which ends in an <image> tag."""
    text = prompt.strip().removesuffix("<image>").strip()
    before, after = STYLE.before_policy, STYLE.after_policy.rstrip()
    if not (text.startswith(before) and text.endswith(after)):
        raise TrainingError(f"{place}: its prompt is not of template json-v24; write the data with that template")
    return text[len(before):len(text) - len(after)]
