"""How fast a JPEG becomes the input of a Qwen-VL model on this machine, and how others do it.

    python -m benchmarks.preprocess                              photos of 12 MP, 2 MP and 384 px, to at most 256 tokens
    python -m benchmarks.preprocess --rounds 60 --out speed.json

Systems take turns on the same file; a ratio is the median over rounds of another system's time to ours in the same
round, so a machine that slows down slows both. "bare decoder" is Pillow decoding at the scale that ours asks of it, and
nothing after that. Processors of transformers get what their users give them, a picture that Pillow has decoded; in
"all torchvision" the torchvision one gets a tensor that torchvision has decoded. Needs the extras bench, demo and
train; OpenCV takes part where it is installed.
"""

from __future__ import annotations

import importlib.util
import io
import json
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import numpy as np
import typer
from PIL import Image
from rich.console import Console
from rich.table import Table

from benchmarks.speed import machine
from benchmarks.speed.photos import to_jpeg
from safeguard_sdk.image import PatchGeometry, decode_image, to_patches
from safeguard_sdk.image.jpeg import dct_scale, reduce

TOKENS = 256
PATCH, MERGE = 14, 2
MEAN, STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)  # OpenAI CLIP, as in Qwen2-VL
GEOMETRY = PatchGeometry(PATCH, min_pixels=4 * (PATCH * MERGE) ** 2, max_pixels=TOKENS * (PATCH * MERGE) ** 2,
                         mean=MEAN, std=STD)
SIZES = {"12 MP": (4000, 3000), "2 MP": (1633, 1225), "384 px": (384, 288)}  # width, height
QUALITY = 90          # of the JPEG
WARM_UP = 2           # rounds that do not count
OURS, FLOOR = "safeguard", "bare decoder"


@dataclass(frozen=True)
class System:
    name: str
    decode: Callable[[bytes], object]
    patches: Callable[[object], object]

    def run(self, jpeg: bytes) -> None:
        self.patches(self.decode(jpeg))


def main(
    rounds: Annotated[int, typer.Option(min=1, help="Turns that each system has on each photo.")] = 30,
    threads: Annotated[int, typer.Option(min=0, help="Throughput is measured with 1 to so many; 0: all cores.")] = 0,
    out: Annotated[Path | None, typer.Option(help="JSON file for all that was measured.", show_default=False)] = None,
) -> None:
    """Measure decoding, and resize + patches, on this machine."""
    result = {**machine.describe(), "rounds": rounds, "tokens": TOKENS, "photos": {}}
    threads = threads or result["cores"]
    console, compared = Console(), systems()
    for size, (width, height) in SIZES.items():
        jpeg = photo(width, height)
        times = latencies(compared, jpeg, rounds)
        rates = {system.name: [throughput(system, jpeg, count) for count in range(1, threads + 1)]
                 for system in compared}
        result["photos"][size] = {"bytes": len(jpeg), **summary(times), "img_per_s_by_threads": rates}
        console.print(table(size, result["photos"][size]))
    if out:
        out.write_text(json.dumps(result, indent=1), encoding="utf-8")
    print(json.dumps(result))


def systems() -> list[System]:
    """Those that are installed here; ours first."""
    found = [System(OURS, _decode_to_scale, lambda rgb: to_patches(rgb, GEOMETRY)),
             System(FLOOR, _decode_bare, lambda rgb: rgb)]
    if importlib.util.find_spec("transformers"):
        from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil
        from transformers.models.qwen2_vl.image_processing_qwen2_vl import Qwen2VLImageProcessor
        limits = {"shortest_edge": GEOMETRY.min_pixels, "longest_edge": GEOMETRY.max_pixels}
        for name, kind, decode in (("transformers PIL", Qwen2VLImageProcessorPil, _decode_whole),
                                   ("transformers torchvision", Qwen2VLImageProcessor, _decode_whole),
                                   ("all torchvision", Qwen2VLImageProcessor, _decode_to_tensor)):
            processor = kind(size=limits, image_mean=list(MEAN), image_std=list(STD))
            found.append(System(name, decode, lambda picture, processor=processor: processor(
                images=[picture], return_tensors="pt")))
    if importlib.util.find_spec("cv2"):
        import cv2
        found.append(System("OpenCV", lambda jpeg: cv2.imdecode(np.frombuffer(jpeg, np.uint8), cv2.IMREAD_COLOR_RGB),
                            lambda rgb: _opencv_patches(cv2, rgb)))
    return found


