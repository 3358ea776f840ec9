"""How fast a guard is on this machine: latency of `check` per stage, throughput of `check_many`, cold start, memory.

    python benchmarks/run.py                                     the embedded bundle, its general policy
    python benchmarks/run.py --policy shop.yaml --images photos  yours

Needs the extras cpu (or gpu), demo and bench. Latency is that of a single stream: one image after the other, the next
when the last is judged. The last line is JSON. Numbers count only if nothing else runs: `load` says what did.
"""

from __future__ import annotations

import importlib.util
import io
import itertools
import json
import os
import platform
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from statistics import median
from typing import Annotated

import numpy as np
import psutil
import typer
from PIL import Image
from rich.console import Console
from rich.table import Table

from safeguard_sdk import Bundle, Guard, ImageError, Policy, SafeguardError, __version__
from safeguard_sdk.bundle import EMBEDDED

STAGES = ("decode", "patches", "vision", "prefill", "total")
PERCENTILES = (50, 90, 99)
SIDE, QUALITY = 384, 90       # pixels of the longer side of the default images, and of their JPEG
WARM_UP = 10                  # images judged before the clock starts
BATCH_SIZE = 16               # of check_many, its default
COLD_STARTS = 3
PHOTOS = {"skimage/data": ("astronaut.png", "chelsea.png", "coffee.png", "coins.png", "hubble_deep_field.jpg",
                           "motorcycle_left.png", "retina.jpg", "rocket.jpg"),
          "sklearn/datasets/images": ("china.jpg", "flower.jpg")}
FIRST_VERDICT = """
import sys
from safeguard_sdk import Guard, Policy
verdict = Guard(Policy.load(sys.argv[1]), sys.argv[2], threads=int(sys.argv[3])).check(sys.stdin.buffer.read())
print(verdict.label, flush=True)
import time
time.sleep(60)  # until its memory is read
"""


def main(
    bundle: Annotated[Path, typer.Option(help="Folder of a bundle; default: nano.", show_default=False)] = EMBEDDED,
    policy: Annotated[str, typer.Option(help="Policy file or name of a packaged policy.")] = "general",
    images: Annotated[Path | None, typer.Option(help="Folder of images; default: sample photos.")] = None,
    threads: Annotated[int, typer.Option(help="Of the runtime; 0 for all cores.")] = 0,
    seconds: Annotated[float, typer.Option(help="For latency and for throughput, each.")] = 20,
) -> None:
    """Measure a guard on this machine."""
    try:
        guard = Guard(Policy.load(policy), Bundle.open(bundle), threads=threads)
        files = sample_photos() if images is None else read_folder(images)
        result = {"system": f"safeguard {__version__}", **machine(), **facts(guard, threads, len(files)),
                  **latency(guard, files, seconds), **throughput(guard, files, seconds),
                  **cold_start(policy, bundle, threads, files[0])}
    except SafeguardError as error:
        Console(stderr=True).print(f"error: {error}", style="red", markup=False, soft_wrap=True)
        raise typer.Exit(2) from error
    console = Console()
    console.print(table(result))
    console.print(f"{result['checks']} checks of {result['images']} images, one after the other\n"
                  f"check_many: {result['img_per_s']} img/s in batches of {BATCH_SIZE}\n"
                  f"fresh process: first verdict after {result['cold_start_s']} s, {result['rss_mb']} MB\n"
                  f"{result['device']}, {result['cores']} cores, load {result['load']}", highlight=False)
    print(json.dumps(result))


def latency(guard: Guard, files: list[bytes], seconds: float) -> dict:
    """Percentiles of each stage of `check` in ms; the total is wall time, policies and pixels included."""
    times: dict[str, list[float]] = {stage: [] for stage in STAGES}
    for file in itertools.islice(itertools.cycle(files), WARM_UP):
        guard.check(file)
    for file in until(seconds, files):
        started = time.perf_counter()
        verdict = guard.check(file)
        times["total"].append((time.perf_counter() - started) * 1000)
        for stage, ms in verdict.ms.items():
            times[stage].append(ms)
    percentiles = {stage: dict(zip([f"p{p}" for p in PERCENTILES], np.percentile(times[stage], PERCENTILES).round(2),
                                   strict=True)) for stage in STAGES}
    return {"checks": len(times["total"]), "latency_ms": percentiles}


