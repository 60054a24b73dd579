"""Figures of a sampler of log R(z; c), each of one condition c, averaged over conditions."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from molsampler.analysis.statistics.estimates import Estimate, elbo, ess_fraction, log_z_estimate, outside_support


def by_condition(figure: Callable[[np.ndarray], Estimate], log_weights: np.ndarray) -> list[Estimate]:
    """The figure of each row of log-weights (G, S), the samples of one condition."""
    return [figure(row) for row in log_weights]


def averaged(found: list[Estimate]) -> Estimate:
    """Mean over conditions. The error is that of sampling: the conditions are taken as given."""
    value, stderr = np.array(found).T
    return Estimate(float(value.mean()), float(np.sqrt(np.square(stderr).sum())) / len(found))


def rms(found: np.ndarray, truth: np.ndarray) -> Estimate:
    """Root mean square distance over conditions, (G,) each."""
    return Estimate(float(np.sqrt(np.square(found - truth).mean())), float("nan"))


def conditional_figures(log_weights: np.ndarray) -> dict[str, Estimate]:
    """ELBO, log Z by importance weights and ESS, each the mean over conditions, of log-weights (G, S); and the ESS that
    a tenth of the conditions stay below."""
    ess = by_condition(ess_fraction, log_weights)
    return {
        "samples": Estimate(float(log_weights.size), float("nan")),
        "conditions": Estimate(float(len(log_weights)), float("nan")),
        "outside_support": outside_support(log_weights.ravel()),
        "ess": averaged(ess),
        "ess_tenth": Estimate(float(np.quantile([one.value for one in ess], 0.1)), float("nan")),
        "elbo": averaged(by_condition(elbo, log_weights)),
        "log_z_estimate": averaged(by_condition(log_z_estimate, log_weights)),
    }
