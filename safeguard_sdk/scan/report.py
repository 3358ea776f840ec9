"""report.html: one page that needs no other file, no network, no script. Its look is report.html beside this."""

from __future__ import annotations

import base64
from html import escape
from pathlib import Path
from string import Template

from safeguard_sdk.durable import write_durably
from safeguard_sdk.scan.output import REPORT, ScanFolder
from safeguard_sdk.scan.rows import Row, item_name
from safeguard_sdk.scan.summary import gravest
from safeguard_sdk.verdict import LABELS

TEMPLATE = Path(__file__).with_name("report.html")
MOST_SHOWN = 200


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
    figures = "\n".join(_figure(number, row) for number, row in enumerate(rows))
    return (f"<section><h2>Flagged: the {len(rows):,} gravest of {total:,}</h2>\n<p>Click a picture to see it; "
            f'click again to hide it.</p>\n<div class="photos">\n{figures}\n</div></section>')


def _figure(number: int, row: Row) -> str:
    picture = ""
    if row["thumbnail"] is not None:
        data = base64.b64encode(row["thumbnail"]).decode()
        picture = (f'<input type="checkbox" id="p{number}" aria-label="show picture {number + 1}">'
                   f'<label for="p{number}"><img alt="" src="data:image/jpeg;base64,{data}"></label>')
    return (f'<figure>{picture}<figcaption><b class="{row["label"]}">{row["label"]} {row["score"]:.2f}</b> '
            f'{escape(row["rule"])}<br>{escape(item_name(row))}</figcaption></figure>')


def _facts(summary: dict) -> list[tuple[str, object]]:
    skipped = ", ".join(f"{count:,} {suffix or 'without a suffix'}" for suffix, count in summary["skipped"].items())
    return [("policy", f"{summary['policy']['name']} {summary['policy']['version']}"),
            ("bundle", f"{summary['bundle']['name']} {summary['bundle']['version']}"),
            *summary["hashes"].items(), *summary["settings"].items(),
            ("passed over, no images", skipped or "nothing"), ("rules", summary["policy"]["yaml"])]
