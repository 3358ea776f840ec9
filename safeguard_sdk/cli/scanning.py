"""`safeguard scan`, `merge` and `diff`: large archives, one row an image."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from safeguard_sdk import Guard, ScanError
from safeguard_sdk.cli.options import (
    BundleOption,
    EnginesOption,
    JsonOption,
    PoliciesOption,
    ProviderOption,
    one_policy,
)
from safeguard_sdk.cli.printing import COLOURS, count, readable_errors


def scan(
    sources: Annotated[list[str] | None, typer.Argument(
        metavar="SOURCE…", help="Folders, globs, images, zip, tar, parquet, CSV, JSONL, lists, URLs; - for a list on "
                                "stdin.")] = None,
    policy: PoliciesOption = ...,
    out: Annotated[Path, typer.Option(metavar="DIR", help="Folder for the rows; run again to go on.")] = ...,
    bundle: BundleOption = None,
    column: Annotated[str | None, typer.Option(help="Of tables: which holds the image or its path.")] = None,
    jsonl: Annotated[bool, typer.Option("--jsonl", help="Rows as JSON lines in place of parquet.")] = False,
    retry_failed: Annotated[bool, typer.Option("--retry-failed", help="Try again what failed before.")] = False,
    rescan: Annotated[Path | None, typer.Option(metavar="OLD_DIR", help="In place of sources: a scan made with "
                                                "--cache-embeddings, to judge again without decoding.")] = None,
    cache_embeddings: Annotated[bool, typer.Option("--cache-embeddings", help="Keep what --rescan needs.")] = False,
    near_duplicates: Annotated[bool, typer.Option("--near-duplicates", help="Also find images that are nearly the "
                                                  "same, by PDQ.")] = False,
    frames: Annotated[int, typer.Option(min=1, help="Frames to judge of an animation; the gravest counts.")] = 1,
    video: Annotated[bool, typer.Option("--video", help="Judge videos too, as many frames of each as --frames says.")
                     ] = False,
    ray: Annotated[str | None, typer.Option(metavar="ADDRESS", help="Judge on a Ray cluster; local for Ray on this "
                                            "machine.")] = None,
    shard: Annotated[str, typer.Option(metavar="I/N", help="Judge the I-th of N shares; see merge.")] = "1/1",
    thumbnails: Annotated[bool, typer.Option(help="Keep small pictures of what is flagged, for the report.")] = True,
    provider: ProviderOption = "cpu",
    engines: EnginesOption = None,
    workers: Annotated[int, typer.Option(min=0, help="Decoding processes; 0 for one a core.")] = 0,
    batch_size: Annotated[int, typer.Option(min=1, help="Images the engine takes at a time.")] = 16,
    max_rate: Annotated[float | None, typer.Option(min=0.01, help="Images a second, at most.")] = None,
    timeout: Annotated[float, typer.Option(min=0.1, help="Seconds that decoding an image may take.")] = 30,
    memory: Annotated[int, typer.Option(min=64, help="MiB that decoding an image may take (Linux).")] = 2048,
) -> None:
    """Judge every image of large archives, one row each; interrupted at any moment, it goes on where it was.

    Exit status: 0 all safe, 1 something unsafe or to review, 2 something failed.

    Example: safeguard scan photos/ old.zip --policy general --out out
    """
    from safeguard_sdk.scan import Limits, Options, live  # pyarrow and its like
    from safeguard_sdk.scan import rescan as rescan_old
    from safeguard_sdk.scan import scan as scan_sources
    from safeguard_sdk.scan.run import refuse_beside_rescan
    with readable_errors():
        options = Options(
            format="jsonl" if jsonl else "parquet", frames=frames, shard=_share(shard), thumbnails=thumbnails,
            cache_embeddings=cache_embeddings, near_duplicates=near_duplicates, batch_size=batch_size,
            workers=workers, limits=Limits(timeout, memory << 20), max_rate=max_rate)
        if bool(sources) == (rescan is not None):
            raise ScanError("name what to scan, or with --rescan a folder that was scanned; one of the two")
        if rescan is not None:
            refuse_beside_rescan({"--column": column is not None, "--retry-failed": retry_failed, "--video": video,
                                  "--ray": ray is not None})
        if ray is not None and (provider != "cpu" or engines is not None):
            raise ScanError("--ray judges on the CPUs of its cluster; leave out --provider and --engines")
        guard = Guard(one_policy(policy), bundle, provider=provider, engines=engines)
        with live.LiveView() as view:
            if rescan is not None:
                summary = rescan_old(guard, rescan, out, options, watch=view.show)
            else:
                summary = scan_sources(guard, sources, out, options, column=column, retry_failed=retry_failed,
                                       videos=video, cluster=ray, watch=view.show)
        _print_summary(summary, out)


def merge(
    out: Annotated[Path, typer.Argument(metavar="OUT", help="A new folder.")],
    shards: Annotated[list[Path], typer.Argument(metavar="DIR…", help="All shares of one scan, finished.")],
) -> None:
    """Join the shares of a scan that was split with --shard. Exit status as of scan.

    Example: safeguard merge out out-1 out-2 out-3
    """
    from safeguard_sdk.scan.merge import merge_shards
    with readable_errors():
        _print_summary(merge_shards(out, shards), out)


def diff(
    old: Annotated[Path, typer.Argument(metavar="OLD", help="Folder of a scan.")],
    new: Annotated[Path, typer.Argument(metavar="NEW", help="Folder of another scan of the same images.")],
    html: Annotated[Path | None, typer.Option(metavar="FILE", help="Also write a page with every change.")] = None,
    as_json: JsonOption = False,
) -> None:
    """Say which verdicts changed from one scan to another, and how.

    Exit status: 0 none changed, 1 some did or are in one of the two only, 2 a folder cannot be read.

    Example: safeguard diff out-2024 out-2025 --html changes.html
    """
    from safeguard_sdk.scan.diff import compare_scans
    with readable_errors():
        changes = compare_scans(old, new)
        for line in changes.as_json() if as_json else changes.as_text():
            typer.echo(line)
        if html is not None:
            changes.write_html(html)
        raise typer.Exit(1 if changes.total else 0)


def _share(text: str) -> tuple[int, int]:
    """ "2/8" → (2, 8). Raises ScanError."""
    share, _, of = text.partition("/")
    if not (share.isdecimal() and of.isdecimal() and 1 <= int(share) <= int(of)):
        raise ScanError(f"--shard is {text!r}, must be I/N with I from 1 to N, such as 1/8")
    return int(share), int(of)


def _print_summary(summary: dict, out: Path) -> None:
    """Says what was found and exits with the status that goes with it."""
    counts = ", ".join(f"{summary[label]:,} {label}" for label in (*COLOURS, "failed"))
    run = summary["last_run"]
    typer.echo(f"{count(summary['rows'], 'image')}: {counts}\n{run['images_per_second']:g} img/s in this run; "
               f"rows in {out / 'parts'}, report in {out / 'report.html'}")
    if (found := summary["near_duplicates"]) is not None:
        typer.echo(f"{count(found['groups'], 'group')} of near duplicates, {count(found['images'], 'image')}: "
                   f"{out / found['file']}")
    raise typer.Exit(2 if summary["failed"] else 1 if summary["review"] + summary["unsafe"] else 0)
