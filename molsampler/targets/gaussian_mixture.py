"""Equally weighted mixtures of isotropic Gaussians: forty in any dimension, and twenty-five on a grid."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from molsampler.basis.space import LOG_2PI
from molsampler.targets.synthetic_target import SyntheticTarget

FAB_STD = math.log1p(math.e)
"""softplus(1) = 1.3133: the components' spread in Midgley et al., "Flow annealed importance sampling bootstrap" (ICLR
2023), whose means `gmm40` has."""
_BOX = 40.0
_RADIUS = 3.0


class GaussianMixture(SyntheticTarget):
    """The mean of M densities N(means[i], std^2 I); log Z = 0, exact samples.

    A draw from a component belongs to its mode within std (sqrt(D) + 3): its distance from the centre is std times a
    chi variable of D degrees, of mean below sqrt(D) and spread below 0.71, so fewer than one in 10,000 falls outside.
    """

    log_z = 0.0

    def __init__(
        self, name: str, means: Tensor, std: float, extent: Tensor | float, limits: tuple[float, float]
    ) -> None:
        """means : (M, D); std : spread of every component; extent, limits : as in `SyntheticTarget`."""
        super().__init__(name, torch.zeros(means.shape[1]), extent, limits)
        self.modes, self.std = means.double(), std
        self.mode_radius = std * (math.sqrt(self.space.dim) + _RADIUS)

    def log_prob(self, x: Tensor) -> Tensor:
        """log density (B,) of x (B, D)."""
        distance = (x[:, None, :] - self.modes.to(x)).square().sum(-1)  # (B, M)
        log_norm = self.space.dim * (math.log(self.std) + 0.5 * LOG_2PI) + math.log(len(self.modes))
        return torch.logsumexp(-0.5 * distance / self.std**2, -1) - log_norm

    def sample(self, generator: torch.Generator, n: int) -> Tensor:
        """(n, D) float64 exact samples on the generator's device."""
        device = generator.device
        component = torch.randint(len(self.modes), (n,), generator=generator, device=device)
        noise = torch.randn(n, self.space.dim, generator=generator, dtype=torch.float64, device=device)
        return self.modes.to(device)[component] + self.std * noise


def gmm40(dim: int, std: float = 1.0) -> GaussianMixture:
    """Forty components with means uniform in [-40, 40]^dim, drawn with seed 0 as in the literature.

    Midgley et al. 2023 in two dimensions with std = FAB_STD; with std = 1 and in more dimensions Blessing et al.,
    "Beyond ELBOs" (ICML 2024), and Choi et al., arXiv 2510.11711.
    """
    means = (torch.rand(40, dim, generator=torch.Generator().manual_seed(0)) - 0.5) * 2.0 * _BOX
    suffix = "-softplus" if std == FAB_STD else ""
    return GaussianMixture(f"gmm40-{dim}d{suffix}", means, std, extent=_BOX, limits=(-50.0, 50.0))


def gmm25() -> GaussianMixture:
    """Means on the grid {-10, -5, 0, 5, 10}^2, variance 0.3 (Zhang and Chen, "Path integral sampler", ICLR 2022)."""
    line = torch.linspace(-10.0, 10.0, 5)
    return GaussianMixture("gmm25", torch.cartesian_prod(line, line), math.sqrt(0.3), extent=10.0, limits=(-14.0, 14.0))
