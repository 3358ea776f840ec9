"""Photos → captions → captions with the unsafe details put back, a stage each; run again and it goes on.

Each stage opens one model only, so two large ones need not fit side by side. Every photo has a row in the result:
    restored   the rewrite put something in; `recaption` holds it
    unchanged  the rewriter found nothing missing; `recaption` holds the caption
    rejected   the rewrite did more than it may (checks.py); `recaption` is null, `rewrite` shows it
    failed     a photo that cannot be decoded or a model that gave no answer; `recaption` is null
"""

from __future__ import annotations

import hashlib
import sys
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, closing, nullcontext
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
import pyarrow as pa
from PIL import Image

from safeguard_sdk.errors import ImageError
from safeguard_sdk.image import PatchGeometry, decode_image, image_sha256, read_bytes
from training.errors import TrainingError
from training.recaption.checks import MAX_WORD, REJECTION_KINDS, check_rewrite, endless_word, load_tagger
from training.recaption.models import Model, ModelError, Question, check_model, model_name, open_model
from training.recaption.parts import STATUSES, Parts
from training.recaption.prompts import (
    CAPTION_PROMPT,
    CAPTION_SAMPLING,
    REWRITE_PROMPT,
    REWRITE_SAMPLING,
    prompt_sha256,
    rewrite_prompt,
)
from training.recaption.sources import Item, read_items

PART_ROWS = 128    # a kill loses at most the answers to these and to the questions under way
AHEAD = 4          # × concurrency: rows that may wait for a slow one before them
# Larger photos are shrunk, with their shape: a bound on the request, and what Qwen2.5-VL sees by its class default.
SIGHT = PatchGeometry(patch=14, min_pixels=1, max_pixels=1_003_520, mean=(0.0,) * 3, std=(1.0,) * 3)

FAILURE = [("failed_at", pa.string()),  # "image", "captioner" or "rewriter"; null if nothing failed
           ("kind", pa.string()),       # of IMAGE_ERROR_KINDS, MODEL_ERROR_KINDS or REJECTION_KINDS
           ("message", pa.string())]    # one line for people
CAPTIONS = pa.schema([("path", pa.string()), ("sha256", pa.string()), ("caption", pa.string()), *FAILURE])
RECAPTIONS = pa.schema([
    ("path", pa.string()),       # relative to the folder of photos
    ("sha256", pa.string()),     # of the file's bytes; null if it cannot be read
    ("status", pa.string()),     # one of STATUSES
    ("recaption", pa.string()),  # what stage 1 trains on; null if rejected or failed
    ("caption", pa.string()),    # the neutral one
    ("rewrite", pa.string()),    # what the rewriter wrote, whatever became of it
    *FAILURE,
    ("kept", pa.float64()),      # share of the caption's words in the rewrite, in their order
    ("lost", pa.list_(pa.string())), ("added", pa.list_(pa.string())),  # words, lower case
])


@dataclass(frozen=True)
class Stage:
    """One model over all rows. `answer` makes a row of an item, the model and the row of the stage before."""

    name: str
    parts: Parts
    open: Callable[[], AbstractContextManager[Model | None]]
    answer: Callable[[Item, Model | None, dict | None], dict]


def recaption(photos: Path, captioner: str | None, rewriter: str, out: Path, *, concurrency: int = 8, seed: int = 0,
              retry_failed: bool = False, part_rows: int = PART_ROWS) -> dict[str, int]:
    """Write `out/captions` and `out/recaptions`, Parquet parts each, and return how many rows have which status, and
    how many were rejected or failed for which kind.

    captioner     see open_model; None where `photos` is a file of given captions
    concurrency   questions under way at once, for endpoints
    seed          of the answers that are drawn; every photo has its own from it, whatever ran before
    retry_failed  ask again for the rows that failed
    raises        TrainingError; what was written until then stays, and the run goes on from it
    """
    items = read_items(photos)
    given = items[0].caption is not None
    if given == (captioner is not None):
        raise TrainingError(f"{photos}: " + ("holds captions; leave --captioner out" if given else
                                             "holds no captions; name a model with --captioner"))
    for spec in filter(None, (captioner, rewriter)):
        check_model(spec)
    load_tagger()  # a missing package shall stop the run before a model is asked
    paths = hashlib.sha256("\0".join(f"{item.path}\0{item.caption or ''}" for item in items).encode()).hexdigest()
    common = {"photos": paths, "part_rows": part_rows, "seed": seed}
    captions = Stage("captioner", Parts(out / "captions", CAPTIONS, part_rows),
                     nullcontext if given else lambda: closing(open_model(captioner, concurrency)), _captioned(seed))
    rewrites = Stage("rewriter", Parts(out / "recaptions", RECAPTIONS, part_rows),
                     lambda: closing(open_model(rewriter, concurrency)), _rewritten(seed))
    first = {"captioner": captioner and model_name(captioner),
             "captioner_prompt": prompt_sha256(CAPTION_PROMPT, CAPTION_SAMPLING), **common}
    captions.parts.open(first)
    rewrites.parts.open({"rewriter": model_name(rewriter),
                         "rewriter_prompt": prompt_sha256(REWRITE_PROMPT, REWRITE_SAMPLING), **first})
    _run(captions, items, None, retry_failed)
    _run(rewrites, items, captions.parts, retry_failed)
    return _counts(rewrites.parts, len(items))


