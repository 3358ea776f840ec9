"""Scores as people read them: a Markdown table that a terminal and a document show alike."""

from __future__ import annotations

from benchmarks.safeeditbench.score import Estimate, Marks, Scores, Share


def as_markdown(scores: Scores) -> str:
    """Policies, their metric and what lies behind it; then what holds for all of them. Shares × 100."""
    lines = ["| policy | rows | unsafe | metric | score | precision | recall | FPR | invalid |",
             "| --- | --- | --- | --- | --- | --- | --- | --- | --- |"]
    lines += [_line(name, marks) for name, marks in scores.policies.items()]
    lines += [_line("all rows (pooled)", scores.pooled)]
    lines += [_line(f"category {name}", marks) for name, marks in scores.categories.items()]
    return "\n".join([*lines, "", f"- macro average over policies: {percent(scores.macro)}",
                      f"- pairs, both right: {_share(scores.pair_accuracy)}",
                      f"- edits noticed (labels differ within the pair, both right): {_share(scores.edits_noticed)}",
                      f"- flips (labels differ between two policies, both right): {_share(scores.flip_consistency)}",
                      *(f"- {name} would have: macro {marks['macro']:.1%}, pooled F1 {marks['f1']:.1%}"
                        for name, marks in scores.baselines.items()),
                      f"- the official script would print: accuracy {scores.official['accuracy']:.1%}, F1 "
                      f"{scores.official['f1']:.1%}"])


def percent(estimate: Estimate) -> str:
    """"45.6 (41.0 to 50.2)", × 100 with its interval, or a dash for what is undefined."""
    if estimate.value is None:
        return "–"
    interval = "" if estimate.low is None else f" ({100 * estimate.low:.1f} to {100 * estimate.high:.1f})"
    return f"{100 * estimate.value:.1f}{interval}"


def _line(name: str, marks: Marks) -> str:
    values = (percent(one) for one in (getattr(marks, marks.metric), marks.precision, marks.recall, marks.fpr,
                                       marks.invalid))
    metric = "F1" if marks.metric == "f1" else marks.metric
    return f"| {name} | {marks.rows} | {marks.unsafe} | {metric} | {' | '.join(values)} |"


def _share(share: Share) -> str:
    return f"{percent(share.right)} of {share.of}" if share.of else "none there"
