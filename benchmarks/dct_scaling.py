"""What decoding a JPEG at a fraction of its size does to verdicts: the measurement behind the default of `scaling`.

    python -m benchmarks.dct_scaling ../shared/data/photos --count 100

Every picture is judged as decoded "exact", "safe" and "fast" (safeguard_sdk/image/jpeg.py), and, as a yardstick, once
more "exact" after it was saved again as a JPEG of quality 85, which nobody would expect to change a verdict.
Photos that are too small to be reduced are made large in two ways. "enlarged": bicubic, with grain on it as a sensor
would add; nothing finer than the small photo had. "mosaic": a square of photos side by side, each in its own pixels;
finer than what the model will see, so what a coarse reduction folds into it shows. Scores of mosaics mean nothing by
themselves; only how far they move is looked at. Both are saved at quality 90 with 4:2:0 subsampling, as phones do.
The last line is JSON.
"""

from __future__ import annotations

import json
import random
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

import numpy as np
import typer
from PIL import Image, ImageOps
from rich.console import Console
from rich.table import Table

from benchmarks.run import to_jpeg
from safeguard_sdk import Guard, ImageError, Policy, SafeguardError, Verdict
from safeguard_sdk.image import SquareGeometry, decode_image, jpeg_decoder, to_pixel_values
from safeguard_sdk.verdict import label_of

EXACT, AGAIN = "exact", "saved again"
READINGS = ("safe", "fast", AGAIN)  # each compared with EXACT
QUALITY, QUALITY_AGAIN = 90, 85
GRAIN = 4                        # standard deviation in grey levels
SHORT_SIDES = 2.0, 10.0          # of an enlarged photo, in sides of the model's input; drawn evenly in the logarithm
TILES = 2, 6                     # along each side of a mosaic


def main(
    photos: Annotated[Path, typer.Argument(exists=True, file_okay=False, help="Folder of JPEGs, searched deeply.")],
    count: Annotated[int, typer.Option(min=2, help="Pictures to judge.")] = 100,
    policy: Annotated[str, typer.Option(help="Policy file or name of a packaged policy.")] = "general",
    threads: Annotated[int, typer.Option(help="Of the runtime; 0 for all cores.")] = 0,
    seed: int = 0,
) -> None:
    """Measure how verdicts move when JPEGs are decoded at a fraction of their size."""
    try:
        guard = Guard(Policy.load(policy), threads=threads)
        result = measure(guard, pictures(photos, count, guard.bundle.geometry.side, random.Random(seed)))
    except SafeguardError as error:
        Console(stderr=True).print(f"error: {error}", style="red", markup=False, soft_wrap=True)
        raise typer.Exit(2) from error
    result |= {"bundle": f"{guard.bundle.name} {guard.bundle.version}", "policy": guard.policy.name,
               "rules": len(guard.policy.rules), "jpeg_decoder": jpeg_decoder(), "seed": seed}
    console = Console()
    console.print(table(result))
    decoding = ", ".join(f"{reading} {ms:.1f}" for reading, ms in result["decode_ms_p50"].items())
    console.print(f"decode ms p50: {decoding}\n{result['bundle']}, policy {result['policy']}, JPEG by "
                  f"{result['jpeg_decoder']}", highlight=False, soft_wrap=True)
    print(json.dumps(result))


def measure(guard: Guard, files: Iterator[tuple[str, bytes]]) -> dict:
    """Flips and drift of each reading against the exact one by kind of picture, and the time to decode."""
    ms: dict[str, list[float]] = {reading: [] for reading in (EXACT, *READINGS)}
    pairs: dict[str, dict[str, list[tuple[Verdict, Verdict]]]] = {}  # kind → reading → (exact, other) of each picture
    geometry = guard.bundle.geometry
    for kind, file in files:
        decoded = {reading: decode(file, reading, geometry, ms[reading]) for reading in (EXACT, "safe", "fast")}
        decoded[AGAIN] = decode(saved_again(file), EXACT, geometry, ms[AGAIN])
        pixel_values = np.stack([to_pixel_values(rgb, geometry) for rgb in decoded.values()])
        exact, *others = guard.judge(guard.engine.encode(pixel_values))
        for reading, other in zip(READINGS, others, strict=True):
            pairs.setdefault(kind, {name: [] for name in READINGS})[reading].append((exact, other))
    return {"moved": {kind: {reading: moved(guard.policy, each) for reading, each in readings.items()}
                      for kind, readings in sorted(pairs.items())},
            "decode_ms_p50": {reading: round(float(np.median(taken)), 2) for reading, taken in ms.items()}}


def decode(file: bytes, scaling: str, geometry: SquareGeometry, ms: list[float]) -> np.ndarray:
    started = time.perf_counter()
    rgb = decode_image(file, target=geometry.size_of, scaling=scaling)
    ms.append((time.perf_counter() - started) * 1000)
    return rgb


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
        if min(photo.size) >= 2 * SHORT_SIDES[0] * side:  # "safe" reduces it as it is
            yield "as it is", path.read_bytes()
        elif number % 2:
            tiles = [Image.fromarray(decode_image(generator.choice(paths)))
                     for _ in range(generator.randint(*TILES) ** 2)]
            yield "mosaic", to_jpeg(mosaic(tiles, side), QUALITY)
        else:
            yield "enlarged", to_jpeg(enlarged(photo, side, generator), QUALITY)


def enlarged(photo: Image.Image, side: int, generator: random.Random) -> Image.Image:
    low, high = np.log(SHORT_SIDES)
    factor = side * np.exp(generator.uniform(low, high)) / min(photo.size)
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
    shown = Table("against exact", "verdict flips", "rule flips", "drift mean", "p99", "max")
    for kind, readings in result["moved"].items():
        for reading, row in readings.items():
            shown.add_row(f"{kind}, {reading}", f"{row['verdict_flips']} of {row['verdicts']}",
                          f"{row['rule_flips']} of {row['scores']}", f"{row['drift_mean']:.4f}",
                          f"{row['drift_p99']:.3f}", f"{row['drift_max']:.3f}")
    return shown


if __name__ == "__main__":
    typer.run(main)
