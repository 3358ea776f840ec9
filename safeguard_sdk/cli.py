"""The command `safeguard`: parse, call the library, print.

    safeguard check photo.jpg --policy general
    safeguard scan photos/ --policy general --out out
    safeguard policy check shop.yaml
    safeguard bundle verify bundles/safeguard-vl
    safeguard info

Verdicts and facts go to stdout, errors to stderr in one line each. Exit status, as virus scanners have it: 0 all safe,
1 something unsafe or to review, 2 something failed, 130 interrupted. docs/cli.md shows the output.
"""

from __future__ import annotations

import dataclasses
import importlib.metadata
import json
import os
import platform
import sys
import textwrap
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import numpy as np
import typer

from safeguard_sdk import Bundle, Guard, Policy, PolicyError, Record, SafeguardError, ScanError, Verdict, __version__
from safeguard_sdk._fast import cpu_features
from safeguard_sdk.bundle import EMBEDDED
from safeguard_sdk.engine import open_engine
from safeguard_sdk.errors import ImageError
from safeguard_sdk.image import MAX_FILE_BYTES, jpeg_decoder
from safeguard_sdk.policy_review import review_policy

STDIN = "-"
COLOURS = {"safe": "green", "review": "yellow", "unsafe": "red"}
PACKAGES = ("numpy", "pillow", "tokenizers")
TRIAL_POLICY, TRIAL_IMAGE = "No weapons.", np.full((64, 96, 3), 128, np.uint8)  # of `bundle verify`
RUNTIMES = ("onnxruntime", "onnxruntime-gpu")  # distributions of the one module onnxruntime

PolicyOption = Annotated[str, typer.Option(metavar="FILE", help="Policy file, or the name of a packaged policy.")]
BundleOption = Annotated[Path | None, typer.Option(metavar="DIR", help="Folder of a bundle; default: nano.")]
JsonOption = Annotated[bool, typer.Option("--json", help="JSON, for programs.")]

app = typer.Typer(help="An offline image guard: says whether a photo breaks a policy in plain words.",
                  no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False)
policy_app = typer.Typer(help="Look at policies.", no_args_is_help=True)
app.add_typer(policy_app, name="policy")
bundle_app = typer.Typer(help="Look at bundles.", no_args_is_help=True)
app.add_typer(bundle_app, name="bundle")


@app.command()
def check(
    images: Annotated[list[str], typer.Argument(metavar="IMAGE…", help="Image files; - reads one image from stdin.")],
    policy: PolicyOption,
    bundle: BundleOption = None,
    as_json: JsonOption = False,
    explain: Annotated[bool, typer.Option("--explain", help="Say what each image was judged by.")] = False,
) -> None:
    """Judge every IMAGE by a policy, one line each.

    An image that cannot be judged is reported, and the others are judged.
    Exit status: 0 all safe, 1 something unsafe or to review, 2 something failed.

    Example: safeguard check upload.jpg --policy general
    """
    with _readable_errors():
        guard = Guard(Policy.load(policy), bundle)
        judge = guard.explain if explain else guard.check
        width = max(len(rule.id) for rule in guard.policy.rules)
        failed = found = False
        for path in images:
            record = _judge(path, judge)
            if record.failure is not None:
                failed = True
                _print_error(record.failure)
            elif record.verdict.label != "safe":
                found = True
            if as_json:
                rationale = {"rationale": record.verdict.rationale} if explain and record.verdict else {}
                typer.echo(json.dumps(record.as_json() | rationale))
            elif record.verdict:
                typer.echo(_line(record, width))
        raise typer.Exit(2 if failed else 1 if found else 0)


