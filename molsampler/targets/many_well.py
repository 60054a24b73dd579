"""Many independent double wells: 2^(D/2) modes of unequal weight."""

from __future__ import annotations

import math
from functools import cache

import torch
from scipy.integrate import quad
from torch import Tensor

from molsampler.basis.errors import InputError
from molsampler.basis.space import LOG_2PI
from molsampler.targets.synthetic_target import SyntheticTarget

_TILT = 0.5
_BOTTOM = math.sqrt(3.0)  # where the untilted wells have their bottoms
_ENVELOPE_VAR = 1.0 / 6.0


@cache
def _well_integrals() -> tuple[float, float]:
    """Integrals of exp(-t^4 + 6 t^2 + t / 2) over t < 0 and over t > 0; beyond |t| = 6 it is below 1e-460."""

    def density(t: float) -> float:
        return math.exp(-(t**4) + 6.0 * t**2 + _TILT * t)

    left, _ = quad(density, -6.0, 0.0, points=[-_BOTTOM], epsabs=0.0, epsrel=1e-12)
    right, _ = quad(density, 0.0, 6.0, points=[_BOTTOM], epsabs=0.0, epsrel=1e-12)
    return left, right


class ManyWell(SyntheticTarget):
    """D / 2 independent pairs (x_0, x_1), (x_2, x_3), ... of the double well -a^4 + 6 a^2 + a / 2 - b^2 / 2.

    Midgley et al., "Flow annealed importance sampling bootstrap" (ICLR 2023). log Z by quadrature, to rounding; samples
    are exact. No modes are listed: there are 2^(D/2), and `right_occupancy` says whether each well has its weight.
    """

    plot_axes = (0, 2)

    def __init__(self, dim: int = 32) -> None:
        """dim : D, even and at least 4."""
        if dim < 4 or dim % 2:
            raise InputError(
                f"the wells come in pairs of coordinates, but the dimension is {dim}; make it 4, 6, 8, ..."
            )
        extent = torch.tensor([2.0, 1.0]).repeat(dim // 2)
        super().__init__(f"manywell-{dim}d", torch.zeros(dim), extent, limits=(-3.5, 3.5))
        left, right = _well_integrals()
        self.log_z = 0.5 * dim * (math.log(left + right) + 0.5 * LOG_2PI)
        self.right_share = right / (left + right)

    def log_prob(self, x: Tensor) -> Tensor:
        """log R (B,) of x (B, D)."""
        wells, others = x[:, 0::2], x[:, 1::2]
        square = wells.square()
        return (square * (6.0 - square) + _TILT * wells - 0.5 * others.square()).sum(-1)

    def right_occupancy(self, x: Tensor) -> Tensor:
        """(D / 2,) share of samples x (B, D) in the right well of each pair; `right_share` of the density is there."""
        return (x[:, 0::2] > 0.0).double().mean(0)

    def sample(self, generator: torch.Generator, n: int) -> Tensor:
        """(n, D) float64 exact samples on the generator's device."""
        pairs, device = self.space.dim // 2, generator.device
        others = torch.randn(n, pairs, generator=generator, dtype=torch.float64, device=device)
        wells = _sample_well(generator, n * pairs).reshape(n, pairs)
        return torch.stack([wells, others], -1).reshape(n, self.space.dim)


def _sample_well(generator: torch.Generator, n: int) -> Tensor:
    """(n,) exact draws of the double-well coordinate, by rejection.

    -t^4 + 6 t^2 = 9 - (t^2 - 3)^2, and for t of the sign s, (t^2 - 3)^2 = (t - s r)^2 (t + s r)^2 >= 3 (t - s r)^2
    with r = sqrt(3). So two tilted Gaussians of variance 1/6, each on its own half-line, lie above the density and
    touch it at t = 0 and t = s r; about half of their draws are accepted.
    """
    device = generator.device
    right = 1.0 / (1.0 + math.exp(-2.0 * _TILT * _BOTTOM))  # the envelope's mass; the density's own follows from it
    drawn = [torch.empty(0, dtype=torch.float64, device=device)]
    missing = n
    while missing > 0:
        u = torch.rand(2, 2 * missing + 64, generator=generator, dtype=torch.float64, device=device)
        noise = torch.randn(2 * missing + 64, generator=generator, dtype=torch.float64, device=device)
        sign = torch.where(u[0] < right, 1.0, -1.0).double()
        t = sign * _BOTTOM + _TILT * _ENVELOPE_VAR + math.sqrt(_ENVELOPE_VAR) * noise
        log_accept = 3.0 * (t - sign * _BOTTOM).square() - (t.square() - 3.0).square()
        drawn.append(t[(t * sign > 0.0) & (u[1].log() < log_accept)])
        missing -= len(drawn[-1])
    return torch.cat(drawn)[:n]
