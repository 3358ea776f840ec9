"""A reliability plot: how often images of a score are unsafe, before and after calibration, and how many there are."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np

from training.calibration.thresholds import Share
from training.errors import TrainingError

SUFFIXES = (".png", ".svg")
BINS = 10  # of equal width; bars show the 95 % interval of each


def check_plot(path: Path) -> None:
    """Raise TrainingError before hours of work if nothing could be drawn into this file."""
    if path.suffix.lower() not in SUFFIXES:
        raise TrainingError(f"{path}: a plot is a {' or '.join(SUFFIXES)} file; name one")
    if not (path.parent.is_dir() and os.access(path.parent, os.W_OK)):
        raise TrainingError(f"{path}: cannot be written, {path.parent} is no folder that you may write to; make it, or "
                            "name another with --plot")
    try:
        import matplotlib  # noqa: F401
    except ImportError as error:
        raise TrainingError(f"{path}: drawing needs matplotlib ({error}); install it: pip install 'safeguard[train]', "
                            "or leave --plot out") from error


def draw_reliability(path: Path, title: str, series: dict[str, np.ndarray], broken: np.ndarray) -> None:
    """series: name → (n,) scores in [0, 1] of the same rows; broken (n,) bool. The same file for the same rows."""
    import matplotlib
    from matplotlib.figure import Figure
    with matplotlib.rc_context({"svg.hashsalt": "safeguard", "font.size": 9}):  # else ids in the SVG are random
        figure = Figure(figsize=(4.8, 5.6), layout="constrained")
        curve, counts = figure.subplots(2, 1, height_ratios=[3, 1], sharex=True)
        curve.plot([0, 1], [0, 1], color="0.7", linewidth=1)
        for number, (name, scores) in enumerate(series.items()):
            means, shares = reliability(scores, broken)
            values = np.array([share.value for share in shares])
            ends = np.array([share.interval for share in shares]).T
            curve.errorbar(means, values, yerr=np.abs(ends - values), marker="o", markersize=4, linewidth=1, capsize=2,
                           color=f"C{number}", label=name)
            counts.hist(scores, bins=BINS, range=(0, 1), histtype="step", color=f"C{number}")
        curve.set(title=title, ylabel="share that is unsafe", xlim=(0, 1), ylim=(0, 1))
        curve.legend(loc="upper left", frameon=False)
        counts.set(xlabel="score", ylabel="rows")
        kind = path.suffix.lower()[1:]
        figure.savefig(path, format=kind, dpi=150, metadata={"Date": None} if kind == "svg" else None)


def reliability(scores: np.ndarray, broken: np.ndarray) -> tuple[np.ndarray, list[Share]]:
    """Of every bin that is not empty: the mean score, and how many of its rows are unsafe."""
    bin_of = np.minimum((scores * BINS).astype(int), BINS - 1)
    filled = np.unique(bin_of)
    means = np.array([scores[bin_of == one].mean() for one in filled])
    return means, [Share(int(broken[bin_of == one].sum()), int((bin_of == one).sum())) for one in filled]