@app.command()
def scan(
    sources: Annotated[list[str] | None, typer.Argument(
        metavar="SOURCE…", help="Folders, globs, images, zip, tar, parquet, CSV, JSONL, lists, URLs; - for a list on "
                                "stdin.")] = None,
    policy: PolicyOption = ...,
    out: Annotated[Path, typer.Option(metavar="DIR", help="Folder for the rows; run again to go on.")] = ...,
    bundle: BundleOption = None,
    column: Annotated[str | None, typer.Option(help="Of tables: which holds the image or its path.")] = None,
    jsonl: Annotated[bool, typer.Option("--jsonl", help="Rows as JSON lines in place of parquet.")] = False,
    retry_failed: Annotated[bool, typer.Option("--retry-failed", help="Try again what failed before.")] = False,
    rescan: Annotated[Path | None, typer.Option(metavar="OLD_DIR", help="In place of sources: a scan made with "
                                                "--cache-embeddings, to judge again without decoding.")] = None,
    cache_embeddings: Annotated[bool, typer.Option("--cache-embeddings", help="Keep what --rescan needs.")] = False,
    frames: Annotated[int, typer.Option(min=1, help="Frames to judge of an animation; the gravest counts.")] = 1,
    video: Annotated[bool, typer.Option("--video", help="Judge videos too, as many frames of each as --frames says.")
                     ] = False,
    ray: Annotated[str | None, typer.Option(metavar="ADDRESS", help="Judge on a Ray cluster; local for Ray on this "
                                            "machine.")] = None,
    shard: Annotated[str, typer.Option(metavar="I/N", help="Judge the I-th of N shares; see merge.")] = "1/1",
    thumbnails: Annotated[bool, typer.Option(help="Keep small pictures of what is flagged, for the report.")] = True,
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
    with _readable_errors():
        options = Options(
            format="jsonl" if jsonl else "parquet", frames=frames, shard=_share(shard), thumbnails=thumbnails,
            cache_embeddings=cache_embeddings, batch_size=batch_size, workers=workers,
            limits=Limits(timeout, memory << 20), max_rate=max_rate)
        if bool(sources) == (rescan is not None):
            raise ScanError("name what to scan, or with --rescan a folder that was scanned; one of the two")
        guard = Guard(Policy.load(policy), bundle)
        with live.LiveView() as view:
            if rescan is not None:
                summary = rescan_old(guard, rescan, out, options, watch=view.show)
            else:
                summary = scan_sources(guard, sources, out, options, column=column, retry_failed=retry_failed,
                                       videos=video, cluster=ray, watch=view.show)
        _print_summary(summary, out)


@app.command()
def merge(
    out: Annotated[Path, typer.Argument(metavar="OUT", help="A new folder.")],
    shards: Annotated[list[Path], typer.Argument(metavar="DIR…", help="All shares of one scan, finished.")],
) -> None:
    """Join the shares of a scan that was split with --shard. Exit status as of scan.

    Example: safeguard merge out out-1 out-2 out-3
    """
    from safeguard_sdk.scan.merge import merge_shards
    with _readable_errors():
        _print_summary(merge_shards(out, shards), out)


@app.command()
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
    with _readable_errors():
        changes = compare_scans(old, new)
        for line in changes.as_json() if as_json else changes.as_text():
            typer.echo(line)
        if html is not None:
            changes.write_html(html)
        raise typer.Exit(1 if changes.total else 0)


@policy_app.command("check")
def policy_check(
    file: Annotated[str, typer.Argument(metavar="FILE", help="Policy file, or the name of a packaged policy.")],
    bundle: BundleOption = None,
) -> None:
    """Show what the model reads of every rule, its length, and likely mistakes.

    Exit status: 0 the policy can be used, warnings or not; 2 it cannot.

    Example: safeguard policy check shop.yaml
    """
    with _readable_errors():
        policy = Policy.load(file)
        opened = Bundle.open(bundle or EMBEDDED)
        tokenizer, most = opened.read_tokenizer(), opened.max_policy_tokens

        def count_tokens(text: str) -> int:
            return len(tokenizer.encode(opened.style.prefix(text), add_special_tokens=False).ids)

        typer.echo(f"{policy.name}, version {policy.version}: {_count(len(policy.rules), 'rule')}, "
                   f"read by {opened.name} {opened.version}\nsha256 {policy.sha256}")
        for rule in policy.rules:
            review = f"review from {rule.review_at:g}, " if rule.review_at < rule.unsafe_at else ""
            recommended = opened.unsafe_at_of(rule.canonical_text)
            advice = "" if recommended is None else f" ({opened.name} recommends {recommended:.4g})"
            typer.secho(f"\n{rule.id}: {count_tokens(rule.canonical_text)} of {most} tokens, "
                        f"{review}unsafe from {rule.unsafe_at:g}{advice}", bold=True)
            typer.echo(textwrap.indent(opened.style.prefix(rule.canonical_text), "    "))
        findings = review_policy(policy, count_tokens, most)
        typer.echo(f"\n{_count(len(findings), 'warning')}")
        for finding in findings:
            typer.secho(f"warning: {finding}", fg="yellow")
        if too_long := [rule.id for rule in policy.rules if count_tokens(rule.canonical_text) > most]:
            raise PolicyError(f"{policy.name}: too long for {opened.name}, which reads {most} tokens of a rule: "
                              f"{', '.join(too_long)}; shorten them or split them")


@policy_app.command("list")
def policy_list() -> None:
    """List the packaged policies: name, start of the hash, rules.

    Example: safeguard policy list
    """
    with _readable_errors():
        for name in Policy.packaged_names():
            policy = Policy.packaged(name)
            typer.echo(f"{name:8} {policy.sha256[:12]}  {', '.join(rule.id for rule in policy.rules)}")


@bundle_app.command("info")
def bundle_info(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="Folder of a bundle.")],
    as_json: JsonOption = False,
) -> None:
    """Say what a bundle was made from, what it reads, and how close it is to its checkpoint. Nothing runs.

    Exit status: 0 every file is what the manifest says, 2 not.

    Example: safeguard bundle info bundles/safeguard-vl
    """
    with _readable_errors():
        opened = Bundle.open(folder)
        facts = _manifest_facts(opened) | {"prepares": dataclasses.asdict(opened.geometry),
                                           "files": {file["file"]: file["sha256"] for file in opened.manifest["files"]}}
        typer.echo(json.dumps(facts, indent=1) if as_json else "\n".join(_outline(facts)))


