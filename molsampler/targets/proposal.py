"""Draws with importance weights: a Student-t fitted to a density, and rejection by weights."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from molsampler.basis.log_weights import LogWeights

_MOST = 262_144  # draws at once


class StudentProposal:
    """A multivariate Student-t, whose tails are wider than a Gaussian's.

    mean (D,), factor (D, D) lower triangular, float64 : factor factor^T is its scale matrix
    """

    def __init__(self, mean: Tensor, factor: Tensor, degrees: int) -> None:
        self.mean, self.factor, self.degrees = mean, factor, degrees

    def draw(self, generator: torch.Generator, n: int) -> Tensor:
        """(n, D) float64 on the generator's device."""
        device, width = generator.device, len(self.mean)
        noise = torch.randn(n, width + self.degrees, generator=generator, dtype=torch.float64, device=device)
        chi = noise[:, width:].square().sum(1, keepdim=True)
        return self.mean.to(device) + (noise[:, :width] * (self.degrees / chi).sqrt()) @ self.factor.to(device).T

    def log_density(self, x: Tensor) -> Tensor:
        """(n,) of x (n, D)."""
        width, degrees, factor = len(self.mean), self.degrees, self.factor.to(x)
        white = torch.linalg.solve_triangular(factor, (x - self.mean.to(x)).T, upper=False)
        log_norm = (
            math.lgamma(0.5 * (degrees + width))
            - math.lgamma(0.5 * degrees)
            - 0.5 * width * math.log(degrees * math.pi)
            - float(self.factor.diagonal().log().sum())
        )
        return log_norm - 0.5 * (degrees + width) * torch.log1p(white.square().sum(0) / degrees)

    def fitted(self, x: Tensor, weights: LogWeights) -> StudentProposal:
        """That with the weighted mean and covariance of its draws x (n, D)."""
        share = weights.normalised[:, None]
        mean = (share * x).sum(0)
        spread = x - mean
        covariance = (share * spread).T @ spread
        # the little that is added keeps the factor from collapsing while few draws have weight
        added = 1e-3 * covariance.diagonal().mean() * torch.eye(len(mean))
        return StudentProposal(mean, torch.linalg.cholesky(covariance + added), self.degrees)


def by_rejection(
    weighted: Callable[[torch.Generator, int], tuple[Tensor, Tensor]],
    log_mean: float,
    cap: float,
    generator: torch.Generator,
    n: int,
) -> Tensor:
    """(n, D) independent draws, accepted in proportion to their weights, all weights above the cap alike.

    weighted : n -> draws (n, D), log-weights (n,); log_mean : log of their mean weight; cap : in mean weights
    """
    drawn, missing, log_cap = [weighted(generator, 0)[0]], n, log_mean + math.log(cap)
    while missing > 0:
        x, log_w = weighted(generator, min(int(1.1 * cap * missing) + 64, _MOST))
        u = torch.rand(len(x), generator=generator, dtype=torch.float64, device=x.device)
        drawn.append(x[u.log() < log_w - log_cap])
        missing -= len(drawn[-1])
    return torch.cat(drawn)[:n]
