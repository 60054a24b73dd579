"""Coordinates through sinh, one by one: tails that fall like a power become exponential ones."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from molsampler.basis.bisection import last_where
from molsampler.basis.errors import InputError
from molsampler.targets.coordinates.affine import Affine


class Sinh(Affine):
    """x = mean + scale sinh(z), scale (D,)."""

    def _set(self, mean: Tensor, scale: Tensor) -> None:
        if scale.ndim != 1:
            raise InputError(
                f"the scale has shape {tuple(scale.shape)}; one positive number a coordinate goes with sinh"
            )
        super()._set(mean, scale)

    def fit(self, x: Tensor, weights: Tensor | None = None) -> Sinh:
        """Median 0 and root mean square 1 in every coordinate."""
        if weights is not None:
            raise InputError("sinh coordinates are fitted to equally weighted states: resample them first")
        super().fit(x)  # refuses what cannot be standardised
        x = x.detach().double()
        median, log_scale = x.median(0).values, self.scale.log()
        # the mean of asinh(x / s)^2 falls in s
        found = last_where(
            lambda s: torch.asinh((x - median) / s.exp()).square().mean(0) > 1.0, log_scale - 40.0, log_scale + 10.0
        )
        self._set(median, found.exp())
        return self

    def to_natural(self, z: Tensor) -> tuple[Tensor, Tensor]:
        return self.mean.to(z) + self.scale.to(z) * torch.sinh(z), self.log_det + _log_cosh(z).sum(-1)

    def to_standard(self, x: Tensor) -> Tensor:
        return torch.asinh((x - self.mean.to(x)) / self.scale.to(x))


def _log_cosh(z: Tensor) -> Tensor:
    size = z.abs()
    return size + torch.log1p(torch.exp(-2.0 * size)) - math.log(2.0)
