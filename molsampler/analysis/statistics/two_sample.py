"""How far a sample is from the truth on targets that can be sampled: transport distance, MMD, EUBO.

Samples are (n, D) float on the line, in the target's own unit. A distance between finite samples is not zero for equal
distributions: quote it beside what it is between two samples of the truth itself.
"""

from __future__ import annotations

import warnings

import numpy as np
import ot
from scipy.spatial.distance import cdist, pdist

from molsampler.analysis.statistics.estimates import Estimate
from molsampler.basis.errors import InputError
from molsampler.basis.log_weights import check_weights

_MAX_PIVOTS = 100_000_000  # of the network simplex; 2,000 by 2,000 points have needed 1e5 to 1e6


def w2_squared(
    x: np.ndarray, y: np.ndarray, weights_x: np.ndarray | None = None, weights_y: np.ndarray | None = None
) -> float:
    """Squared 2-Wasserstein distance of two weighted samples, in their unit squared, by exact transport (POT).

    x : (n, D); y : (m, D); weights_x : (n,), weights_y : (m,), normalised, or None for equal ones. 2,000 by 2,000
    points take a second or two in random order, ten seconds where they are sorted along a line. Raises RuntimeError
    where the solver stops before its optimum.
    """
    x, y = _checked(x, y)
    wx, wy = check_weights(weights_x, len(x)), check_weights(weights_y, len(y))
    cost = cdist(x[wx > 0], y[wy > 0], "sqeuclidean")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # it becomes an error below
        value, log = ot.emd2(wx[wx > 0], wy[wy > 0], cost, numItermax=_MAX_PIVOTS, log=True)
    if log["warning"] is not None:
        raise RuntimeError(
            f"optimal transport between {cost.shape[0]} and {cost.shape[1]} points stopped before its optimum "
            f"({log['warning']}); compare fewer points"
        )
    return max(float(value), 0.0)


def mmd(x: np.ndarray, y: np.ndarray, bandwidth: float | None = None) -> float:
    """Maximum mean discrepancy, the root of the biased (V-statistic) MMD^2, so never negative and 0 for x = y.

    x : (n, D); y : (m, D). The kernel is exp(-|x - y|^2 / (2 bandwidth^2)); without a bandwidth it is the median
    distance between distinct points of the pooled sample (Gretton et al. 2012, sections 2.2 and 8). Between two samples
    of one distribution, n = m, MMD^2 is 2 (1 - mean kernel) / n on average. The benchmark of Blessing et al. (2024)
    keeps the diagonals but divides by n (n - 1): its MMD^2 is larger by (mean k_xx + mean k_yy) / (n - 1).
    """
    x, y = _checked(x, y)
    xx, yy, xy = pdist(x, "sqeuclidean"), pdist(y, "sqeuclidean"), cdist(x, y, "sqeuclidean")
    variance = float(np.median(np.concatenate([xx, yy, xy.ravel()]))) if bandwidth is None else float(bandwidth) ** 2
    if not variance > 0.0:
        raise InputError(
            f"the kernel of the MMD has bandwidth {bandwidth or 0.0}: most points coincide, or it was given as such; "
            "give a positive bandwidth"
        )
    within = sum((n + 2.0 * np.exp(-d / (2.0 * variance)).sum()) / n**2 for n, d in ((len(x), xx), (len(y), yy)))
    return float(np.sqrt(max(within - 2.0 * np.exp(-xy / (2.0 * variance)).mean(), 0.0)))


def eubo(log_weights: np.ndarray) -> Estimate:
    """Evidence upper bound: mean log-weight (n,) of trajectories noised from exact samples, with its standard error.

    Infinite where the policy gives a trajectory no density at all (+inf): unlike the ELBO, it must not leave any out.
    """
    log_weights = np.asarray(log_weights, dtype=np.float64)
    if len(log_weights) == 0 or np.isnan(log_weights).any() or np.isneginf(log_weights).any():
        raise InputError(
            f"the EUBO needs log-weights of exact samples, above -inf and not NaN; of {len(log_weights)} "
            f"{int((~(log_weights > -np.inf)).sum())} are not: check that the samples are the target's"
        )
    if np.isposinf(log_weights).any():
        return Estimate(float("inf"), float("nan"))
    stderr = log_weights.std(ddof=1) / np.sqrt(len(log_weights)) if len(log_weights) > 1 else float("nan")
    return Estimate(float(log_weights.mean()), float(stderr))


def _checked(x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    x, y = np.asarray(x, dtype=np.float64), np.asarray(y, dtype=np.float64)
    if x.ndim != 2 or y.ndim != 2 or x.shape[1] != y.shape[1] or not len(x) or not len(y):
        raise InputError(f"samples have shapes {x.shape} and {y.shape}; expected (n, D) and (m, D), none of them empty")
    bad = int((~np.isfinite(x)).any(1).sum() + (~np.isfinite(y)).any(1).sum())
    if bad:
        raise InputError(f"{bad} of {len(x) + len(y)} points are not finite; leave them out and say how many")
    return x, y
