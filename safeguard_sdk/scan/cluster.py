"""A scan on many machines with Ray Data: a guard in each actor, the same rows, the same way to go on. Extra `ray`.

One task, on the machine that the scan was started on, goes through the sources and the ledger; actors read, decode and
judge what it finds; rows stream back and are written here. Each machine needs safeguard, the bundle at the same path,
and the files at the same paths; members of archives travel as bytes.
"""

from __future__ import annotations

import json
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pyarrow
import ray
from ray.data import ActorPoolStrategy, Datasource
from ray.data.block import BlockMetadata
from ray.data.datasource import ReadTask

from safeguard_sdk.errors import ImageError
from safeguard_sdk.guard import Guard
from safeguard_sdk.policy import Policy
from safeguard_sdk.scan.item import Item
from safeguard_sdk.scan.ledger import Ledger
from safeguard_sdk.scan.options import Options, Progress
from safeguard_sdk.scan.output import ScanFolder
from safeguard_sdk.scan.pipeline import Pipeline
from safeguard_sdk.scan.rows import Hashes, Row, rows_in, schema
from safeguard_sdk.scan.run import claimed, ledger_of
from safeguard_sdk.scan.sources import Sources, reachable

BLOCK_ITEMS = 64         # go to an actor at a time …
BLOCK_BYTES = 64 << 20   # … or as many as hold this
FOUND = "found.json"     # how the read task, on this machine, tells what it has passed over and gone through
ITEMS = pyarrow.schema([("id", pyarrow.binary()), ("path", pyarrow.binary()), ("member", pyarrow.binary()),
                        ("data", pyarrow.large_binary()), ("kind", pyarrow.string()), ("failure", pyarrow.string())])


def judge_on_cluster(guard: Guard, sources: Sources, folder: ScanFolder, options: Options, progress: Progress,
                     address: str | None, tick: Callable[[], None]) -> None:
    """Judge all items that have no row in the folder yet. Equal files are judged once in each block only.

    address  of a Ray cluster; None starts Ray on this machine
    """
    started_here = not ray.is_initialized()
    if started_here:
        ray.init(address=address, log_to_driver=False, logging_level="ERROR")
    try:
        here = {"ray.io/node-id": ray.get_runtime_context().get_node_id()}
        ray.data.DataContext.get_current().enable_progress_bars = False
        items = ray.data.read_datasource(
            _Items(sources, folder.path, options), override_num_blocks=1, num_cpus=0,
            label_selector=here)
        rows = items.map_batches(
            _Judge, batch_format="pyarrow", batch_size=BLOCK_ITEMS, num_cpus=1,
            compute=ActorPoolStrategy(size=options.actors or max(1, int(ray.cluster_resources()["CPU"]) - 1)),
            fn_constructor_args=(guard.policy.to_yaml(), str(guard.bundle.path), options))
        (folder.path / FOUND).unlink(missing_ok=True)
        _write(rows.iter_batches(batch_format="pyarrow", batch_size=None), folder, options, progress, tick)
        found = json.loads((folder.path / FOUND).read_text(encoding="utf-8"))
        sources.skipped.update(found["skipped"])
        sources.retried = set(found["retried"])
        (folder.path / FOUND).unlink()
    finally:
        if started_here:
            ray.shutdown()


def _write(tables: Iterator[pyarrow.Table], folder: ScanFolder, options: Options, progress: Progress,
           tick: Callable[[], None]) -> None:
    waiting: list[Row] = []
    began = time.monotonic()
    for table in tables:
        for row in rows_in(table):
            waiting.append(row)
            progress.add(row["label"])
        if len(waiting) >= options.part_rows or waiting and time.monotonic() - began >= options.part_seconds:
            folder.add(waiting)
            waiting, began = [], time.monotonic()
        tick()
    if waiting:
        folder.add(waiting)


class _Items(Datasource):
    """One read task that yields the items without a row, block by block as they are asked for."""

    def __init__(self, sources: Sources, out: Path, options: Options) -> None:
        self._arguments = sources, out, options

    def estimate_inmemory_data_size(self) -> int | None:
        return None

    def get_read_tasks(self, parallelism: int, per_task_row_limit: int | None = None,
                       data_context: object = None) -> list[ReadTask]:
        arguments = self._arguments
        return [ReadTask(lambda: _blocks(*arguments), BlockMetadata(None, None, None), schema=ITEMS)]


def _blocks(sources: Sources, out: Path, options: Options) -> Iterator[pyarrow.Table]:
    progress = Progress()
    with ledger_of(ScanFolder.open(out), options, progress) as ledger:
        block, size = [], 0
        for item, identity in claimed(sources, ledger, options, progress):
            failure = item.failure
            block.append({"id": identity, "path": item.path.encode("utf-8", "surrogatepass"),
                          "member": item.member and item.member.encode("utf-8", "surrogatepass"), "data": item.data,
                          "kind": failure and failure.kind, "failure": failure and str(failure)})
            size += len(item.data or b"")
            if len(block) == BLOCK_ITEMS or size >= BLOCK_BYTES:
                yield pyarrow.Table.from_pylist(block, schema=ITEMS)
                block, size = [], 0
        if block:
            yield pyarrow.Table.from_pylist(block, schema=ITEMS)
    found = {"skipped": sources.skipped, "retried": sorted(sources.retried)}
    (out / FOUND).write_text(json.dumps(found), encoding="utf-8")


class _Judge:
    """An actor: a guard, and a pipeline of its own for each block."""

    def __init__(self, policy: str, bundle: str, options: Options) -> None:
        self._guard = Guard(Policy.from_yaml(policy), bundle)
        self._options = replace(options, part_rows=2 * BLOCK_ITEMS)

    def __call__(self, block: pyarrow.Table) -> pyarrow.Table:
        collected = _Collected(self._guard)
        with tempfile.TemporaryDirectory() as place:
            ledger = Ledger(Path(place) / "ledger.sqlite")
            try:
                items = [(_item(one), one["id"]) for one in block.to_pylist()]
                Pipeline(self._guard, collected, ledger, self._options, Progress()).run(items)
            finally:
                ledger.close()
        return pyarrow.Table.from_pylist(collected.rows, schema=schema())


class _Collected:
    """Rows of one block."""

    def __init__(self, guard: Guard) -> None:
        self.hashes = Hashes.of(guard)
        self.rows: list[Row] = []

    def add(self, rows: list[Row], embeddings: bytes | None = None) -> None:
        self.rows += rows


def _item(row: dict) -> Item:
    path = row["path"].decode("utf-8", "surrogatepass")
    member = None if row["member"] is None else row["member"].decode("utf-8", "surrogatepass")
    failure = None if row["failure"] is None else ImageError(row["failure"], row["kind"])
    return reachable(Item(path, member, row["data"], failure=failure))
