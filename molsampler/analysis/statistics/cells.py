"""Cells of the circle, and of tori of it, and histograms over them; the first cell begins at -180 degrees."""

from __future__ import annotations

import numpy as np

from molsampler.basis.log_weights import check_weights


def cells(angles: np.ndarray, bins: int) -> np.ndarray:
    """Integers 0 to bins - 1, one for each of angles in radians, wrapped, of any shape."""
    return np.floor((np.asarray(angles) + np.pi) / (2 * np.pi) * bins).astype(np.int64) % bins


def flat_cells(angles: np.ndarray, bins: int) -> np.ndarray:
    """(n,) flat index, the last axis fastest, of the cell of angles (n, d) on a torus of `bins` cells an axis."""
    return cells(angles, bins) @ bins ** np.arange(np.shape(angles)[1])[::-1]


def histogram(angles: np.ndarray, weights: np.ndarray | None, bins: int) -> np.ndarray:
    """(bins,) * d probabilities, summing to 1, of angles (n, d) in radians; weights (n,) sum to 1, or are equal."""
    w = check_weights(weights, len(angles))
    dimensions = np.shape(angles)[1]
    return np.bincount(flat_cells(angles, bins), weights=w, minlength=bins**dimensions).reshape((bins,) * dimensions)
