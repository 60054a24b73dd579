"""Neal's funnel: a normal coordinate that is the log-variance of all others."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from molsampler.basis.space import LOG_2PI
from molsampler.targets.synthetic_target import SyntheticTarget

_STD = 3.0


class Funnel(SyntheticTarget):
    """x_0 ~ N(0, 9) and x_i given x_0 ~ N(0, exp(x_0)); log Z = 0, exact samples.

    Neal, "Slice sampling" (Annals of Statistics 31, 2003), with the spreads that the literature on samplers uses. The
    extent is the exact spread of every coordinate: 3, and exp(9 / 4) for the others.
    """

    log_z = 0.0

    def __init__(self, dim: int = 10) -> None:
        extent = torch.full((dim,), math.exp(0.25 * _STD**2), dtype=torch.float64)
        extent[0] = _STD
        super().__init__(f"funnel-{dim}d", torch.zeros(dim), extent, limits=(-12.0, 12.0))

    def log_prob(self, x: Tensor) -> Tensor:
        """log density (B,) of x (B, D)."""
        first, others = x[:, 0], x[:, 1:]
        log_first = -0.5 * (first / _STD).square() - math.log(_STD)
        log_others = -0.5 * ((others * (-0.5 * first).exp()[:, None]).square().sum(-1) + others.shape[1] * first)
        return log_first + log_others - 0.5 * self.space.dim * LOG_2PI

    def sample(self, generator: torch.Generator, n: int) -> Tensor:
        """(n, D) float64 exact samples on the generator's device."""
        x = torch.randn(n, self.space.dim, generator=generator, dtype=torch.float64, device=generator.device)
        first = _STD * x[:, :1]
        return torch.cat([first, (0.5 * first).exp() * x[:, 1:]], 1)