def _run(stage: Stage, items: list[Item], before: Parts | None, retry_failed: bool) -> None:
    """Write the parts that are missing, and with `retry_failed` those with failed rows; opens the model only if there
    are any."""
    size = stage.parts.size
    places = [range(start, min(start + size, len(items))) for start in range(0, len(items), size)]
    kept: dict[int, list[dict | None]] = {}  # of the parts to be written: rows that stay, None for those to be made
    for number, part in enumerate(places):
        rows = _kept(stage.parts.read(number), len(part), retry_failed)
        if None in rows:
            kept[number] = rows
    if not kept:
        return
    read_before = lru_cache(maxsize=2 * AHEAD)(before.read) if before else None
    with stage.open() as model:

        def row_at(number: int, offset: int) -> dict:
            if (row := kept[number][offset]) is not None:
                return row
            former = read_before(number)[offset] if read_before else None
            return stage.answer(items[places[number][offset]], model, former)

        wanted = [(number, offset) for number in kept for offset in range(len(places[number]))]
        rows = _in_order(lambda place: row_at(*place), wanted, model.concurrency if model else 1)
        with closing(rows):  # before the model: what is not begun shall not be asked
            for done, number in enumerate(kept, start=1):
                stage.parts.write(number, [next(rows) for _ in places[number]])
                print(f"{stage.name}: part {done} of {len(kept)} written", file=sys.stderr, flush=True)


def _kept(rows: list[dict] | None, count: int, retry_failed: bool) -> list[dict | None]:
    if rows is None:
        return [None] * count
    return [None if retry_failed and row["failed_at"] else row for row in rows]


def _in_order(ask: Callable, items: Iterable, concurrency: int) -> Iterator:
    """ask(item) of every item, in their order, `concurrency` at once; reads ahead a bounded number of items."""
    pool = ThreadPoolExecutor(concurrency)
    waiting: deque = deque()
    try:
        for item in items:
            waiting.append(pool.submit(ask, item))
            if len(waiting) >= AHEAD * concurrency:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        pool.shutdown(wait=False, cancel_futures=True)


def _captioned(seed: int) -> Callable[[Item, Model | None, dict | None], dict]:
    def answer(item: Item, model: Model | None, _: dict | None) -> dict:
        row = dict.fromkeys(CAPTIONS.names) | {"path": item.path}
        try:
            data = read_bytes(item.file)
            row["sha256"] = image_sha256(data)
            image = _image(data, item.path)
        except ImageError as error:
            return row | _failure("image", error)
        try:
            caption = item.caption
            if caption is None:
                caption = model.ask(Question(image, CAPTION_PROMPT, CAPTION_SAMPLING, _seed(seed, item.path)))
            if word := endless_word(caption):
                raise ModelError(f"the caption has a word of {len(word)} letters, {MAX_WORD} may it have", "malformed")
            return row | {"caption": caption}
        except ModelError as error:
            return row | _failure("captioner", error)
    return answer


def _rewritten(seed: int) -> Callable[[Item, Model, dict], dict]:
    def answer(item: Item, model: Model, captioned: dict) -> dict:
        row = dict.fromkeys(RECAPTIONS.names) | captioned
        if captioned["failed_at"]:
            return row | {"status": "failed"}
        try:
            data = read_bytes(item.file)
            if image_sha256(data) != captioned["sha256"]:
                raise ImageError(f"{item.path}: has changed since it was captioned; start anew with another --out",
                                 "unreadable")
            image = _image(data, item.path)
        except ImageError as error:
            return row | {"status": "failed"} | _failure("image", error)
        caption = captioned["caption"]
        try:
            rewrite = model.ask(Question(image, rewrite_prompt(caption), REWRITE_SAMPLING, _seed(seed, item.path)))
        except ModelError as error:
            return row | {"status": "failed"} | _failure("rewriter", error)
        check = check_rewrite(caption, rewrite)
        status = "rejected" if check.kind else "unchanged" if rewrite == caption else "restored"
        return row | {"status": status, "rewrite": rewrite, "recaption": None if check.kind else rewrite,
                      "kind": check.kind, "message": check.message, "kept": check.kept, "lost": list(check.lost),
                      "added": list(check.added)}
    return answer


def _image(data: bytes, path: str) -> Image.Image:
    """Upright RGB within the pixels of SIGHT."""
    rgb: np.ndarray = decode_image(data, target=SIGHT.size_of, name=path)
    image = Image.fromarray(rgb)
    pixels = image.width * image.height
    if pixels > SIGHT.max_pixels:
        shrink = (SIGHT.max_pixels / pixels) ** 0.5
        image = image.resize((max(1, int(image.width * shrink)), max(1, int(image.height * shrink))),
                             Image.Resampling.BICUBIC)
    return image


def _failure(where: str, error: ImageError | ModelError) -> dict[str, str]:
    return {"failed_at": where, "kind": error.kind, "message": " ".join(str(error).split())}


def _seed(seed: int, path: str) -> int:
    """In [0, 2³¹): of a photo, not of its place, so that a longer list draws the same answers for it."""
    return int.from_bytes(hashlib.sha256(f"{seed}\0{path}".encode()).digest()[:4]) >> 1


def _counts(parts: Parts, count: int) -> dict[str, int]:
    """Rows by status, and rejected and failed ones by kind."""
    rows = [row for number in range(-(-count // parts.size)) for row in parts.read(number)]
    by_status = Counter(row["status"] for row in rows)
    by_kind = Counter(row["kind"] for row in rows if row["kind"])
    return {status: by_status[status] for status in STATUSES} | {
        f"{'rejected' if kind in REJECTION_KINDS else 'failed'}/{kind}": by_kind[kind] for kind in sorted(by_kind)}
