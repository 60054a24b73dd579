"""The Ramachandran map: free energy over (phi, psi), and its basins as peaks of the density; wells of one torsion by
the same algorithm.

Basins are found, not drawn by hand: the periodic histogram is smoothed and every cell is given to the peak that
steepest ascent leads to; peaks that a shallow saddle parts from a higher one, or that rest on a handful of frames,
are merged into it (the persistence clustering of Chazal et al., "Persistence-based clustering in Riemannian
manifolds", J. ACM 60 (2013)). Textbook names serve as labels only.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product

import numpy as np
from scipy.optimize import linear_sum_assignment

from molsampler.analysis.statistics.cells import flat_cells, histogram
from molsampler.basis.log_weights import check_weights, effective_frames
from molsampler.basis.units import thermal_energy

_GRID = 72  # cells of 5 degrees, in which basins are found
_BANDWIDTH = np.deg2rad(10.0)  # that their density is smoothed by
_FARTHEST = 65.0  # degrees between a peak and the textbook's centre that gives it its name
TEXTBOOK_CENTRES = {  # (phi, psi) in degrees
    "C7eq": (-80.0, 75.0),
    "C5": (-155.0, 160.0),
    "PII": (-70.0, 145.0),
    "alphaR": (-70.0, -35.0),
    "alphaL": (55.0, 45.0),
    "C7ax": (70.0, -60.0),
}


@dataclass(frozen=True)
class Basins:
    """A partition of a torus of d = 2 angles, phi and psi, or of the circle of one (d = 1), into basins.

    labels : (g,) * d int, basin of each cell, first axis phi, second psi; cell (i, j) begins at -180 + 360 / g * (i, j)
        degrees
    names : one a basin
    centres : (k, d) float64 radians, where the smoothed density peaks
    """

    labels: np.ndarray
    names: tuple[str, ...]
    centres: np.ndarray

    @property
    def dimension(self) -> int:
        """d."""
        return self.labels.ndim

    @property
    def maps_phi(self) -> bool:
        """Whether the first angle is phi, whose sign is a state too."""
        return self.dimension == 2

    def assign(self, angles: np.ndarray) -> np.ndarray:
        """(n,) int basin of each of angles (n, d), radians."""
        return self.labels.ravel()[flat_cells(angles, len(self.labels))]


def free_energy(angles: np.ndarray, weights: np.ndarray | None, temperature: float, grid: int = 60) -> np.ndarray:
    """(grid, grid) kJ/mol: -RT ln p over cells of phi (first axis) and psi, lowest cell 0, empty cells NaN."""
    probability = histogram(angles, weights, grid)
    with np.errstate(divide="ignore"):
        surface = -thermal_energy(temperature) * np.log(probability / probability.max())
    return np.where(probability > 0, surface, np.nan)


def smoothed(probability: np.ndarray, bandwidth: float) -> np.ndarray:
    """Density (g,) * d convolved with a wrapped Gaussian of `bandwidth` radians on every axis; positive throughout."""
    grid = len(probability)
    offset = 2 * np.pi / grid * np.arange(grid)
    kernel = sum(np.exp(-0.5 * ((offset + 2 * np.pi * k) / bandwidth) ** 2) for k in (-2, -1, 0, 1))
    index = (np.arange(grid)[:, None] - np.arange(grid)[None, :]) % grid
    circulant = (kernel / kernel.sum())[index]  # (g, g)
    for axis in range(probability.ndim):
        probability = np.moveaxis(np.tensordot(circulant, probability, (1, axis)), 0, axis)
    return probability


def find_basins(
    angles: np.ndarray,
    weights: np.ndarray | None = None,
    barrier: float = 0.5,
    min_frames: float = 10.0,
) -> Basins:
    """Basins of the density of angles (n, 2) or (n, 1), radians.

    Two peaks are one basin where ln(lower peak / saddle) < `barrier` (in RT), or where less than `min_frames` frames
    (by effective number, for weighted ones) lie above the saddle on the lower side.
    """
    w = check_weights(weights, len(angles))
    probability = histogram(angles, w, _GRID)
    frames = probability * effective_frames(w)
    density = smoothed(probability, _BANDWIDTH)
    labels = _climb(np.log(density), frames, barrier, min_frames)
    roots = sorted(np.unique(labels), key=lambda r: -probability[labels == r].sum())
    peaks = [np.unravel_index(np.argmax(np.where(labels == r, density, -1.0)), density.shape) for r in roots]
    centres = (np.array(peaks) + 0.5) * 2 * np.pi / _GRID - np.pi
    lookup = np.zeros(labels.size, dtype=np.int64)
    lookup[roots] = np.arange(len(roots))
    degrees = np.rad2deg(centres)
    names = _names(degrees) if labels.ndim == 2 else tuple(f"{centre:.0f}°" for centre in degrees[:, 0])
    return Basins(lookup[labels], names, centres)


def common_basins(angles: Sequence[np.ndarray], weights: Sequence[np.ndarray]) -> Basins:
    """Basins of several ensembles together, each with an equal share, so that a state which only one has is there.

    angles : of each ensemble, (n, d) radians;  weights : of each, (n,) normalised
    """
    return find_basins(np.concatenate(angles), np.concatenate(weights) / len(weights))


def common_wells(angles: Sequence[np.ndarray], weights: Sequence[np.ndarray]) -> Basins:
    """Wells of a torsion, angles (n, 1): of the ensembles together or of one of them, whichever shows the most.

    Behind a low barrier a well that one ensemble misses drowns in the pool, and nothing would be left to compare.
    """
    alone = [find_basins(a, w) for a, w in zip(angles, weights, strict=True)]
    return max([common_basins(angles, weights), *alone], key=lambda basins: len(basins.names))


def _climb(height: np.ndarray, frames: np.ndarray, barrier: float, min_frames: float) -> np.ndarray:
    """(g,) * d int label (flat index of a cell of the basin) of every cell of the log density height (g,) * d."""
    h, mass = height.ravel(), frames.ravel().copy()
    parent = np.full(height.size, -1)
    offsets = np.array([o for o in product((-1, 0, 1), repeat=height.ndim) if any(o)]).T  # (d, 3^d - 1)
    places = np.array(np.unravel_index(np.arange(height.size), height.shape))  # (d, cells)
    beside = np.ravel_multi_index(places[:, :, None] + offsets[:, None, :], height.shape, mode="wrap")

    def root(cell: int) -> int:
        while parent[cell] != cell:
            parent[cell] = parent[parent[cell]]
            cell = parent[cell]
        return cell

    for cell in np.argsort(-h, kind="stable"):
        seen = sorted((int(c) for c in beside[cell] if parent[c] >= 0), key=lambda c: -h[c])
        if not seen:
            parent[cell] = cell  # a peak
            continue
        parent[cell] = root(seen[0])
        mass[parent[cell]] += mass[cell]
        for other in sorted({root(c) for c in seen}):
            own = root(cell)  # another one, where the last turn merged it
            high, low = (own, other) if h[own] >= h[other] else (other, own)
            if high != low and (h[low] - h[cell] < barrier or mass[low] < min_frames):
                parent[low] = high
                mass[high] += mass[low]
    return np.array([root(c) for c in range(height.size)]).reshape(height.shape)


def _names(centres: np.ndarray) -> tuple[str, ...]:
    """Names of peaks at centres (k, 2) degrees: the textbook's where one lies within _FARTHEST, each given once."""
    books = np.array(list(TEXTBOOK_CENTRES.values()))
    gap = (centres[:, None] - books[None] + 180.0) % 360.0 - 180.0  # (k, 6, 2)
    distance = np.linalg.norm(gap, axis=-1)
    cost = np.where(distance <= _FARTHEST, distance, 1e4)  # out of reach: as bad as no name
    names = [f"({phi:.0f}, {psi:.0f})" for phi, psi in centres]
    for row, column in zip(*linear_sum_assignment(cost), strict=True):
        if distance[row, column] <= _FARTHEST:
            names[row] = list(TEXTBOOK_CENTRES)[column]
    return tuple(names)
