"""Densities that depend on a condition, log R(z; c): posteriors of z given an observation c."""

from __future__ import annotations

import math
from abc import abstractmethod

import torch
from torch import Tensor

from molsampler.basis.space import LOG_2PI, Condition, Line, Space
from molsampler.targets.target import Target


class ConditionalTarget(Target):
    """log R(z; c) on R^d for every c in R^K; a state is (z, c), and the score of c is 0.

    name : its name in the registry
    held_out : (G, K) conditions that nothing trains on, to judge a sampler by; the space holds those to train on
    held_out_log_z, held_out_log_z_error : (G,) float64 log Z(c) of these, exact or with a standard error; None where
        it is unknown
    """

    held_out_log_z: Tensor | None = None

    def __init__(self, name: str, dim: int, conditions: Tensor, held_out: Tensor) -> None:
        """dim : of z; conditions : (M, K) to train on"""
        super().__init__()
        self.name, self.held_out = name, held_out
        self.space = Space((Line(dim), Condition(conditions.shape[1], conditions)))
        self.held_out_log_z_error = torch.zeros(len(held_out), dtype=torch.float64)

    @abstractmethod
    def log_joint(self, z: Tensor, condition: Tensor) -> Tensor:
        """log R(z; c), (B,), of z (B, d) and c (B, K)."""

    def log_prob(self, x: Tensor) -> Tensor:
        """log R (B,) of states x (B, d + K)."""
        z, condition = x.split([part.dim for part in self.space.parts], dim=-1)
        return self.log_joint(z, condition.detach())

    def sample_posterior(self, condition: Tensor, generator: torch.Generator) -> Tensor | None:
        """Exact z (B, d), one for each c (B, K); None where the target has none to give."""
        return None


class LinearGaussian(ConditionalTarget):
    """z ~ N(0, I), c = A z + NOISE N(0, I): log R(z; c) is the joint density, log Z(c) = log N(c; 0, A A^T + NOISE^2 I)
    and the posterior is normal, with the same covariance for all c.

    A was drawn once (SEED), d = 4 and K = 3, so that one direction of z is not seen at all.
    """

    DIM, OBSERVED, NOISE, SEED = 4, 3, 0.5, 0
    CONDITIONS, HELD_OUT = 4096, 64

    def __init__(self) -> None:
        generator = torch.Generator().manual_seed(self.SEED)
        self.matrix = torch.randn(self.OBSERVED, self.DIM, generator=generator, dtype=torch.float64)  # A, (K, d)
        z, noise = (
            torch.randn(self.CONDITIONS + self.HELD_OUT, n, generator=generator, dtype=torch.float64)
            for n in (self.DIM, self.OBSERVED)
        )
        seen = (z @ self.matrix.T + self.NOISE * noise).float()
        super().__init__("linear-gaussian", self.DIM, seen[: self.CONDITIONS], seen[self.CONDITIONS :])
        precision = torch.eye(self.DIM, dtype=torch.float64) + self.matrix.T @ self.matrix / self.NOISE**2
        self.covariance = torch.linalg.inv(precision)
        self.held_out_log_z = self.log_z_of(self.held_out)

    def log_joint(self, z: Tensor, condition: Tensor) -> Tensor:
        miss = (condition - z @ self.matrix.to(z).T) / self.NOISE
        norm = 0.5 * (self.DIM + self.OBSERVED) * LOG_2PI + self.OBSERVED * math.log(self.NOISE)
        return -0.5 * (z.square().sum(-1) + miss.square().sum(-1)) - norm

    def log_z_of(self, condition: Tensor) -> Tensor:
        """log Z(c), (B,) float64, of c (B, K)."""
        marginal = self.matrix @ self.matrix.T + self.NOISE**2 * torch.eye(self.OBSERVED, dtype=torch.float64)
        return torch.distributions.MultivariateNormal(torch.zeros(self.OBSERVED).double(), marginal).log_prob(
            condition.double()
        )

    def posterior_mean(self, condition: Tensor) -> Tensor:
        """(B, d) float64, of c (B, K)."""
        return condition.double() @ self.matrix @ self.covariance / self.NOISE**2

    def sample_posterior(self, condition: Tensor, generator: torch.Generator) -> Tensor:
        noise = torch.randn(len(condition), self.DIM, generator=generator, dtype=torch.float64)
        return self.posterior_mean(condition) + noise @ torch.linalg.cholesky(self.covariance).T
