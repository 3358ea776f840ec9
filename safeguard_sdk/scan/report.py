"""report.html: one page that needs no other file, no network, no script. Its look is report.html beside this."""

from __future__ import annotations

import base64
import itertools
from html import escape
from pathlib import Path
from string import Template

from safeguard_sdk.durable import write_durably
from safeguard_sdk.scan.duplicates import read_duplicates
from safeguard_sdk.scan.output import REPORT, ScanFolder
from safeguard_sdk.scan.rows import Row, item_name
from safeguard_sdk.scan.summary import gravest
from safeguard_sdk.verdict import LABELS

TEMPLATE = Path(__file__).with_name("report.html")
MOST_SHOWN = 200
MOST_OF_GROUP = 8


def write_report(folder: ScanFolder, summary: dict) -> None:
    """Write the page of a scan whose summary is given. Pictures of what was flagged are blurred until clicked."""
    policy, run = summary["policy"], summary["last_run"]
    shown = gravest(folder, MOST_SHOWN)
    page = Template(TEMPLATE.read_text(encoding="utf-8")).substitute(
        title=escape(f"{summary['rows']:,} images under the policy {policy['name']}"),
        subtitle=escape(f"Last run: {run['rows']:,} images in {run['seconds']:,.0f} s, "
                        f"{run['images_per_second']:g} a second, {run['duplicates']:,} of them equal to others."),
        counts="\n".join(f'<section class="{label}"><b>{summary[label]:,}</b>{label}</section>'
                         for label in (*LABELS, "failed")),
        histogram=_histogram(summary["scores"]["counts"]),
        rules="\n".join(_bar(rule, counts, summary) for rule, counts in summary["rules"].items()),
        failures=_failures(summary),
        flagged=_flagged(shown, summary["review"] + summary["unsafe"]),
        duplicates=_duplicates(folder, summary),
        facts="\n".join(f"<dt>{escape(name)}</dt><dd>{escape(str(value))}</dd>" for name, value in _facts(summary)),
    )
    write_durably(folder.path / REPORT, page.encode())


def _histogram(counts: list[int]) -> str:
    highest = max(counts) or 1
    return "".join(f'<i style="height:{count / highest:.1%}" title="{at / len(counts):.2f} to '
                   f'{(at + 1) / len(counts):.2f}: {count:,}"></i>' for at, count in enumerate(counts))


def _bar(rule: str, counts: dict[str, int], summary: dict) -> str:
    most = max((sum(one.values()) for one in summary["rules"].values()), default=0) or 1
    parts = "".join(f'<i class="{label}" style="width:{counts[label] / most:.1%}"></i>'
                    for label in ("unsafe", "review"))
    return (f'<span>{escape(rule)}</span><span class="bar">{parts}</span>'
            f"<span>{counts['unsafe']:,} unsafe, {counts['review']:,} review</span>")


def _failures(summary: dict) -> str:
    kinds = summary["failure_kinds"]
    if not kinds:
        return ""
    bars = "\n".join(f'<span>{escape(kind)}</span><span class="bar failed"><i style="width:'
                     f'{count / max(kinds.values()):.1%}"></i></span><span>{count:,}</span>'
                     for kind, count in sorted(kinds.items(), key=lambda one: -one[1]))
    return (f'<section><h2>Could not be judged</h2><div class="bars">\n{bars}\n</div></section>')


def _flagged(rows: list[Row], total: int) -> str:
    if not rows:
        return ""
    figures = "\n".join(_figure(row, f"<b class=\"{row['label']}\">{row['label']} {row['score']:.2f}</b> "
                                     f"{escape(row['rule'])}") for row in rows)
    return (f"<section><h2>Flagged: the {len(rows):,} gravest of {total:,}</h2>\n<p>Click a picture to see it; "
            f'click again to hide it.</p>\n<div class="photos">\n{figures}\n</div></section>')


def _duplicates(folder: ScanFolder, summary: dict) -> str:
    told = summary["near_duplicates"]
    if not told or not told["groups"]:
        return ""
    groups = [(group["images"], list(itertools.islice(members, MOST_OF_GROUP)))
              for group, (_, members) in zip(told["largest"], read_duplicates(folder), strict=False)]
    pictures = {row["id"]: None for _, members in groups for row in members}
    for row in folder.rows(("id", "thumbnail")):
        if row["id"] in pictures:
            pictures[row["id"]] = row["thumbnail"]
    sections = []
    for images, members in groups:
        figures = "\n".join(
            _figure(row | {"thumbnail": pictures[row["id"]]}, f"distance {row['distance']}" if at else "first")
            for at, row in enumerate(members))
        more = f", {MOST_OF_GROUP} of them here" if images > MOST_OF_GROUP else ""
        sections.append(f'<p>{images:,} images{more}</p>\n<div class="photos">\n{figures}\n</div>')
    return (f"<section><h2>Near duplicates: the {len(groups):,} largest of {told['groups']:,} groups</h2>\n"
            + "\n".join(sections) + "</section>")


def _figure(row: Row, caption: str) -> str:
    """caption: HTML"""
    picture = ""
    if row["thumbnail"] is not None:
        data = base64.b64encode(row["thumbnail"]).decode()
        picture = ('<label><input type="checkbox" aria-label="show picture">'
                   f'<img alt="" src="data:image/jpeg;base64,{data}"></label>')
    return f"<figure>{picture}<figcaption>{caption}<br>{escape(item_name(row))}</figcaption></figure>"


def _facts(summary: dict) -> list[tuple[str, object]]:
    skipped = ", ".join(f"{count:,} {suffix or 'without a suffix'}" for suffix, count in summary["skipped"].items())
    return [("policy", f"{summary['policy']['name']} {summary['policy']['version']}"),
            ("bundle", f"{summary['bundle']['name']} {summary['bundle']['version']}"),
            *summary["hashes"].items(), *summary["settings"].items(),
            ("passed over, no images", skipped or "nothing"), ("rules", summary["policy"]["yaml"])]
