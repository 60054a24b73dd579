"""How heavy the tail of importance weights is: the Pareto shape k-hat.

Vehtari, Simpson, Gelman, Yao and Gabry, "Pareto smoothed importance sampling", J. Mach. Learn. Res. 25 (2024). Weights
with k < 1/2 have a finite variance; below min(1 - 1 / log10 n, 0.7) estimates from n weights can be trusted, above it
their standard errors cannot, and beyond 1 not even their mean exists.
"""

from __future__ import annotations

import numpy as np

from molsampler.analysis.statistics.estimates import Estimate


def fit_generalised_pareto(excesses: np.ndarray) -> tuple[float, float]:
    """Shape k (positive for heavy tails) and scale sigma of a generalised Pareto distribution of excesses (m,) > 0.

    The quasi-Bayesian fit of Zhang and Stephens, Technometrics 51, 316 (2009), section 3: the mean of
    theta = -k / sigma under its profile likelihood on a data-based grid.
    """
    x = np.sort(np.asarray(excesses, dtype=np.float64))
    m = len(x)
    points = 30 + int(np.sqrt(m))
    j = np.arange(1, points + 1)
    quartile = x[int(m / 4 + 0.5) - 1]
    theta = 1.0 / x[-1] + (1.0 - np.sqrt(points / (j - 0.5))) / (3.0 * quartile)
    shape = np.log1p(-theta[:, None] * x).mean(1)  # (points,)
    likelihood = m * (np.log(-theta / shape) - shape - 1.0)
    weight = np.exp(likelihood - likelihood.max())
    theta = float(theta @ weight / weight.sum())
    k = float(np.log1p(-theta * x).mean())
    return k, -k / theta


def _tail_size(n: int) -> int:
    """How many of n weights are taken for the tail."""
    return int(np.ceil(min(0.2 * n, 3.0 * np.sqrt(n))))


def _with_prior(k: float, size: int) -> float:
    """The shape of a tail of that size, drawn to 1/2 by ten observations' worth of prior."""
    return (size * k + 10 * 0.5) / (size + 10)


def pareto_khat(log_weights: np.ndarray) -> float:
    """k-hat of log-weights (n,), -inf for weight 0: the shape of the min(n / 5, 3 sqrt n) largest, drawn to 1/2 by ten
    observations' worth of prior. NaN where fewer than five weights stand out from the rest; -inf where all are equal.
    """
    log_weights = np.asarray(log_weights, dtype=np.float64)
    n = len(log_weights)
    size = _tail_size(n)
    if size < 5:
        return float("nan")
    largest = np.sort(np.partition(log_weights, n - size - 1)[n - size - 1 :])
    if not np.isfinite(largest[-1]):
        return float("nan")
    w = np.exp(largest - largest[-1])
    excesses = w[1:] - w[0]
    if w[0] == w[-1]:
        return float("-inf")
    excesses = excesses[excesses > 0]
    if len(excesses) < 5:
        return float("nan")
    k, _ = fit_generalised_pareto(excesses)
    return _with_prior(k, len(excesses))


def smoothed(log_weights: np.ndarray) -> np.ndarray:
    """(n,) log-weights whose largest are replaced, in their order, by the expected order statistics of the generalised
    Pareto distribution fitted to them, none larger than the largest: Vehtari et al., section 2.3.

    Biased a little, and less noisy where few samples carry much weight. As they are where no tail can be fitted.
    """
    log_weights = np.asarray(log_weights, dtype=np.float64)
    n = len(log_weights)
    size = _tail_size(n)
    order = np.argsort(log_weights, kind="stable")
    if size < 5 or not np.isfinite(log_weights[order[-size - 1]]):
        return log_weights.copy()
    top = log_weights[order[-1]]
    tail, below = order[-size:], np.exp(log_weights[order[-size - 1]] - top)
    excesses = np.exp(log_weights[tail] - top) - below
    if not excesses[0] > 0:
        return log_weights.copy()
    k, sigma = fit_generalised_pareto(excesses)
    k = _with_prior(k, size)
    probability = (np.arange(size) + 0.5) / size
    stretched = np.expm1(-k * np.log1p(-probability)) / k if abs(k) > 1e-9 else -np.log1p(-probability)
    result = log_weights.copy()
    result[tail] = np.minimum(np.log(below + sigma * stretched), 0.0) + top
    return result


def pareto_k(log_weights: np.ndarray, generator: np.random.Generator, replicates: int = 50) -> Estimate:
    """k-hat with its bootstrap standard error."""
    log_weights = np.asarray(log_weights, dtype=np.float64)
    n = len(log_weights)
    repeated = [pareto_khat(log_weights[generator.integers(n, size=n)]) for _ in range(replicates)]
    finite = np.isfinite(repeated).all()
    return Estimate(pareto_khat(log_weights), float(np.std(repeated, ddof=1)) if finite else float("nan"))


def k_threshold(n: int) -> float:
    """The k below which averages over n weights can be trusted: min(1 - 1 / log10 n, 0.7)."""
    return min(1.0 - 1.0 / np.log10(n), 0.7) if n > 1 else float("-inf")
