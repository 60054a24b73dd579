"""Intervals that hold where few samples count: of a share of all weight, and of the ratio of two shares.

The weight that falls into a state is treated as a Poisson number of equal weights: as many as its effective count
k = (sum w)^2 / sum w^2 says, each of sum w^2 / sum w (the scaled Poisson approximation of Fay and Feuer, Statistics in
Medicine 16, 791 (1997)). Jeffreys' prior then gives the state's weight a gamma distribution of shape k + 1/2, and the
ratio of two of them is a scaled beta-prime variable, whose quantiles are exact. A bootstrap of so few knows nothing of
weights that might have been drawn and were not; this does.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from scipy import stats

from molsampler.basis.log_weights import effective_groups

FEW = 30.0  # effective counts below which the interval takes the place of the bootstrap error
_TAIL = float(stats.norm.cdf(-1.0))


class Counted(NamedTuple):
    """What is known of the weight in a state: its effective count, and the weight that one count stands for."""

    count: float
    scale: float


def counted(
    weights: np.ndarray, inside: np.ndarray, groups: np.ndarray | None = None, effective: float | None = None
) -> Counted:
    """Of normalised weights (n,) where `inside` (n,) bool.

    groups : (n,) int, where these are independent instead of frames;  effective : independent frames that all of them
        are worth then, by default Kish's number
    Of dependent frames there are as many counts fewer as of all frames, and no more than their scatter over the groups
    allows: a Poisson number of mean m in each of K groups has a Kish number of K m / (1 + m) groups.
    Kish's number of few uneven weights is too large; the count is smaller than that by what one more weight like the
    largest would do to it, which is nothing where all are equal.
    An empty state has count 0, and one count of it the weight of a typical one of all.
    """
    parts = np.where(inside, weights, 0.0)
    kish = 1.0 / np.square(weights).sum()
    efficiency = 1.0 if effective is None else min(effective / kish, 1.0)
    total = float(parts.sum())
    if not total > 0:
        return Counted(0.0, float(1.0 / (kish * efficiency)))
    square, largest = float(np.square(parts).sum()), float(parts.max())
    # a sample of uneven weights has not met the largest of them: one more such as the largest, over a typical one
    square += max(largest**2 - square / np.count_nonzero(parts), 0.0)
    count = efficiency * total**2 / square
    if groups is not None:
        of_groups, units = effective_groups(parts, groups), len(np.unique(groups))
        if of_groups < units:
            count = min(count, units * of_groups / (units - of_groups))
    return Counted(count, total / count)


def ratio_interval(first: Counted, second: Counted) -> tuple[float, float]:
    """One-sigma interval (16 to 84 %) of the ratio of the weights of two states that exclude each other."""
    shape = first.count + 0.5, second.count + 0.5
    scale = first.scale / second.scale
    low = 0.0 if first.count == 0 else scale * stats.betaprime.ppf(_TAIL, *shape)
    high = np.inf if second.count == 0 else scale * stats.betaprime.ppf(1 - _TAIL, *shape)
    if first.count == 0:  # nothing seen: up to where a Poisson variable is 0 in 16 % of all cases
        high = scale * -np.log(_TAIL) / max(second.count, 0.5)
    if second.count == 0:
        low = scale * max(first.count, 0.5) / -np.log(_TAIL)
    return float(low), float(high)


def share_interval(first: Counted, rest: Counted) -> tuple[float, float]:
    """One-sigma interval of the share of a state in all weight, `rest` being what lies outside of it."""
    low, high = ratio_interval(first, rest)
    return low / (1 + low), 1.0 if high == np.inf else high / (1 + high)
