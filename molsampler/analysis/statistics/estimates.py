"""Weighted averages with standard errors.

Weights are normalised importance weights, (n,) float64 with sum 1, or None for equally weighted frames.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from molsampler.basis.log_weights import scaled

_BLOCKS = 10


class Estimate(NamedTuple):
    """A number and its standard error in the same unit; NaN where an error cannot be had."""

    value: float
    stderr: float

    def as_dict(self) -> dict[str, float]:
        return {"value": self.value, "stderr": self.stderr}


def independent_blocks(groups: np.ndarray) -> np.ndarray:
    """(n,) int from 0: the independent part that each value belongs to. That is its group (n,) int, such as its ladder,
    or, where there is one group only, one of ten consecutive blocks, which should be longer than the correlation time.
    """
    index = np.unique(groups, return_inverse=True)[1]
    if index.max(initial=0) == 0:
        index = np.arange(len(groups)) * min(_BLOCKS, len(groups)) // max(len(groups), 1)
    return index


def grouped_mean(values: np.ndarray, groups: np.ndarray, weights: np.ndarray | None = None) -> Estimate:
    """Mean of correlated values (n,), equally weighted or by weights (n,), whose groups (n,) int, such as ladders, are
    independent.

    The standard error is that of a ratio estimator over `independent_blocks`, which may differ in size.
    """
    values = np.asarray(values, dtype=np.float64)
    groups = np.asarray(groups)
    if groups.shape != values.shape:
        raise ValueError(f"groups have shape {groups.shape}; expected {values.shape}, one a frame")
    index = independent_blocks(groups)
    size = np.bincount(index, weights=weights).astype(np.float64)
    count = len(size)
    mean = float(values.mean() if weights is None else weights @ values / weights.sum())
    if count < 2:
        return Estimate(mean, float("nan"))
    residual = np.bincount(index, weights=values if weights is None else weights * values) - mean * size
    return Estimate(mean, float(np.sqrt(np.square(residual).sum() * count / (count - 1)) / size.sum()))


def upper_bound(
    log_weights: np.ndarray, groups: np.ndarray, log_z: Estimate, weights: np.ndarray | None = None
) -> tuple[Estimate, Estimate]:
    """EUBO, and forward effective sample size 1 / E[w / Z], of trajectories noised from states of R.

    log_weights : (n,) of the trajectories, +inf where the policy gives one no density: the EUBO is then infinite and
        the effective sample size 0
    groups, weights : (n,) of the states, see `grouped_mean`;  log_z : by the policy's own samples
    """
    log_weights = np.asarray(log_weights, dtype=np.float64)
    counts = log_weights if weights is None else log_weights[weights > 0]
    if not np.isfinite(counts).all():
        return Estimate(float("inf"), float("nan")), Estimate(0.0, float("nan"))
    log_weights = np.where(np.isfinite(log_weights), log_weights, counts.min())  # of weight zero
    top = counts.max()
    mean = grouped_mean(np.exp(log_weights - top), groups, weights)  # E_p[w]; 1 / E_p[w / Z] is the ESS
    ess = float(np.exp(log_z.value - top) / mean.value)
    return grouped_mean(log_weights, groups, weights), Estimate(
        ess, ess * float(np.hypot(mean.stderr / mean.value, log_z.stderr))
    )


def ess_fraction(log_weights: np.ndarray) -> Estimate:
    """(sum w)^2 / (n sum w^2) of log-weights (n,), -inf counted with w = 0; its error is half of `ess_interval`."""
    w = scaled(log_weights)
    if w.max(initial=0.0) == 0.0:
        return Estimate(0.0, float("nan"))
    low, high = ess_interval(log_weights)
    return Estimate(float(w.mean() ** 2 / np.square(w).mean()), (high - low) / 2)


def ess_interval(log_weights: np.ndarray) -> tuple[float, float]:
    """One-sigma interval of the effective sample size, a fraction, of independent log-weights (n,).

    ESS = 1 / (1 + v), v the relative variance of the weights: the delta method on log v. A finite sample has not met
    the largest weights, so that its v is too small and its error too: both are raised by what its largest contributes
    to v (by 0.7 of it, and by 1.6 of its square in the variance). The two numbers are calibrated on log-normal weights
    (scripts/benchmark_errors.py). NaN for fewer than three weights or weights that are all 0.
    """
    w = scaled(log_weights)
    n = len(w)
    if n < 3 or w.max(initial=0.0) == 0.0:
        return float("nan"), float("nan")
    x = w / w.mean()
    v = float(x.var(ddof=1))
    if not v > 1e-12:
        return 1.0, 1.0
    influence = np.square(x - 1) - v - 2 * v * (x - 1)
    largest = float((x.max() - 1) ** 2 / (n * v))
    error = np.sqrt(influence.var() / (n * v**2) + 1.6 * largest**2)
    centre = np.log(v) + 0.7 * largest
    return float(1 / (1 + np.exp(centre + error))), float(1 / (1 + np.exp(centre - error)))


def log_z_estimate(log_weights: np.ndarray) -> Estimate:
    """logsumexp(log w) - log n of independent log-weights (n,); NaN where all w are 0.

    The error is that of the delta method, of one weight more like the largest: a finite sample has not met all of the
    tail, and is too sure of itself where few weights count.
    """
    w = scaled(log_weights)
    n = len(w)
    if w.max(initial=0.0) == 0.0:
        return Estimate(float("nan"), float("nan"))
    x = w / w.mean()
    error = float(np.sqrt(x.var(ddof=1) / n + ((x.max() - 1) / n) ** 2)) if n > 1 else float("nan")
    return Estimate(float(np.log(w.mean()) + np.max(log_weights)), error)


def run_estimates(log_weights: np.ndarray, group: np.ndarray) -> tuple[Estimate, Estimate]:
    """Effective sample size (a fraction) and log Z of independent runs of sequential Monte Carlo.

    log_weights : (n,), whose mean weight within a run is that run's estimate of Z;  group : (n,) int, the run of each
    The effective sample size is 1 / (1 + K relvar) with relvar the relative variance of the runs' estimates of Z and K
    particles a run; for independent particles it is what `ess_fraction` estimates. NaN for fewer than two runs.
    """
    index = np.unique(group, return_inverse=True)[1]
    size = np.bincount(index)
    z = np.bincount(index, weights=scaled(log_weights)) / size
    if len(z) < 2 or z.max() == 0.0:
        return Estimate(float("nan"), float("nan")), Estimate(float("nan"), float("nan"))
    k_relvar = float(size.mean() * z.var(ddof=1) / z.mean() ** 2)
    ess = 1.0 / (1.0 + k_relvar)
    # the relative error of a variance from M runs is sqrt(2 / (M - 1)) where the estimates are about normal
    stderr = ess**2 * k_relvar * np.sqrt(2.0 / (len(z) - 1))
    log_z = float(np.log(z.mean()) + np.max(log_weights))
    return Estimate(ess, float(stderr)), Estimate(log_z, _error(z / z.mean()))


def elbo(log_weights: np.ndarray) -> Estimate:
    """Mean of the finite ones among independent log-weights (n,), with its error; quote it beside `outside_support`."""
    inside = np.asarray(log_weights, dtype=np.float64)
    inside = inside[np.isfinite(inside)]
    if len(inside) == 0:
        return Estimate(float("nan"), float("nan"))
    return Estimate(float(inside.mean()), _error(inside))


def outside_support(log_weights: np.ndarray) -> Estimate:
    """Fraction of log-weights (n,) that are -inf, with its binomial error."""
    fraction = float(np.isneginf(log_weights).mean())
    return Estimate(fraction, float(np.sqrt(fraction * (1 - fraction) / len(log_weights))))


def _error(values: np.ndarray) -> float:
    return float(values.std(ddof=1) / np.sqrt(len(values))) if len(values) > 1 else float("nan")
