"""A scan from its first look at the output folder to its summary."""

from __future__ import annotations

import importlib.util
import threading
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path

from safeguard_sdk.errors import ScanError
from safeguard_sdk.guard import Guard
from safeguard_sdk.scan.archives import READ_ERRORS
from safeguard_sdk.scan.embeddings import CachedImages, kept_in
from safeguard_sdk.scan.finish import finish
from safeguard_sdk.scan.item import Item
from safeguard_sdk.scan.job import Job
from safeguard_sdk.scan.ledger import Ledger, Outcome
from safeguard_sdk.scan.options import Options, Progress
from safeguard_sdk.scan.output import PARTS, ScanFolder
from safeguard_sdk.scan.pdq import Pdq
from safeguard_sdk.scan.pipeline import Pipeline
from safeguard_sdk.scan.rows import NAMES, Hashes, Row, item_name
from safeguard_sdk.scan.sources import STDIN, Sources

LEDGER = "ledger.sqlite"
KNOWN_BY = ("id", "sha256", "label", "score", "rule", "rules", "frame", "thumbnail", "failure_kind", "failure", "pdq",
            "pdq_quality", *NAMES)


def scan(guard: Guard, sources: Sequence[str | Path], out: str | Path, options: Options | None = None, *,
         column: str | None = None, retry_failed: bool = False, videos: bool = False, cluster: str | None = None,
         watch: Callable[[Progress], None] = lambda progress: None) -> dict:
    """Judge every image of the sources and write a row for each into the folder `out`; returns the summary.

    What is in `out` already is not judged again, so a scan that was stopped, by whatever, goes on where it was.

    sources       as Sources takes them
    column        of tables: which holds the image or its path
    retry_failed  images that failed in an earlier run are tried again
    videos        judge these too: `options.frames` of each
    cluster       address of a Ray cluster, or "local" for Ray on this machine; equal files are then judged once in each
                  block of items, and not once for all
    watch         is called ten times a second with the progress
    raises        ScanError: sources that do not exist, a folder of another scan, a full disk
    """
    options = options or Options()
    if videos:
        _expect_installed("av", "videos need PyAV", "video")
    if options.near_duplicates:
        _expect_installed("pdqhash", "near duplicates need pdqhash", "duplicates")
    found = Sources(sources, column, skip=out, videos=videos)
    if cluster is not None:
        _expect_fit_for_cluster(found, options)
    facts = _facts(guard, options.settings, {"sources": list(found.sources)})
    with ScanFolder.begin(Path(out), facts) as folder:
        if retry_failed:
            found.retried = folder.take_failures_out()
        progress = Progress()
        if cluster is not None:
            _judge_on(cluster, guard, found, folder, options, progress, lambda: watch(progress))
        else:
            with ledger_of(folder, options, progress) as ledger:
                threading.Thread(target=_count, args=(found, options.shard[1], progress), daemon=True).start()
                Pipeline(guard, folder, ledger, options, progress).run(
                    claimed(found, ledger, options, progress), lambda: watch(progress))
        if retry_failed:
            folder.put_failures_back(found.retried)
        return finish(folder, progress, found.skipped)


def rescan(guard: Guard, old: str | Path, out: str | Path, options: Options | None = None, *,
           watch: Callable[[Progress], None] = lambda progress: None) -> dict:
    """Judge what an earlier scan has kept the embeddings of, by another policy; nothing is read or decoded.

    Failures of the earlier scan are failures again; its frames and its share are those of the new one. Everything else
    is as in `scan`.

    old      a finished scan with `cache_embeddings`, by the same bundle
    options  without shard, frames and max_rate
    raises   ScanError
    """
    options = options or Options()
    refuse_beside_rescan({"--shard": options.shard != (1, 1), "--frames": options.frames != 1,
                          "--max-rate": options.max_rate is not None})
    with ScanFolder.open_finished(Path(old)) as source:
        if source.hashes.bundle_sha256 != guard.bundle.sha256:
            raise ScanError(f"{old}: its embeddings are of another bundle, {source.hashes.bundle_sha256:.12}, this is "
                            f"{guard.bundle.sha256:.12}; scan again from the images")
        cached = CachedImages(source, guard.engine, Path(out) / "embeddings.sqlite", options)
        kept = {name: source.facts["settings"][name] for name in ("frames", "shard")}
        with ScanFolder.begin(Path(out), _facts(guard, options.settings | kept, {"rescan_of": str(old)})) as folder:
            progress = Progress(total=sum(part.rows for part in source.parts))
            with ledger_of(folder, options, progress) as ledger, cached as images:
                Pipeline(guard, folder, ledger, options, progress).run_ready(
                    images.ready(ledger, progress), lambda: watch(progress))
            return finish(folder, progress, Counter())