@bundle_app.command("verify")
def bundle_verify(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="Folder of a bundle.")],
    provider: Annotated[str, typer.Option(help="Where its graphs are to run: cpu, cuda or tensorrt.")] = "cpu",
) -> None:
    """Check every file by its hash, load every graph where it is to run, and judge one grey picture.

    Exit status: 0 all of it works, 2 something does not.

    Example: safeguard bundle verify bundles/safeguard-vl --provider cuda
    """
    with _readable_errors():
        opened = Bundle.open(folder)
        typer.echo(f"{_count(len(opened.manifest['files']), 'file')} as the manifest says, sha256 {opened.sha256}")
        guard = Guard(Policy.from_text(TRIAL_POLICY), opened, provider=provider)
        for graph, providers in guard.engine.providers.items():
            typer.echo(f"{graph}: {providers[0]}")
        verdict = guard.check(TRIAL_IMAGE)
        typer.echo(f"judges: a score of {verdict.score:.2f} in {sum(verdict.ms.values()):.0f} ms")


@app.command()
def info(bundle: BundleOption = None, as_json: JsonOption = False) -> None:
    """Say what runs here: versions, execution providers, CPU, bundle.

    Exit status: 0 if the bundle loads and runs, 2 if not.

    Example: safeguard info
    """
    with _readable_errors():
        facts = {"safeguard": __version__, "python": platform.python_version(), "platform": platform.platform(),
                 **{package: importlib.metadata.version(package) for package in PACKAGES},
                 "jpeg_decoder": jpeg_decoder(), "onnxruntime": _runtime(), "cpu_features": cpu_features(),
                 "bundle": None, "error": None}
        failure = None
        try:
            facts["bundle"] = _bundle_facts(Bundle.open(bundle or EMBEDDED))
        except SafeguardError as error:
            failure, facts["error"] = error, str(error)
        typer.echo(json.dumps(facts, indent=1) if as_json else "\n".join(_outline(facts)))
        if failure:
            raise failure


@app.callback()
def main(
    version: Annotated[bool, typer.Option("--version", is_eager=True, callback=_print_version,
                                          help="Print the version and exit.")] = False,
) -> None:
    for stream in (sys.stdout, sys.stderr):
        stream.reconfigure(errors="backslashreplace")  # a name that the terminal cannot show is no reason to stop


