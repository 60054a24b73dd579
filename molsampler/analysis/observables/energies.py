"""Energy histograms, by weight, on bins that are common to all ensembles."""

from __future__ import annotations

import numpy as np

from molsampler.basis.log_weights import check_weights

_BINS = 60


def quantiles(values: np.ndarray, weights: np.ndarray | None, fractions: np.ndarray | list[float]) -> np.ndarray:
    """Weighted quantiles of values (n,): the smallest value whose cumulative weight reaches each fraction in (0, 1]."""
    values = np.asarray(values, dtype=np.float64)
    w = check_weights(weights, len(values))
    order = np.argsort(values, kind="stable")
    cumulative = np.cumsum(w[order])
    index = np.searchsorted(cumulative / cumulative[-1], np.asarray(fractions) - 1e-12)
    return values[order][np.minimum(index, len(values) - 1)]


def energy_edges(ensembles: list[tuple[np.ndarray, np.ndarray | None]]) -> np.ndarray:
    """(61,) kJ/mol: even bins over the 0.1 to 99.9 % range of all ensembles, each (energies, weights).

    Energies that are not finite (clashes) are left out of the choice of the range.
    """
    lows, highs = [], []
    for energies, weights in ensembles:
        finite = np.isfinite(energies)
        w = None if weights is None else weights[finite] / max(weights[finite].sum(), 1e-300)
        if finite.any() and (w is None or w.sum() > 0):
            low, high = quantiles(energies[finite], w, [0.001, 0.999])
            lows.append(low)
            highs.append(high)
    if not lows:
        raise ValueError("no ensemble has a frame of finite energy")
    low, high = min(lows), max(highs)
    margin = 0.05 * (high - low) or 1.0
    return np.linspace(low - margin, high + margin, _BINS + 1)


def energy_histogram(energies: np.ndarray, weights: np.ndarray | None, edges: np.ndarray) -> np.ndarray:
    """(len(edges) - 1,) mol/kJ: density of energies (n,) kJ/mol; what lies outside the edges is missing from its
    integral.
    """
    w = check_weights(weights, len(energies))
    return np.histogram(energies, bins=edges, weights=w)[0] / np.diff(edges)