def latencies(compared: list[System], jpeg: bytes, rounds: int) -> dict[str, np.ndarray]:
    """System → (rounds, 2) ms of decoding and of the rest; each round has every system once, the first one in turn."""
    times: dict[str, list[tuple[float, float]]] = {system.name: [] for system in compared}
    for number in range(-WARM_UP, rounds):
        turn = number % len(compared)
        for system in compared[turn:] + compared[:turn]:
            started = time.perf_counter()
            decoded = system.decode(jpeg)
            between = time.perf_counter()
            system.patches(decoded)
            if number >= 0:
                ended = time.perf_counter()
                times[system.name].append(((between - started) * 1000, (ended - between) * 1000))
    return {name: np.array(rows) for name, rows in times.items()}


def throughput(system: System, jpeg: bytes, threads: int, seconds: float = 2.0) -> float:
    """Images a second when `threads` threads each prepare one image after the other."""
    def work() -> int:
        done = 0
        while time.perf_counter() < end:
            system.run(jpeg)
            done += 1
        return done

    started = time.perf_counter()
    end = started + seconds
    with ThreadPoolExecutor(threads) as pool:
        total = sum(pool.map(lambda _: work(), range(threads)))
    return round(total / (time.perf_counter() - started), 2)


def summary(times: dict[str, np.ndarray]) -> dict:
    """ms at p50 and p95 by stage, and each total as a multiple of ours."""
    stages = {name: {"decode": rows[:, 0], "patches": rows[:, 1], "total": rows.sum(axis=1)}
              for name, rows in times.items()}
    latency = {name: {stage: dict(zip(("p50", "p95"), np.percentile(ms, (50, 95)).round(3).tolist(), strict=True))
                      for stage, ms in some.items()} for name, some in stages.items()}
    ratios = {name: round(float(np.median(some["total"] / stages[OURS]["total"])), 3) for name, some in stages.items()}
    return {"latency_ms": latency, "times_ours": ratios}


def table(size: str, measured: dict) -> Table:
    shown = Table("ms, p50 (p95)", title=f"{size}, {measured['bytes'] / 1e6:.1f} MB", title_justify="left")
    rates = measured["img_per_s_by_threads"]
    counts = range(1, len(rates[OURS]) + 1)
    for column in ("decode", "patches", "total", "× ours", *(f"img/s, {n} thread{'s' * (n > 1)}" for n in counts)):
        shown.add_column(column, justify="right")
    for name, stages in measured["latency_ms"].items():
        shown.add_row(name, *(f"{ms['p50']:.2f} ({ms['p95']:.2f})" for ms in stages.values()),
                      f"{measured['times_ours'][name]:.2f}", *(f"{rate:.1f}" for rate in rates[name]))
    return shown


def photo(width: int, height: int) -> bytes:
    """A real photo as a JPEG: laid side by side until it fills this size, for an enlarged one would be too smooth."""
    from skimage import data
    tile = data.astronaut()[:height, :width]
    tiled = np.tile(tile, (-(-height // tile.shape[0]), -(-width // tile.shape[1]), 1))[:height, :width]
    return to_jpeg(Image.fromarray(tiled), QUALITY)


def _decode_to_scale(jpeg: bytes) -> np.ndarray:
    return decode_image(jpeg, target=GEOMETRY.size_of)


def _decode_bare(jpeg: bytes) -> Image.Image:
    picture = Image.open(io.BytesIO(jpeg))
    shape = picture.height, picture.width
    reduce(picture, dct_scale(shape, GEOMETRY.size_of(*shape), "safe"))
    picture.load()
    return picture


def _decode_whole(jpeg: bytes) -> Image.Image:
    return Image.open(io.BytesIO(jpeg)).convert("RGB")


def _decode_to_tensor(jpeg: bytes) -> object:
    import torch
    from torchvision.io import ImageReadMode, decode_jpeg
    return decode_jpeg(torch.frombuffer(bytearray(jpeg), dtype=torch.uint8), mode=ImageReadMode.RGB)


def _opencv_patches(cv2, rgb: np.ndarray) -> np.ndarray:
    """Area resize, then the same layout with numpy."""
    height, width = GEOMETRY.size_of(*rgb.shape[:2])
    scaled = cv2.resize(rgb, (width, height), interpolation=cv2.INTER_AREA).astype(np.float32) / 255
    normal = ((scaled - np.float32(MEAN)) / np.float32(STD)).transpose(2, 0, 1)
    rows, columns = height // (PATCH * MERGE), width // (PATCH * MERGE)
    cut = normal.reshape(3, rows, MERGE, PATCH, columns, MERGE, PATCH).transpose(1, 4, 2, 5, 0, 3, 6)
    doubled = np.repeat(cut[:, :, :, :, :, None], GEOMETRY.temporal, axis=5)
    return doubled.reshape(rows * columns * MERGE**2, -1)


if __name__ == "__main__":
    typer.run(main)
