"""A target seen through sinh, coordinate by coordinate: tails that fall like a power become exponential ones."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from molsampler.basis.bisection import last_where
from molsampler.basis.errors import InputError
from molsampler.targets.coordinates.affine import Affine
from molsampler.targets.target import Target


class HeavyTailed(Affine):
    """log R(z) = log R_base(x(z)) + log |det dx/dz| with x = mean + scale sinh(z), scale (D,); log Z is the base's."""

    def _set(self, mean: Tensor, scale: Tensor) -> None:
        if scale.ndim != 1:
            raise InputError(
                f"the scale has shape {tuple(scale.shape)}; one positive number a coordinate goes with sinh"
            )
        super()._set(mean, scale)

    @classmethod
    def fit(cls, base: Target, x: Tensor) -> HeavyTailed:
        """The chart on which samples x (M, D) have median 0 and root mean square 1, in every coordinate."""
        affine = Affine.fit(base, x)  # refuses what cannot be standardised
        x = x.detach().double()
        median = x.median(0).values
        # the mean of asinh(x / s)^2 falls in s
        log_scale = affine.scale.log()
        found = last_where(
            lambda s: torch.asinh((x - median) / s.exp()).square().mean(0) > 1.0, log_scale - 40.0, log_scale + 10.0
        )
        return cls(base, median, found.exp())

    def to_natural(self, z: Tensor) -> Tensor:
        """z (B, D) -> x (B, D) in the base's coordinates."""
        return self.mean.to(z) + self.scale.to(z) * torch.sinh(z)

    def to_standard(self, x: Tensor) -> Tensor:
        """x (B, D) -> z (B, D), the inverse of `to_natural`."""
        return torch.asinh((x - self.mean.to(x)) / self.scale.to(x))

    def log_prob(self, x: Tensor) -> Tensor:
        """log R (B,) of z (B, D)."""
        return self.base.log_prob(self.to_natural(x)) + self.log_det + _log_cosh(x).sum(-1)

    def log_prob_and_score(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """log R (B,) and its gradient (B, D) with respect to z, by the base's own way to them; -inf and 0 where x
        overflows."""
        log_r, score = self.base.log_prob_and_score(self.to_natural(x.detach()))
        log_r = log_r + self.log_det + _log_cosh(x).sum(-1)
        score = score * self.scale.to(score) * torch.cosh(x) + torch.tanh(x)
        good = torch.isfinite(log_r) & torch.isfinite(score).all(-1)
        return torch.where(good, log_r, -torch.inf), torch.where(good[:, None], score, 0.0)


def _log_cosh(z: Tensor) -> Tensor:
    size = z.abs()
    return size + torch.log1p(torch.exp(-2.0 * size)) - math.log(2.0)
