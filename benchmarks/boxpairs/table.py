"""Scores of several systems side by side, in Markdown."""

from __future__ import annotations

from benchmarks.safeeditbench.report import percent
from benchmarks.safeeditbench.score import Estimate

LOOKS = {"always safe": "says safe to everything", "always unsafe": "says unsafe to everything"}


def as_table(results: dict[str, dict]) -> str:
    """`Scores.as_json()` by system → a table; shares × 100 with 95 % intervals over pairs, guards that do not look
    last."""
    first = next(iter(results.values()))
    policies = {name: marks["metric"] for name, marks in first["policies"].items()}
    head = [*(f"{name.removeprefix('Policy ')} {metric.replace('f1', 'F1')}" for name, metric in policies.items()),
            "macro", "pooled F1", "pairs", "edits noticed", "flips", "invalid"]
    lines = ["| system | " + " | ".join(head) + " |", "| --- " * (len(head) + 1) + "|"]
    for system, scores in results.items():
        cells = [scores["policies"][name][metric] for name, metric in policies.items()]
        cells += [scores["macro"], scores["pooled"]["f1"],
                  *(scores[share]["right"] for share in ("pair_accuracy", "edits_noticed", "flip_consistency")),
                  scores["pooled"]["invalid"]]
        lines.append(f"| {system} | " + " | ".join(percent(Estimate(**cell)) for cell in cells) + " |")
    for name, marks in first["baselines"].items():
        cells = [*["–"] * len(policies), f"{100 * marks['macro']:.1f}", f"{100 * marks['f1']:.1f}", "–", "0.0", "0.0",
                 "0.0"]
        lines.append(f"| *{LOOKS[name]}* | {' | '.join(cells)} |")
    counts = ", ".join(f"{name.removeprefix('Policy ')} {marks['rows']} rows ({marks['unsafe']} unsafe)"
                       for name, marks in first["policies"].items())
    of = {share: first[share]["of"] for share in ("pair_accuracy", "edits_noticed", "flip_consistency")}
    return "\n".join([*lines, "", f"{first['pairs']} pairs; {counts}. Both halves of a pair under one policy: "
                      f"{of['pair_accuracy']}, with different labels {of['edits_noticed']}; one photo under two "
                      f"policies with different labels: {of['flip_consistency']}."])
