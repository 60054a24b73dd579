"""Divergences of histograms and transport distances, of two of anything. Logarithms are natural.

Two finite ensembles of one distribution have divergences that are not 0: `bootstrap` tells what to expect.
"""

from __future__ import annotations

import numpy as np
import ot

from molsampler.basis.log_weights import check_weights


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
    """Histogram q, made of `frames` effective frames, with half a frame more, spread evenly: KL to it stays finite.

    FAB, TA-BG and CMT add 1e-10 to densities (per radian squared) instead. Where no cell is missed, as with their 10^7
    samples, either makes no difference; with 10^4 samples theirs gives perfect ones a KL divergence of 2.
    """
    return (q * frames + 0.5 / q.size) / (frames + 0.5)


def map_w2(p: np.ndarray, q: np.ndarray) -> float:
    """Wasserstein-2 distance in radians of two histograms (g, g) on the torus, by exact transport (POT) between their
    cells' centres. The ground distance is the flat torus's: the root of two squared angles, each the shorter way round.
    """
    grid = len(p)
    steps = np.arange(grid)
    square = np.square(np.minimum(steps, grid - steps) * 2 * np.pi / grid)  # (g,) rad^2, the shorter way round
    (i, j), (k, m) = np.nonzero(p), np.nonzero(q)
    apart = square[(i[:, None] - k[None]) % grid] + square[(j[:, None] - m[None]) % grid]
    cost = ot.emd2(p[i, j] / p.sum(), q[k, m] / q.sum(), apart, numItermax=2_000_000)
    return float(np.sqrt(max(cost, 0.0)))


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
