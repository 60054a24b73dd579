"""A mixture of ten Student-t components: modes with tails that have no variance."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from molsampler.targets.synthetic_target import SyntheticTarget

_COMPONENTS = 10
_BOX = 10.0
_LOG_NORM = 1.5 * math.log(2.0)  # of t with two degrees of freedom: density (1 + t^2 / 2)^(-3/2) / (2 sqrt(2))


class StudentMixture(SyntheticTarget):
    """The mean of ten products of univariate Student-t densities with two degrees of freedom and unit scale; log Z = 0.

    "MoS" of Blessing et al., "Beyond ELBOs" (ICML 2024): the coordinates of a component are independent, which is not
    the multivariate Student-t; means uniform in [-10, 10]^D, equal weights. Their means come from another random
    generator; here they are drawn by torch with seed 0. Variances are infinite: compare quantiles, not moments.

    A draw belongs to its mode within 4 sqrt(D), which 90 % of a component satisfy in both 2 and 50 dimensions.
    """

    log_z = 0.0

    def __init__(self, dim: int) -> None:
        super().__init__(f"student-{dim}d", torch.zeros(dim), extent=1.5 * _BOX, limits=(-15.0, 15.0))
        uniform = torch.rand(_COMPONENTS, dim, generator=torch.Generator().manual_seed(0))
        self.modes = (2.0 * uniform.double() - 1.0) * _BOX
        self.mode_radius = 4.0 * math.sqrt(dim)

    def log_prob(self, x: Tensor) -> Tensor:
        """log density (B,) of x (B, D)."""
        t = x[:, None, :] - self.modes.to(x)  # (B, M, D)
        log_component = -1.5 * torch.log1p(0.5 * t.square()).sum(-1)
        return torch.logsumexp(log_component, -1) - self.space.dim * _LOG_NORM - math.log(_COMPONENTS)

    def sample(self, generator: torch.Generator, n: int) -> Tensor:
        """(n, D) float64 exact samples on the generator's device."""
        device = generator.device
        component = torch.randint(_COMPONENTS, (n,), generator=generator, device=device)
        noise = torch.randn(n, self.space.dim, generator=generator, dtype=torch.float64, device=device)
        uniform = torch.rand(n, self.space.dim, generator=generator, dtype=torch.float64, device=device)
        # half a chi-squared variable of two degrees is exponential
        return self.modes.to(device)[component] + noise * (-torch.log1p(-uniform)).clamp_min(1e-300).rsqrt()
