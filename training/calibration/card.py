"""The section of a bundle's model card that tells of its calibration."""

from __future__ import annotations

import re

HEADING = "## Calibration"


def with_calibration(card: str, entry: dict) -> str:
    """A model card in Markdown, with the section of this entry of the manifest in the place of a former one."""
    section = "\n".join([HEADING, "", *_sentences(entry)]) + "\n"
    former = re.search(rf"^{HEADING}$.*?(?=^## |\Z)", card, re.MULTILINE | re.DOTALL)
    if former is None:
        return card.rstrip("\n") + "\n\n" + section
    rest = card[former.end():]
    return card[:former.start()] + section + ("\n" + rest if rest else "")


def _sentences(entry: dict) -> list[str]:
    rules = entry.get("rules", {}).values()
    named = [("all other rules" if rules else "all rules", entry), *((f"rule {one['rule']}", one) for one in rules)]
    lines = ["Figures above, under Quality and Parity, were measured by the export, with the calibration of that time."]
    fitted = [(name, one) for name, one in named if "ece" in one]
    if fitted:
        lines += ["", "| for | method | rows, unsafe | ECE before | ECE | Brier before | Brier |",
                  "| --- |" + " --- |" * 6]
        lines += [f"| {name} | {one['method']} | {one['rows']}, {one['unsafe_rows']} | {one['ece_before']:.4f} | "
                  f"{one['ece']:.4f} | {one['brier_before']:.5f} | {one['brier']:.5f} |" for name, one in fitted]
        lines += ["", "ECE and Brier are of rows that the fit had not seen, in five parts."]
    chosen = [(name, one) for name, one in named if "unsafe_at" in one]
    if chosen:
        lines += ["", "| for | wish | unsafe from | false positives | precision | recall |", "| --- |" + " --- |" * 5]
        for name, one in chosen:
            shares = [one["threshold"][key] for key in ("false_positive_rate", "precision", "recall")]
            cells = [f"{share['of'][0]} of {share['of'][1]} ({share['interval'][0]:.3f}–{share['interval'][1]:.3f})"
                     for share in shares]
            lines.append(f"| {name} | {one['unsafe_at_for']} | {one['unsafe_at']:.4g} | {' | '.join(cells)} |")
        lines += ["", "Counts are of the rows that the threshold was chosen by, with their 95 % interval."]
    return [*lines, "", *sorted({f"Rows: {one['data']}." for _, one in fitted}
                                | {f"Rows of the threshold: {one['threshold']['data']}." for _, one in chosen})]
