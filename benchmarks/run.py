"""How fast a guard is on this machine, and whether that can be trusted.

    python benchmarks/run.py                                     nano and bundles/*, the policy general
    python benchmarks/run.py --policy shop.yaml --images photos  yours
    python benchmarks/run.py --peers                             others on the same photos, in turn
    python benchmarks/run.py --bundle a --bundle b --quality labelled    two bundles: F1 beside speed
    python benchmarks/run.py --check baseline.json               exit status 1 if a ratio has become worse
    python benchmarks/run.py --compare old.json new.json         two results; nothing is measured

Measures SingleStream, Offline and Server as MLPerf Inference has them (not an MLPerf result), cold start, policy
change, length of the policy, size of the image, memory, and energy where the machine tells. Prints tables, writes
results.json and report.html into --out. The last line is JSON. Needs the extras cpu (or gpu), demo and bench;
docs/performance.md says more.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Annotated

if __name__ == "__main__":
    sys.path[0] = str(Path(__file__).parents[1])  # the clone, in place of this folder

import typer
from rich.console import Console

from benchmarks.errors import BenchmarkError
from benchmarks.speed.compare import TOLERANCE, check, read_results, refuse_others
from benchmarks.speed.measure import Plan, measure
from benchmarks.speed.peers import PEERS, read_models
from benchmarks.speed.photos import describe, read_folder, sample_photos
from benchmarks.speed.quality import read_labelled
from benchmarks.speed.report import REPORT, RESULTS, write_report
from benchmarks.speed.systems import ENGINES, find_bundles
from benchmarks.speed.tables import show_check, show_comparison, show_results
from safeguard_sdk import Bundle, Policy
from safeguard_sdk.cli.printing import print_error, readable_errors

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
stderr = Console(stderr=True)


@app.command()
def main(
    bundle: Annotated[list[Path] | None, typer.Option(help="Folder of a bundle; may be repeated. Default: "
                                                           "nano and what lies in bundles/.")] = None,
    engine: Annotated[list[str] | None, typer.Option(help=f"{', '.join(ENGINES)}; may be repeated. Default: all that "
                                                          "run here.")] = None,
    images: Annotated[Path | None, typer.Option(help="Folder of images; default: sample photos.")] = None,
    policy: Annotated[str, typer.Option(help="Policy file or name of a packaged policy.")] = "general",
    batch: Annotated[str, typer.Option(help="Batch sizes of check_many.")] = "1,2,4,8,16",
    threads: Annotated[int, typer.Option(min=0, max=1024, help="Of the runtime; 0 for all cores.")] = 0,
    duration: Annotated[float, typer.Option(min=0.01, help="Seconds of each part of each scenario.")] = 10,
    bound: Annotated[float | None, typer.Option(min=0.001, help="Of the server's p99, in ms; default: 5 times the "
                                                                "median check.")] = None,
    peers: Annotated[bool, typer.Option("--peers", help=f"Measure {', '.join(PEERS)} too, where installed.")] = False,
    peer_model: Annotated[list[str] | None, typer.Option(metavar="NAME=DIR", help="Model of a peer that brings none; "
                                                                                  "may be repeated.")] = None,
    quality: Annotated[Path | None, typer.Option(help="Labelled folder, or file of rows.", exists=True)] = None,
    baseline: Annotated[Path | None, typer.Option("--check", metavar="JSON", help="Results to compare ratios with; "
                                                  "exit status 1 if one is worse.")] = None,
    tolerance: Annotated[float, typer.Option(min=0, help="Of --check: how much worse a ratio may be.")] = TOLERANCE,
    compare: Annotated[tuple[Path, Path] | None, typer.Option(metavar="A B", help="Print two results side by side and "
                                                              "stop.")] = None,
    out: Annotated[Path, typer.Option(file_okay=False, help="Folder for the results.")] = Path("runs/speed"),
) -> None:
    """Measure guards on this machine.

    Exit status: 0 measured; 1 a ratio is worse than in the baseline of --check; 2 it could not be done as asked, or
    not all of it.
    """
    with readable_errors():
        if compare is not None and baseline is not None:
            raise BenchmarkError("--check measures and --compare does not; give one of them")
        if peer_model and not peers:
            raise BenchmarkError("--peer-model: no peer is measured without --peers; give that as well")
        if compare is not None:
            Console().print(show_comparison(*map(read_results, compare)))
            return
        before = None if baseline is None else read_results(baseline)
        plan = Plan(
            bundles=[Bundle.open(folder) for folder in bundle or find_bundles()], engines=engine or [],
            policy=Policy.load(policy), files=sample_photos() if images is None else read_folder(images),
            batches=read_batches(batch), threads=threads, seconds=duration, bound_ms=bound,
            peers=peers, peer_models=read_models(peer_model or []),
            rows=[] if quality is None else read_labelled(quality))
        if before is not None:
            refuse_others(baseline, before, {"photos": describe(plan.files)["sha256"], "threads": plan.threads,
                                             "policies": [plan.policy.sha256]})
        results = measure(plan, lambda doing: stderr.print(doing, style="dim", markup=False, highlight=False))
        write_report(out, results)
        console = Console()
        console.print(show_results(results))
        findings = [] if before is None else check(before, results, tolerance)
        if before is not None:
            console.print(show_check(before, results, findings))
    console.print(f"{out / RESULTS}, {out / REPORT}", markup=False, highlight=False, soft_wrap=True)
    print(json.dumps(summary(results)))
    for what, why in results["failed"].items():
        print_error(f"{what}: failed after the rest was measured ({why}); run again for it")
    if results["failed"]:
        raise typer.Exit(2)
    raise typer.Exit(1 if any(one.fails for one in findings) else 0)


def read_batches(text: str) -> tuple[int, ...]:
    """(1, 2, 4) of "1,2,4". Raises BenchmarkError."""
    sizes = text.split(",")
    if not all(size.strip().isdecimal() and int(size) > 0 for size in sizes):
        raise BenchmarkError(f"--batch {text!r}: must be whole numbers above 0 with commas between, such as 1,2,4")
    return tuple(sorted({int(size) for size in sizes}))


def summary(results: dict) -> dict:
    """The headline numbers, for programs."""
    return {"quiet": results["noise"]["quiet"], "device": results["machine"]["cpu"],
            "cores": results["machine"]["cores"], "threads": results["settings"]["threads"],
            "images": results["settings"]["photos"]["count"],
            "systems": [{
                "name": system["name"], "bundle_sha256": system["bundle_sha256"],
                "policy_sha256": system["policy_sha256"], "checks": system["single_stream"]["checks"],
                "latency_ms": {stage: {q: one["value"] for q, one in values.items()}
                               for stage, values in system["single_stream"]["stages_ms"].items()},
                "img_per_s": {one["batch"]: one["img_per_s"]["value"] for one in system["offline"]},
                "scan_img_per_s": system["scan"]["img_per_s"], "server_per_s": system["server"]["highest_rate"],
                "cold_start_s": system["cold_start"]["seconds"]["value"], "rss_mb": system["cold_start"]["rss_mb"],
                "policy_change_ms": system["policy_change"]["ready_ms"]["value"]} for system in results["systems"]]}


if __name__ == "__main__":
    app()