def _judge(path: str, judge: Callable[[str | bytes], Verdict]) -> Record:
    try:
        return Record(path, judge(_read_stdin() if path == STDIN else path))
    except ImageError as error:
        message = str(error).replace("<bytes>", "<stdin>", 1) if path == STDIN else str(error)
        return Record(path, None, message, error.kind)


def _read_stdin() -> bytes:
    data = sys.stdin.buffer.read(MAX_FILE_BYTES + 1)
    if len(data) > MAX_FILE_BYTES:
        raise ImageError(f"<stdin>: has over {MAX_FILE_BYTES} bytes; make it smaller", "too_large")
    return data


def _line(record: Record, width: int) -> str:
    """ "unsafe  0.94  weapons  upload.jpg", and under it the rationale if there is one."""
    verdict = record.verdict
    name = record.path if record.path.isprintable() else ascii(record.path)
    label = typer.style(f"{verdict.label:6}", fg=COLOURS[verdict.label])
    line = f"{label}  {verdict.score:.2f}  {verdict.rule or '':{width}}  {name}"
    return f"{line}\n        {verdict.rationale}" if verdict.rationale else line


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
    typer.echo(f"{_count(summary['rows'], 'image')}: {counts}\n{run['images_per_second']:g} img/s in this run; "
               f"rows in {out / 'parts'}, report in {out / 'report.html'}")
    raise typer.Exit(2 if summary["failed"] else 1 if summary["review"] + summary["unsafe"] else 0)


def _runtime() -> dict:
    """Which packages provide onnxruntime, and what their build can run on."""
    installed = {}
    for name in RUNTIMES:
        try:
            installed[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    try:
        import onnxruntime
    except ImportError as error:
        return {"packages": installed, "available_providers": [], "error": str(error)}
    return {"packages": installed, "available_providers": onnxruntime.get_available_providers(), "error": None}


def _bundle_facts(bundle: Bundle) -> dict:
    """Opens its sessions, to say where they really run."""
    return _manifest_facts(bundle) | {"providers": open_engine(bundle).providers}


def _manifest_facts(bundle: Bundle) -> dict:
    kept = ("base_model", "quantization", "calibration", "parity", "quality")
    return {"path": str(bundle.path), "name": bundle.name, "version": bundle.version, "sha256": bundle.sha256,
            "architecture": bundle.architecture,
            "prompt": {"style": bundle.style.name, "version": bundle.style.version, "sha256": bundle.style.sha256},
            "max_policy_tokens": bundle.max_policy_tokens, **{key: bundle.manifest.get(key) for key in kept}}


def _outline(facts: dict, indent: str = "") -> Iterator[str]:
    """Facts as lines, one each; those nested deeper than three levels are counted only."""
    for key, value in facts.items():
        name = key.replace("_", " ")
        if isinstance(value, dict) and len(indent) == 4:
            yield f"{indent}{name:{24 - len(indent)}} {len(value)} values, see --json"
        elif isinstance(value, dict) and value:
            yield f"{indent}{name}"
            yield from _outline(value, indent + "  ")
        else:
            yield f"{indent}{name:{24 - len(indent)}} {_shown(value)}"


def _shown(value: object) -> str:
    if value is None or value in ({}, []):
        return "none"
    if isinstance(value, list):
        return ", ".join(one["name"] if isinstance(one, dict) else str(one) for one in value)
    return str(value)


def _count(number: int, noun: str) -> str:
    return f"{number or 'no'} {noun}{'' if number == 1 else 's'}"


def _print_version(asked: bool) -> None:
    if asked:
        typer.echo(f"safeguard {__version__}")
        raise typer.Exit


def _print_error(message: str) -> None:
    typer.secho(f"error: {' '.join(message.splitlines())}", fg="red", err=True)


@contextmanager
def _readable_errors() -> Iterator[None]:
    """Known errors become one line and exit status 2; any other keeps its traceback."""
    try:
        yield
    except SafeguardError as error:
        _print_error(str(error))
        raise typer.Exit(2) from error
    except BrokenPipeError as error:  # `safeguard … | head`: nobody reads on, so not all was said
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # Python flushes once more when it ends
        raise typer.Exit(2) from error
    except KeyboardInterrupt as error:
        raise typer.Exit(130) from error
