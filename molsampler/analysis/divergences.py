"""How far a weighted ensemble is from a reference: KL, Jensen-Shannon, total variation, Wasserstein. Logarithms are
natural.

Divergences of torsions are between histograms of equal bins: 72 bins (5 degrees) for one torsion, 36 x 36 (10
degrees) for a Ramachandran map. Two finite ensembles of one distribution have small divergences that are not 0.
"""

from __future__ import annotations

import numpy as np
import ot

from molsampler.analysis.estimates import check_weights, effective_frames
from molsampler.analysis.ramachandran import histogram

TORSION_BINS = 72
MAP_BINS = 36


def torsion_histogram(angles: np.ndarray, weights: np.ndarray | None, bins: int = TORSION_BINS) -> np.ndarray:
    """(bins,) probabilities, summing to 1, of angles (n,) in radians; the first bin begins at -180 degrees."""
    w = check_weights(weights, len(angles))
    cell = np.floor((np.asarray(angles) + np.pi) / (2 * np.pi) * bins).astype(np.int64) % bins
    return np.bincount(cell, weights=w, minlength=bins)


def kl(p: np.ndarray, q: np.ndarray) -> float:
    """sum p ln(p / q) of two histograms of one shape with sum 1; inf where q misses a bin of p."""
    inside = p > 0
    if (q[inside] == 0).any():
        return float("inf")
    return float(max((p[inside] * np.log(p[inside] / q[inside])).sum(), 0.0))


def jensen_shannon(p: np.ndarray, q: np.ndarray) -> float:
    """Jensen-Shannon divergence of two histograms, between 0 and ln 2."""
    middle = (p + q) / 2
    return (kl(p, middle) + kl(q, middle)) / 2


def total_variation(p: np.ndarray, q: np.ndarray) -> float:
    """Half the sum of |p - q| of two histograms, between 0 and 1."""
    return float(np.abs(p - q).sum() / 2)


def with_half_a_frame(q: np.ndarray, frames: float) -> np.ndarray:
    """Histogram q, made of `frames` effective frames, with half a frame more, spread evenly: KL to it stays finite."""
    return (q * frames + 0.5 / q.size) / (frames + 0.5)


def compare_torsion(
    angles: np.ndarray, weights: np.ndarray | None, reference: np.ndarray, reference_weights: np.ndarray | None = None
) -> dict[str, float]:
    """kl (reference to samples), jsd and tv of one torsion: angles (n,) and reference (m,), radians."""
    frames = effective_frames(check_weights(weights, len(angles)))
    return _compare(torsion_histogram(angles, weights), torsion_histogram(reference, reference_weights), frames)


def compare_maps(
    angles: np.ndarray, weights: np.ndarray | None, reference: np.ndarray, reference_weights: np.ndarray | None = None
) -> dict[str, float]:
    """kl (reference to samples), jsd, tv and w2 (radians) of two Ramachandran maps: (n, 2) and (m, 2) radians."""
    q = histogram(angles, weights, MAP_BINS)
    p = histogram(reference, reference_weights, MAP_BINS)
    frames = effective_frames(check_weights(weights, len(angles)))
    return _compare(q, p, frames) | {"w2": map_w2(q, p)}


def _compare(q: np.ndarray, p: np.ndarray, frames: float) -> dict[str, float]:
    return {"kl": kl(p, with_half_a_frame(q, frames)), "jsd": jensen_shannon(p, q), "tv": total_variation(p, q)}


def torus_w2(a: np.ndarray, weights_a: np.ndarray | None, b: np.ndarray, weights_b: np.ndarray | None) -> float:
    """Wasserstein-2 distance in radians of weighted points a (n, k) and b (m, k), radians, by exact transport (POT).

    The ground distance is the flat torus's: sqrt of the sum of squared angles, each the shorter way round.
    """
    wa, wb = check_weights(weights_a, len(a)), check_weights(weights_b, len(b))
    a, wa, b, wb = a[wa > 0], wa[wa > 0], b[wb > 0], wb[wb > 0]
    gap = (a[:, None] - b[None] + np.pi) % (2 * np.pi) - np.pi  # (n, m, k)
    cost = ot.emd2(wa, wb, np.square(gap).sum(-1), numItermax=2_000_000)
    return float(np.sqrt(max(cost, 0.0)))


def map_w2(p: np.ndarray, q: np.ndarray) -> float:
    """`torus_w2` between the cell centres of two histograms (g, g)."""
    grid = len(p)
    centre = (np.arange(grid) + 0.5) * 2 * np.pi / grid - np.pi
    cells = np.stack(np.meshgrid(centre, centre, indexing="ij"), -1).reshape(-1, 2)
    return torus_w2(cells, p.ravel() / p.sum(), cells, q.ravel() / q.sum())


def line_wasserstein(
    a: np.ndarray, weights_a: np.ndarray | None, b: np.ndarray, weights_b: np.ndarray | None, order: int = 1
) -> float:
    """Wasserstein distance of `order` 1 or 2 between weighted values a (n,) and b (m,), in their unit, exactly.

    Values of zero weight are ignored, so that they may be infinite.
    """
    wa, wb = check_weights(weights_a, len(a)), check_weights(weights_b, len(b))
    a, wa, b, wb = a[wa > 0], wa[wa > 0], b[wb > 0], wb[wb > 0]
    a_order, b_order = np.argsort(a), np.argsort(b)
    # rounding can take a sum past one before its last, tiny term: such a level would lie beyond every value
    level_a, level_b = (np.minimum(np.cumsum(w), 1.0) for w in (wa[a_order], wb[b_order]))
    level_a[-1] = level_b[-1] = 1.0
    levels = np.unique(np.concatenate([level_a, level_b]))
    step = np.diff(levels, prepend=0.0)
    middle = levels - step / 2
    gap = a[a_order][np.searchsorted(level_a, middle)] - b[b_order][np.searchsorted(level_b, middle)]
    return float((step @ np.abs(gap) ** order) ** (1 / order))
