"""What a bundle says of rows, before any calibration: through the engine that ships, with its own prompts."""

from __future__ import annotations

import sys
from functools import lru_cache

import numpy as np

from safeguard_sdk.bundle import Bundle
from safeguard_sdk.engine import Prefix, open_engine
from safeguard_sdk.errors import ImageError, PolicyError
from safeguard_sdk.image import decode_image, to_model_input
from training.calibration.rows import Row
from training.errors import TrainingError

KEPT_PREFIXES = 128  # KV caches of rules; a rule of 50 tokens takes 2 MB in nano
REPORT_EVERY = 100   # photos


def rule_logits(bundle: Bundle, rows: list[Row]) -> list[dict[str, float]]:
    """Of every row: the logit of unsafe against safe of each of its rules, by canonical text.

    A photo is decoded and encoded once however many rows it has.
    raises  TrainingError if a photo cannot be judged or a rule is too long: what was not measured is not guessed
    """
    engine = open_engine(bundle)
    read = lru_cache(maxsize=KEPT_PREFIXES)(lambda text: _prefix(engine, text))
    rows_of_photo: dict = {}
    for number, row in enumerate(rows):
        rows_of_photo.setdefault(row.photo, []).append(number)
    found: list[dict[str, float]] = [{} for _ in rows]
    for done, (photo, numbers) in enumerate(rows_of_photo.items()):
        if done % REPORT_EVERY == 0:
            print(f"{done} of {len(rows_of_photo)} photos judged", file=sys.stderr, flush=True)
        try:
            model_input = to_model_input(decode_image(photo, target=bundle.geometry.size_of), bundle.geometry)
        except ImageError as error:
            raise TrainingError(f"{error}; mend the photo or take its rows out") from error
        embedding = engine.encode([model_input])
        logit_of: dict[str, float] = {}
        for number in numbers:
            for rule in rows[number].rules:
                text = rule.canonical_text
                if text not in logit_of:
                    (safe, unsafe), = engine.score(read(text), embedding).astype(np.float64)
                    logit_of[text] = float(unsafe - safe)
                found[number][text] = logit_of[text]
    return found


def _prefix(engine, text: str) -> Prefix:
    try:
        return engine.read(engine.bundle.style.prefix(text))
    except PolicyError as error:
        raise TrainingError(f"the rule {text.splitlines()[0]!r:.80}: {error}") from error
