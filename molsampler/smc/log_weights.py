"""Log-weights: one immutable object that owns every piece of weight arithmetic."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

_BISECTIONS = 50


@dataclass(frozen=True)
class LogWeights:
    """Unnormalised log-weights of K particles; -inf marks a particle of zero weight.

    log_w : (K,), kept in float64; NaN and +inf are refused, since neither is a weight
    """

    log_w: Tensor

    def __post_init__(self) -> None:
        log_w = self.log_w.detach().double()
        if log_w.ndim != 1 or len(log_w) == 0:
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

    def power(self, exponent: float) -> LogWeights:
        """Weights w^exponent; zero weights stay zero for every exponent, 0 included."""
        return LogWeights(torch.where(self.log_w > -torch.inf, exponent * self.log_w, self.log_w))

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
        low, high = 0.0, 1.0
        for _ in range(_BISECTIONS):
            middle = 0.5 * (low + high)
            if self.power(middle).ess >= goal:
                low = middle
            else:
                high = middle
        return low

    def tempered(self, gamma: float) -> LogWeights:
        """w^lambda with lambda from `tempering_exponent`."""
        return self.power(self.tempering_exponent(gamma))