def refuse_beside_rescan(given: dict[str, bool]) -> None:
    """Raises ScanError if any of these options is given: they say what is read, and how."""
    if refused := [option for option, is_given in given.items() if is_given]:
        raise ScanError(f"--rescan judges all that the old scan has kept and reads nothing; leave out "
                        f"{', '.join(refused)}")


def _expect_installed(module: str, need: str, extra: str) -> None:
    if importlib.util.find_spec(module) is None:
        raise ScanError(f"{need}; install it: pip install 'safeguard[{extra}]'")


def _expect_fit_for_cluster(found: Sources, options: Options) -> None:
    if options.cache_embeddings or options.max_rate is not None or STDIN in found.sources:
        raise ScanError("--ray does not go with --cache-embeddings, --max-rate or a list on stdin; leave them out")
    try:
        import safeguard_sdk.scan.cluster  # noqa: F401 — before anything is written
    except ImportError as error:
        raise ScanError(f"Ray cannot be imported ({error}); install it: pip install 'safeguard[ray]'") from error


def _judge_on(cluster: str, guard: Guard, found: Sources, folder: ScanFolder, options: Options, progress: Progress,
              tick: Callable[[], None]) -> None:
    from safeguard_sdk.scan.cluster import judge_on_cluster
    progress.before = sum(part.rows for part in folder.parts)
    judge_on_cluster(guard, found, folder, options, progress, None if cluster == "local" else cluster, tick)


def claimed(sources: Iterable[Item], ledger: Ledger[Job], options: Options,
            progress: Progress) -> Iterator[tuple[Item, bytes]]:
    """The items of this share that have no row yet, with their identities."""
    share, of = options.shard
    for item in sources:
        if of > 1 and int.from_bytes(item.identity()) % of != share - 1:
            continue
        progress.found += 1
        if (identity := ledger.claim(item)) is not None:
            yield item, identity
    progress.total = progress.found


@contextmanager
def ledger_of(folder: ScanFolder, options: Options, progress: Progress) -> Iterator[Ledger[Job]]:
    """A ledger of all rows in the folder."""
    ledger: Ledger[Job] = Ledger(folder.path / LEDGER)
    try:
        for part in folder.parts:
            # An outcome is used together with its embedding only: a lost part may have taken that of an equal file.
            kept = kept_in(folder.embeddings_file(part)) if options.cache_embeddings else None
            for row in folder.format.read(folder.path / PARTS / part.file, KNOWN_BY):
                known = kept is None or row["label"] is None or row["sha256"] in kept
                ledger.load(row, _outcome_of(row) if known else None)
                progress.before += 1
        yield ledger
    finally:
        ledger.close()


def _outcome_of(row: Row) -> Outcome:
    failure = row["failure"]
    if failure is not None:
        failure = failure.removeprefix(f"{item_name(row)}: ")
    return Outcome(row["label"], row["score"], row["rule"], row["rules"], row["frame"], row["thumbnail"],
                   row["failure_kind"], failure, Pdq.of_row(row))


def _facts(guard: Guard, settings: dict, source: dict) -> dict:
    return {"hashes": asdict(Hashes.of(guard)), "settings": settings, **source,
            "policy": {"name": guard.policy.name, "version": guard.policy.version, "yaml": guard.policy.to_yaml()},
            "bundle": {"name": guard.bundle.name, "version": guard.bundle.version}}


def _count(sources: Sources, shares: int, progress: Progress) -> None:
    """How many items this share has, about, for the time that is left; the reader finds the true number later."""
    try:
        count = sources.count()
    except READ_ERRORS:  # it is only a guess, and the reader will say what is wrong
        return
    if progress.total is None and count is not None:
        progress.total = round(count / shares)
