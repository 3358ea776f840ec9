"""What decoding a JPEG at a fraction of its size does to verdicts: the measurement behind `scaling` and its default.

    python -m benchmarks.dct_scaling ../shared/data/photos --count 200

Every picture is judged as decoded at its whole size and at 1/2, 1/4 and 1/8, and, as a yardstick, once more whole after
it was saved again as a JPEG of quality 85, which nobody would expect to change a verdict. What a reduced picture lost
depends on its room: how many times the sides that the model will see are left. "safe" and "fast" are lower bounds of
that room (safeguard_sdk/image/jpeg.py).
Photos that are too small to be reduced are made large in two ways. "enlarged": bicubic, with grain on it as a sensor
would add; nothing finer than the small photo had. "mosaic": a square of photos side by side, each in its own pixels;
finer than what the model will see, so what a coarse reduction folds into it shows. Scores of mosaics mean nothing by
themselves; only how far they move is looked at. Both are saved at quality 90 with 4:2:0 subsampling, as phones do.
The last line is JSON.
"""

from __future__ import annotations

import json
import math
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

import numpy as np
import typer
from PIL import Image, ImageOps
from rich.console import Console
from rich.table import Table

from benchmarks.speed.photos import to_jpeg
from safeguard_sdk import Guard, ImageError, Policy, Verdict
from safeguard_sdk.cli.printing import readable_errors
from safeguard_sdk.image import SquareGeometry, decode_image, jpeg_decoder, to_pixel_values
from safeguard_sdk.verdict import label_of

EXACT, AGAIN = "exact", "saved again"
SCALES = (2, 4, 8)
ROOMS = (1, 1.25, 1.5, 1.75, 2, 2.5, 3.5)  # borders of the intervals that are told apart
QUALITY, QUALITY_AGAIN = 90, 85
GRAIN = 4                        # standard deviation in grey levels
SHORT_SIDES = 2.5, 8.0           # of a picture, in sides of the model's input; drawn evenly in the logarithm


def main(
    photos: Annotated[Path, typer.Argument(exists=True, file_okay=False, help="Folder of JPEGs, searched deeply.")],
    count: Annotated[int, typer.Option(min=2, help="Pictures to judge.")] = 100,
    policy: Annotated[str, typer.Option(help="Policy file or name of a packaged policy.")] = "general",
    threads: Annotated[int, typer.Option(help="Of the runtime; 0 for all cores.")] = 0,
    seed: int = 0,
) -> None:
    """Measure how verdicts move when JPEGs are decoded at a fraction of their size."""
    with readable_errors():
        guard = Guard(Policy.load(policy), threads=threads)
        result = measure(guard, pictures(photos, count, guard.bundle.geometry.side, random.Random(seed)))
    result |= {"bundle": f"{guard.bundle.name} {guard.bundle.version}", "policy": guard.policy.name,
               "rules": len(guard.policy.rules), "jpeg_decoder": jpeg_decoder(), "seed": seed}
    console = Console()
    console.print(table(result))
    console.print(f"{result['bundle']}, policy {result['policy']}", highlight=False, soft_wrap=True)
    print(json.dumps(result))


def measure(guard: Guard, files: Iterator[tuple[str, bytes]]) -> dict:
    """Flips and drift of each reading against the exact one, by kind of picture."""
    pairs: dict[str, dict[str, list[tuple[Verdict, Verdict]]]] = {}  # kind → reading → (exact, other) of each picture
    geometry = guard.bundle.geometry
    for kind, file in files:
        decoded = readings(file, geometry)
        pixel_values = np.stack([to_pixel_values(rgb, geometry) for rgb in decoded.values()])
        exact, *others = guard.judge(guard.engine.encode(pixel_values))
        for reading, other in zip(list(decoded)[1:], others, strict=True):
            pairs.setdefault(kind, {name: [] for name in (*map(interval, ROOMS[:-1]), AGAIN)})[reading].append(
                (exact, other))
    return {"moved": {kind: {reading: moved(guard.policy, some) for reading, some in each.items() if some}
                      for kind, each in sorted(pairs.items())}}