def throughput(guard: Guard, files: list[bytes], seconds: float) -> dict:
    """Images per second of `check_many`, decoding included."""
    for _ in guard.check_many(files[:BATCH_SIZE], BATCH_SIZE):
        pass
    started = time.perf_counter()
    judged = sum(1 for _ in guard.check_many(until(seconds, files), BATCH_SIZE))
    return {"batch_size": BATCH_SIZE, "img_per_s": round(judged / (time.perf_counter() - started), 2)}


def cold_start(policy: str, bundle: Path, threads: int, file: bytes) -> dict:
    """Median seconds from the start of a process to its first verdict, and the memory that it then holds."""
    took, held = [], []
    for _ in range(COLD_STARTS):
        started = time.perf_counter()
        with subprocess.Popen([sys.executable, "-c", FIRST_VERDICT, policy, bundle, str(threads)],
                              stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
            process.stdin.write(file)
            process.stdin.close()
            if not process.stdout.readline():
                raise SafeguardError(f"a fresh process gave no verdict, exit status {process.wait()}; see above")
            took.append(time.perf_counter() - started)
            held.append(psutil.Process(process.pid).memory_info().rss / 1e6)
            process.kill()
    return {"cold_start_s": round(median(took), 2), "rss_mb": round(median(held))}


def until(seconds: float, files: list[bytes]) -> Iterator[bytes]:
    """The files over and over, at least one, until the time is up."""
    end = time.perf_counter() + seconds
    for file in itertools.cycle(files):
        yield file
        if time.perf_counter() >= end:
            return


def sample_photos() -> list[bytes]:
    """JPEG files made in memory from photos of scikit-image and scikit-learn, the same on every machine."""
    files = []
    for place, names in PHOTOS.items():
        package, _, folder = place.partition("/")
        spec = importlib.util.find_spec(package)
        if spec is None:
            raise ImageError(f"the sample photos come with {package}, which is not installed; install the extra demo, "
                             "or name a folder of your own: --images", "not_found")
        files += [_small_jpeg(Path(spec.origin).parent / folder / name) for name in names]
    return files


def read_folder(folder: Path) -> list[bytes]:
    """All files of a folder. Raises ImageError if there is none."""
    files = [path.read_bytes() for path in sorted(folder.glob("*")) if path.is_file()]
    if not files:
        raise ImageError(f"{folder}: holds no files; name a folder of images", "not_found")
    return files


def to_jpeg(picture: Image.Image, quality: int) -> bytes:
    """A JPEG file with 4:2:0 subsampling, as phones write it."""
    buffer = io.BytesIO()
    picture.save(buffer, "JPEG", quality=quality, subsampling="4:2:0")
    return buffer.getvalue()


def machine() -> dict:
    """What the numbers depend on besides the code."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return {"device": _cpu_name(), "cores": cores, "load": round(psutil.getloadavg()[0], 2),
            "memory_gb": round(psutil.virtual_memory().total / 1e9, 1), "platform": platform.platform(),
            "python": platform.python_version()}


def facts(guard: Guard, threads: int, images: int) -> dict:
    bundle = guard.bundle
    return {"bundle": f"{bundle.name} {bundle.version}", "bundle_sha256": bundle.sha256,
            "quantization": bundle.manifest.get("quantization"), "providers": guard.engine.providers,
            "policy": guard.policy.name, "policy_sha256": guard.policy.sha256, "rules": len(guard.policy.rules),
            "threads": threads, "images": images}


def table(result: dict) -> Table:
    """What a person wants to know of `result`; the rest is in the JSON."""
    shown = Table("check, ms", title=f"{result['bundle']}, policy {result['policy']} ({result['rules']} rules)",
                  title_justify="left")
    for percentile in PERCENTILES:
        shown.add_column(f"p{percentile}", justify="right")
    for stage, values in result["latency_ms"].items():
        shown.add_row(stage, *(f"{value:.1f}" for value in values.values()), style="bold" if stage == "total" else "")
    return shown


def _small_jpeg(path: Path) -> bytes:
    with Image.open(path) as photo:
        small = photo.convert("RGB")
    small.thumbnail((SIDE, SIDE))
    return to_jpeg(small, QUALITY)


def _cpu_name() -> str:
    """Linux knows the name of the model, platform.processor() often only the architecture."""
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text(encoding="utf-8").splitlines() if cpuinfo.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


if __name__ == "__main__":
    typer.run(main)
