"""What a scan costs beyond its engine, and how its memory grows with the archive.

    python -m benchmarks.scan PHOTOS --count 300                 img/s of a scan against the engine alone
    python -m benchmarks.scan --entries 10000 --entries 100000   peak memory of each, every entry decoded and judged
    python -m benchmarks.scan --hashes 100000 --hashes 400000    time and memory of grouping near duplicates

PHOTOS is a folder of photos. For the memory, each entry is a picture of 64 px in a tar, with a name and some bytes of
its own: another file for the ledger, which is decoded and judged and has a row. The engine is one that costs nothing,
so that what is left is the scan, to the end of its report. What this leaves out: the weights of a model, and photos of
many megapixels, which the limits of a decoder bound. The last line is JSON.
"""

from __future__ import annotations

import io
import itertools
import json
import os
import subprocess
import sys
import tarfile
import tempfile
import threading
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Annotated

import numpy as np
import psutil
import typer
from PIL import Image

from safeguard_sdk import Bundle, Guard, Policy
from safeguard_sdk.engine import ImageEmbedding, Prefix
from safeguard_sdk.guard import prepare
from safeguard_sdk.scan import Options, scan
from safeguard_sdk.scan.near import groups_of

BATCH_SIZE = 16
SIDE = 64         # pixels of an entry, and of what the engine that costs nothing is given
MIB = 1 << 20


def main(
    photos: Annotated[Path | None, typer.Argument(exists=True, file_okay=False)] = None,
    count: Annotated[int, typer.Option(help="Photos to judge.")] = 300,
    policy: Annotated[str, typer.Option(help="Policy file or name.")] = "general",
    entries: Annotated[list[int] | None, typer.Option(help="Sizes of archives whose peak memory is wanted.")] = None,
    hashes: Annotated[list[int] | None, typer.Option(help="Numbers of PDQ hashes to group.")] = None,
    alone: Annotated[str | None, typer.Option(hidden=True)] = None,
) -> None:
    if alone is not None:
        kind, _, size = alone.partition("=")
        print(json.dumps(ALONE[kind](int(size))))
        return
    facts = {"system": "safeguard scan", "cores": Options().workers, "load": os.getloadavg()[0]}
    if photos is not None:
        facts["throughput"] = throughput(photos, count, Policy.load(policy))
    for kind, sizes in (("memory", entries), ("grouping", hashes)):
        if sizes:
            facts[kind] = [in_a_fresh_process(kind, size) for size in sizes]
    for name in ("throughput", *ALONE):
        print(name, json.dumps(facts.get(name), indent=1))
    print(json.dumps(facts))


def throughput(photos: Path, count: int, policy: Policy) -> dict:
    """img/s of the engine on prepared images, and of a whole scan of the files."""
    guard = Guard(policy)
    files = list(itertools.islice((path for path in sorted(photos.rglob("*")) if path.suffix == ".jpg"), count))
    values = [prepare(path, guard.bundle.geometry)[0] for path in files[:4 * BATCH_SIZE]]
    batches = [values[at:at + BATCH_SIZE] for at in range(0, len(values), BATCH_SIZE)]
    guard.judge(guard.engine.encode(batches[0]))  # warm
    rates = []
    with tempfile.TemporaryDirectory() as out:
        started = time.perf_counter()
        for batch in batches:
            guard.judge(guard.engine.encode(batch))
        rates.append(len(values) / (time.perf_counter() - started))
        summary = scan(guard, files, Path(out) / "scan", Options(batch_size=BATCH_SIZE))
        started = time.perf_counter()
        for batch in batches:
            guard.judge(guard.engine.encode(batch))
        rates.append(len(values) / (time.perf_counter() - started))
    run = summary["last_run"]
    engine = sum(rates) / len(rates)
    return {"images": len(files), "scan_img_per_s": run["images_per_second"], "engine_img_per_s": round(engine, 2),
            "engine_before_and_after": [round(rate, 2) for rate in rates],
            "ratio": round(run["images_per_second"] / engine, 3),
            "engine_busy": round(run["engine_seconds"] / run["seconds"], 3)}


def in_a_fresh_process(kind: str, size: int) -> dict:
    command = [sys.executable, "-m", "benchmarks.scan", "--alone", f"{kind}={size}"]
    return json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout)


def peak_memory(size: int) -> dict:
    """Peak resident memory of a scan of `size` entries: of the process itself, and of all its decoders together."""
    guard = _FreeGuard(Policy.packaged("L2"))
    with tempfile.TemporaryDirectory() as place:
        archive = Path(place) / "photos.tar"
        _write_archive(archive, size)
        with Peak() as peak:
            summary = scan(guard, [archive], Path(place) / "out", Options())
    return {"entries": size, "peak_mib": round(peak.own / MIB, 1), "decoders_mib": round(peak.children / MIB, 1),
            "rows": summary["rows"], "failed": summary["failed"], "img_per_s": summary["last_run"]["images_per_second"]}


def grouping(size: int) -> dict:
    """Random hashes, of which none is near another, so that all work is in finding that."""
    hashes = np.random.default_rng(0).integers(0, 1 << 64, (size, 4), dtype=np.uint64)
    before = psutil.Process().memory_info().rss - hashes.nbytes
    started = time.perf_counter()
    with Peak() as peak:
        groups = len(np.unique(groups_of(hashes)))
    return {"hashes": size, "groups": groups, "seconds": round(time.perf_counter() - started, 2),
            "bytes_a_hash": round((peak.own - before) / size)}


ALONE = {"memory": peak_memory, "grouping": grouping}  # each size in a process of its own


class Peak:
    """The most resident bytes while the context lasts, looked at twenty times a second."""

    own = children = 0  # of this process; of those that it has started, together

    def __enter__(self) -> Peak:
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._watch)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()

    def _watch(self) -> None:
        this = psutil.Process()
        while not self._over.wait(0.05):
            self.own = max(self.own, this.memory_info().rss)
            self.children = max(self.children, sum(map(_rss, this.children(recursive=True))))


def _rss(process: psutil.Process) -> int:
    try:
        return process.memory_info().rss
    except psutil.NoSuchProcess:
        return 0


def _write_archive(path: Path, size: int) -> None:
    noise = np.random.default_rng(0)
    buffer = io.BytesIO()
    Image.fromarray(noise.integers(0, 256, (SIDE, SIDE, 3), dtype=np.uint8)).save(buffer, "JPEG")
    with tarfile.open(path, "w") as archive:
        for number in range(size):
            data = buffer.getvalue() + number.to_bytes(8)  # after the end of the image: another file, the same picture
            entry = tarfile.TarInfo(f"{number:09}.jpg")
            entry.size = len(data)
            archive.addfile(entry, io.BytesIO(data))
            archive.members.clear()


class _FreeEngine:
    """Scores without looking."""

    def __init__(self, bundle: Bundle) -> None:
        self.bundle = bundle

    def encode(self, pixel_values: np.ndarray) -> list[ImageEmbedding]:
        return [ImageEmbedding(np.zeros((1, 1), np.float32))] * len(pixel_values)

    def score(self, prefix: Prefix, images: Sequence[ImageEmbedding]) -> np.ndarray:
        return np.zeros((len(images), 2), np.float32)


class _FreeGuard(Guard):
    def __init__(self, policy: Policy) -> None:
        bundle = Bundle.embedded()
        self.policy, self.bundle = policy, replace(bundle, geometry=replace(bundle.geometry, side=SIDE))
        self.engine = _FreeEngine(self.bundle)
        self._prefixes = {rule.id: Prefix((), 0) for rule in policy.rules}


if __name__ == "__main__":
    typer.run(main)
