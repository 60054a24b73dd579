"""Whether a simulation has converged: split R-hat and statistical inefficiency over its independent ladders."""

from __future__ import annotations

import logging
from types import ModuleType

import numpy as np


def split_rhat(series: np.ndarray) -> float:
    """Gelman and Rubin's R-hat of series (L, R), every one of the L simulations cut into two halves.

    sqrt of (pooled variance / mean variance within halves), as in Gelman et al., "Bayesian Data Analysis", 3rd edition,
    section 11.4: 1 where halves and simulations agree. NaN where nothing varies.
    """
    half = series.shape[1] // 2
    if half < 2:
        return float("nan")
    chains = np.concatenate([series[:, :half], series[:, -half:]]).astype(np.float64)  # (2L, half)
    within = chains.var(1, ddof=1).mean()
    if not within > 0:
        return float("nan")
    return float(np.sqrt((half - 1) / half + chains.mean(1).var(ddof=1) / within))


def statistical_inefficiency(series: np.ndarray) -> float:
    """How many successive values of series (L, R) are worth one independent value (pymbar, over all L simulations).

    Chodera et al., J. Chem. Theory Comput. 3, 26 (2007), section 2.4. NaN where nothing varies.
    """
    if np.ptp(series) == 0 or series.shape[1] < 4:
        return float("nan")
    return float(_timeseries().statistical_inefficiency_multiple(list(series.astype(np.float64))))


def _timeseries() -> ModuleType:
    """pymbar.timeseries, imported when first needed (a second), without the notices that it logs."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        from pymbar import timeseries
    finally:
        logging.disable(before)
    return timeseries
