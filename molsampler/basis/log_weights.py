"""Weight arithmetic, all of it: log-weights as one immutable object in torch, and the same sums on NumPy arrays."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property
from typing import ClassVar, Self

import numpy as np
import torch
from torch import Tensor

from molsampler.basis import ranks
from molsampler.basis.bisection import last_where


@dataclass(frozen=True)
class LogWeights:
    """Unnormalised log-weights of K particles; -inf marks a particle of zero weight.

    log_w : (K,), kept in float64; NaN and +inf are refused, since neither is a weight
    """

    log_w: Tensor
    _least: ClassVar[int] = 1  # particles

    def __post_init__(self) -> None:
        log_w = self.log_w.detach().double()
        if log_w.ndim != 1 or len(log_w) < self._least:
            raise ValueError(f"log-weights have shape {tuple(log_w.shape)}; expected (K,) with K of at least 1")
        if torch.isnan(log_w).any() or torch.isposinf(log_w).any():
            raise ValueError("log-weights hold NaN or +inf; neither is a weight")
        object.__setattr__(self, "log_w", log_w)

    def __len__(self) -> int:
        return len(self.log_w)

    @cached_property
    def n_positive(self) -> int:
        """Number of particles with a weight above zero."""
        return int((self.log_w > -torch.inf).sum())

    @property
    def collapsed(self) -> bool:
        """Whether every weight is zero."""
        return self.n_positive == 0

    @cached_property
    def log_mean(self) -> float:
        """log of the mean weight, logsumexp(log w) - log K: the estimate of log Z; -inf where all weights are zero."""
        return float(torch.logsumexp(self.log_w, 0)) - math.log(len(self))

    @property
    def log_mean_stderr(self) -> float:
        """Standard error of `log_mean`, of independent weights, by the delta method; NaN where all are zero."""
        return math.sqrt(max(1.0 / self.ess - 1.0 / len(self), 0.0)) if not self.collapsed else math.nan

    @cached_property
    def normalised(self) -> Tensor:
        """(K,) float64 weights that sum to one; refused with ValueError where all are zero."""
        if self.collapsed:
            raise ValueError("all weights are zero and cannot be normalised")
        return torch.softmax(self.log_w, 0)

    @cached_property
    def ess(self) -> float:
        """Effective sample size (sum w)^2 / sum w^2, between 1 and K; 0 where all weights are zero."""
        if self.collapsed:
            return 0.0
        return float(1.0 / self.normalised.square().sum())

    @property
    def ess_fraction(self) -> float:
        """ESS / K; particles of zero weight count in K."""
        return self.ess / len(self)

    def power(self, exponent: float) -> Self:
        """Weights w^exponent; zero weights stay zero for every exponent, 0 included."""
        return type(self)(torch.where(self.log_w > -torch.inf, exponent * self.log_w, self.log_w))

    def tempering_exponent(self, gamma: float) -> float:
        """The largest lambda in [0, 1] with ESS(w^lambda) >= gamma K, by bisection (Choi et al. 2025, adaptive
        tempering).

        1 where the ESS is there already; 0 where fewer than gamma K weights are positive.
        """
        goal = gamma * len(self)
        if self.ess >= goal:
            return 1.0
        if self.n_positive < goal:
            return 0.0
        return last_where(lambda exponent: self.power(exponent).ess >= goal, 0.0, 1.0, steps=50)

    def tempered(self, gamma: float) -> Self:
        """w^lambda with lambda from `tempering_exponent`."""
        return self.power(self.tempering_exponent(gamma))


class UnionLogWeights(LogWeights):
    """The weights of all ranks as one: each rank holds its own in `log_w`, perhaps none, and all get one answer.

    Making an object costs nothing, its first answer one exchange (collective); `normalised` sums to one over all ranks.
    """

    _least = 0

    @cached_property
    def _parts(self) -> Tensor:
        """(ranks, 4) float64: log of the sum of weights, sum of squared weights over the squared sum, particles, and
        particles of positive weight, of each rank."""
        squares = self.own_normalised.square().sum()
        counts = [len(self.log_w), int((self.log_w > -torch.inf).sum())]
        row = [torch.logsumexp(self.log_w, 0), squares, *(squares.new_tensor(count) for count in counts)]
        return ranks.stacked(torch.stack(row))

    def __len__(self) -> int:
        return int(self._parts[:, 2].sum())

    @cached_property
    def n_positive(self) -> int:
        return int(self._parts[:, 3].sum())

    @cached_property
    def log_mean(self) -> float:
        return float(torch.logsumexp(self._parts[:, 0], 0)) - math.log(len(self))

    @cached_property
    def shares(self) -> Tensor:
        """(ranks,) float64, each rank's share of the sum of all weights."""
        if self.collapsed:
            raise ValueError("all weights are zero and cannot be normalised")
        return torch.softmax(self._parts[:, 0], 0)

    @cached_property
    def own_normalised(self) -> Tensor:
        """(own,) float64 weights of this rank alone, which sum to one; zeros where it has none."""
        return torch.softmax(self.log_w, 0).nan_to_num()

    @cached_property
    def normalised(self) -> Tensor:
        """(own,) float64 weights of this rank in the union; they sum to its share."""
        return self.own_normalised * self.shares[ranks.rank()]

    @cached_property
    def ess(self) -> float:
        if self.collapsed:
            return 0.0
        return float(1.0 / (self.shares.square() * self._parts[:, 1]).sum())


# on NumPy arrays ------------------------------------------------------------------------------------------------------


def scaled(log_weights: np.ndarray) -> np.ndarray:
    """exp(log w - max log w) in float64, zeros where all are -inf."""
    log_weights = np.asarray(log_weights, dtype=np.float64)
    if np.isnan(log_weights).any() or np.isposinf(log_weights).any():
        raise ValueError("log-weights hold NaN or +inf; only finite numbers and -inf (out of support) have a meaning")
    top = log_weights.max(initial=-np.inf)
    return np.exp(log_weights - top) if np.isfinite(top) else np.zeros_like(log_weights)


def normalised(log_weights: np.ndarray) -> np.ndarray | None:
    """(n,) float64 weights with sum 1 of log-weights (n,); None where all are -inf. Raises ValueError on NaN or
    +inf.
    """
    w = scaled(log_weights)
    return w / w.sum() if w.max(initial=0.0) > 0 else None


def check_weights(weights: np.ndarray | None, n: int) -> np.ndarray:
    """(n,) float64 with sum 1: `weights`, or 1/n each where it is None. Raises ValueError on anything else."""
    if weights is None:
        return np.full(n, 1.0 / n)
    weights = np.asarray(weights, dtype=np.float64)
    if weights.shape != (n,):
        raise ValueError(f"weights have shape {weights.shape}; expected ({n},), one a frame")
    if not np.isfinite(weights).all() or (weights < 0).any() or abs(weights.sum() - 1.0) > 1e-6:
        raise ValueError(f"weights must be finite, not negative and sum to 1; their sum is {weights.sum()}")
    return weights / weights.sum()


def effective_groups(weights: np.ndarray, groups: np.ndarray) -> float:
    """Kish's number (sum w)^2 / sum_g (sum of w in g)^2 of independent groups (n,) int of weights (n,)."""
    sums = np.bincount(np.unique(groups, return_inverse=True)[1], weights=weights)
    return float(np.square(sums.sum()) / np.square(sums).sum())


def effective_frames(weights: np.ndarray) -> float:
    """Kish's effective sample size 1 / sum w^2, in frames, of normalised weights (n,)."""
    return float(1.0 / np.square(weights).sum())