def readings(file: bytes, geometry: SquareGeometry) -> dict[str, np.ndarray]:
    """Name → pixels: EXACT first, then AGAIN and the interval of ROOMS that each scale leaves, where it leaves one."""
    exact = decode_image(file)
    decoded = {EXACT: exact, AGAIN: decode_image(saved_again(file))}
    for scale in SCALES:
        room = min(exact.shape[:2]) / scale / geometry.side
        if ROOMS[0] <= room < ROOMS[-1]:
            decoded[interval(room)] = decode_image(file, target=lambda h, w, scale=scale: (h // scale, w // scale),
                                                   scaling="fast")
    return decoded


def interval(room: float) -> str:
    """The one of ROOMS that holds it: "1.75 to 2"."""
    above = next(number for number, border in enumerate(ROOMS) if border > room)
    return f"{ROOMS[above - 1]:g} to {ROOMS[above]:g}"


def moved(policy: Policy, pairs: list[tuple[Verdict, Verdict]]) -> dict:
    """How far verdicts moved: label flips of images and of single rules, and drift of the scores of all rules."""
    rules = [(rule, exact.rules[rule.id], other.rules[rule.id]) for exact, other in pairs for rule in policy.rules]
    drift = [abs(before - after) for _, before, after in rules]
    return {"verdict_flips": sum(exact.label != other.label for exact, other in pairs), "verdicts": len(pairs),
            "rule_flips": sum(label_of(before, rule) != label_of(after, rule) for rule, before, after in rules),
            "scores": len(rules), "drift_mean": round(float(np.mean(drift)), 4),
            "drift_p99": round(float(np.percentile(drift, 99)), 4), "drift_max": round(max(drift), 4)}


def pictures(folder: Path, count: int, side: int, generator: random.Random) -> Iterator[tuple[str, bytes]]:
    """(kind, JPEG file) of `count` pictures large enough to be reduced. Raises ImageError if there is no JPEG."""
    paths = sorted(path for path in folder.rglob("*") if path.suffix.lower() in (".jpg", ".jpeg"))
    if not paths:
        raise ImageError(f"{folder}: holds no JPEG files; name a folder of photos", "not_found")
    for number in range(count):
        path = generator.choice(paths)
        photo = Image.fromarray(decode_image(path))
        short = round(side * math.exp(generator.uniform(*map(math.log, SHORT_SIDES))))
        if min(photo.size) >= SHORT_SIDES[0] * side:
            yield "as it is", path.read_bytes()
        elif number % 2:
            tiles = [Image.fromarray(decode_image(generator.choice(paths))) for _ in range((-(-short // side)) ** 2)]
            left, upper = (generator.randint(0, -short % side) for _ in range(2))
            yield "mosaic", to_jpeg(mosaic(tiles, side).crop((left, upper, left + short, upper + short)), QUALITY)
        else:
            yield "enlarged", to_jpeg(enlarged(photo, short, generator), QUALITY)


def enlarged(photo: Image.Image, short: int, generator: random.Random) -> Image.Image:
    factor = short / min(photo.size)
    large = np.asarray(photo.resize([round(length * factor) for length in photo.size], Image.Resampling.BICUBIC))
    grain = np.random.default_rng(generator.randrange(2**32)).normal(0, GRAIN, large.shape[:2])
    return Image.fromarray((large + grain[:, :, None]).clip(0, 255).astype(np.uint8))


def mosaic(tiles: list[Image.Image], side: int) -> Image.Image:
    """A square of square tiles, each the middle of a photo in its own pixels where the photo is large enough."""
    along = round(len(tiles) ** 0.5)
    picture = Image.new("RGB", (along * side, along * side))
    for number, tile in enumerate(tiles):
        picture.paste(ImageOps.fit(tile, (side, side)), (number % along * side, number // along * side))
    return picture


def saved_again(file: bytes) -> bytes:
    return to_jpeg(Image.fromarray(decode_image(file)), QUALITY_AGAIN)


def table(result: dict) -> Table:
    """What a person wants to know of `result`; the rest is in the JSON."""
    shown = Table("against exact, by room left", "verdict flips", "rule flips", "drift mean", "p99", "max")
    for kind, rows in result["moved"].items():
        for reading, row in rows.items():
            shown.add_row(f"{kind}, {reading}", f"{row['verdict_flips']} of {row['verdicts']}",
                          f"{row['rule_flips']} of {row['scores']}", f"{row['drift_mean']:.4f}",
                          f"{row['drift_p99']:.3f}", f"{row['drift_max']:.3f}")
    return shown


if __name__ == "__main__":
    typer.run(main)
