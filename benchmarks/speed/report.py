"""results.json for programs, report.html for people: one page that needs no other file, no network, no script. Its look
is report.html beside this."""

from __future__ import annotations

import base64
import io
import json
from html import escape
from pathlib import Path
from string import Template

from rich.console import Console

from benchmarks.speed.plots import draw
from benchmarks.speed.tables import show_results
from safeguard_sdk.durable import write_durably

RESULTS, REPORT = "results.json", "report.html"
TEMPLATE = Path(__file__).with_name("report.html")
COLUMNS = 120  # characters of the tables


def write_report(folder: Path, results: dict) -> None:
    """Both files, each replaced in one step."""
    folder.mkdir(parents=True, exist_ok=True)
    write_durably(folder / RESULTS, (json.dumps(results, indent=1) + "\n").encode())
    write_durably(folder / REPORT, page(results).encode())


def page(results: dict) -> str:
    machine, noise = results["machine"], results["noise"]
    warning = "" if noise["quiet"] else ('<section class="noisy"><b>Noisy machine</b>: '
                                         f'{escape("; ".join(noise["reasons"]))}.</section>')
    return Template(TEMPLATE.read_text(encoding="utf-8")).substitute(
        title=escape("; ".join(system["name"] for system in results["systems"])),
        subtitle=escape(f"{machine['cpu']}, {machine['cores']} cores; safeguard {machine['safeguard']}; "
                        f"{results['settings']['photos']['count']} photos; {results['made_at']}"),
        noise=warning, plots="\n".join(_figure(*plot) for plot in draw(results)), tables=escape(_tables(results)))


def _figure(title: str, what: str, svg: str) -> str:
    data = base64.b64encode(svg.encode()).decode()
    return (f"<section><h2>{escape(title)}</h2><p>{escape(what)}</p>"
            f'<img alt="{escape(title)}: the numbers stand below" src="data:image/svg+xml;base64,{data}"></section>')


def _tables(results: dict) -> str:
    console = Console(file=io.StringIO(), width=COLUMNS, color_system=None)
    console.print(show_results(results))
    return console.file.getvalue()
