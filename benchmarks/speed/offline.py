"""Offline: everything is there at once. Images a second of `check_many` by batch size, and of a scan of files."""

from __future__ import annotations

import itertools
import tempfile
import time
from pathlib import Path

from benchmarks.speed.photos import until
from benchmarks.speed.power import Meter, Reader
from benchmarks.speed.statistics import percentiles, rate
from safeguard_sdk import Guard
from safeguard_sdk.scan import Options, scan

LEAST_SCANNED, MOST_SCANNED = 32, 5000


def offline(guard: Guard, files: list[bytes], batches: list[int], seconds: float, readers: dict[str, Reader]
            ) -> list[dict]:
    """Throughput of `check_many` for each batch size, decoding included, and how long a batch takes."""
    return [_one(guard, files, batch, seconds, readers) for batch in batches]


def scan_rate(guard: Guard, files: list[bytes], expected: float, seconds: float) -> dict:
    """Images a second of a whole scan: files read, decoded in other processes, judged, rows on the disk.

    expected  images a second, for as many files as that takes `seconds`
    """
    count = min(MOST_SCANNED, max(LEAST_SCANNED, round(expected * seconds)))
    with tempfile.TemporaryDirectory() as place:
        photos = Path(place) / "photos"
        photos.mkdir()
        for number, file in zip(range(count), itertools.cycle(files), strict=False):
            data = file + number.to_bytes(8, "big")  # after the image's end: another file, the same picture
            (photos / f"{number:06}.jpg").write_bytes(data)
        summary = scan(guard, [photos], Path(place) / "out", Options())
    run = summary["last_run"]
    return {"images": count, "failed": summary["failed"], "img_per_s": run["images_per_second"],
            "engine_busy": round(run["engine_seconds"] / run["seconds"], 3)}


def _one(guard: Guard, files: list[bytes], batch: int, seconds: float, readers: dict[str, Reader]) -> dict:
    warm = list(itertools.islice(itertools.cycle(files), batch))
    for _ in guard.check_many(warm, batch):
        pass
    counts, took = [], []
    with Meter(readers) as meter:
        started, done = time.perf_counter(), 0
        for _ in guard.check_many(until(seconds, files), batch):
            done += 1
            if done == batch:
                now = time.perf_counter()
                counts.append(done)
                took.append(now - started)
                started, done = now, 0
        if done:  # the last batch was not full
            counts.append(done)
            took.append(time.perf_counter() - started)
    return {"batch": batch, "judged": sum(counts), "img_per_s": rate(counts, took).as_json(),
            "batch_ms": percentiles([one * 1000 for one in took]), "energy": meter.energy(sum(counts))}
