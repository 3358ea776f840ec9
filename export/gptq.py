"""Rounding a weight's inputs in turn, the error of each made good by those that follow.

GPTQ, Frantar et al. 2022 (arXiv:2210.17323), algorithm 1.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

import numpy as np

DAMPING = 0.01  # share of the mean second moment added to each, so that none vanishes


class Grid(Protocol):
    """The values that the weights of a block may take."""

    def codes(self, weights: np.ndarray) -> np.ndarray:
        """(out, n) float32 → the nearest of the grid, as uint8."""

    def values(self, codes: np.ndarray) -> np.ndarray:
        """(out, n) codes → the weights that they stand for, float32."""


def nearest_of(grids: Sequence[Grid], block: np.ndarray) -> np.ndarray:
    """(out, 1): for each output of (out, n) weights the number of the grid with the least squared error, of equal ones
    the first."""
    errors = [((grid.values(grid.codes(block)) - block) ** 2).sum(1, keepdims=True) for grid in grids]
    return np.argmin(errors, 0)


def round_in_turn(weight: np.ndarray, size: int, fit: Callable[[np.ndarray], Grid],
                  moments: np.ndarray) -> tuple[np.ndarray, list[Grid]]:
    """(in, out) weights → codes of the same shape, and the grid of each block of `size` inputs.

    fit      (out, size) weights of a block → its grid
    moments  (in, in) second moments of the inputs, up to a factor
    """
    left = weight.T.astype(np.float32, copy=True)  # (out, in): what is still to be expressed
    spread = _inverse_factor(moments)
    codes, grids = np.empty(left.shape, np.uint8), []
    for start in range(0, left.shape[1], size):
        block = left[:, start:start + size]
        inner = spread[start:start + size, start:start + size]
        errors = np.empty_like(block)
        grids.append(fit(block))
        for column in range(block.shape[1]):
            now = block[:, column:column + 1]
            code = grids[-1].codes(now)
            error = (now - grids[-1].values(code)) / inner[column, column]
            block[:, column:] -= error * inner[column, column:]
            codes[:, start + column], errors[:, column] = code[:, 0], error[:, 0]
        left[:, start + size:] -= errors @ spread[start:start + size, start + size:]
    return codes.T, grids


def _inverse_factor(moments: np.ndarray) -> np.ndarray:
    """Upper Cholesky factor of the inverse of the damped second moments."""
    damped = moments.astype(np.float64) + DAMPING * np.mean(np.diag(moments)) * np.eye(len(moments))
    return np.linalg.cholesky(np.linalg.inv(damped)).T.astype(np.float32)
