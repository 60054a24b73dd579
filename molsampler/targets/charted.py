"""A density on R^D seen through coordinates, so that it lies where the sampler's prior does."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from molsampler.basis.coordinates import Coordinates
from molsampler.basis.errors import InputError
from molsampler.basis.space import Circle, Space
from molsampler.targets.coordinates.affine import Affine
from molsampler.targets.coordinates.sinh import Sinh
from molsampler.targets.target import Target

Standardise = Literal["prior", "diagonal", "full", "sinh"]
"""The first coordinates as they are, or fitted to states: spread, covariance, or sinh for heavy tails."""


class Charted(Target):
    """log R(z) = log R_base(x(z)) + log |det dx/dz|; log Z is the base's, whose counter books the evaluations."""

    def __init__(self, base: Target, coordinates: Coordinates) -> None:
        if base.space.count(Circle):
            raise InputError(
                f"the target has {base.space.count(Circle)} angles, which these coordinates do not keep on the circle; "
                "standardise targets on the line only"
            )
        if coordinates.space.dim != base.space.dim:
            raise InputError(
                f"the coordinates have dimension {coordinates.space.dim} and the target {base.space.dim}: make them "
                f"alike"
            )
        self.base, self.coordinates = base, coordinates
        self.log_z, self.counter = base.log_z, base.counter

    @property
    def space(self):  # noqa: ANN201, the base class annotates it
        return self.coordinates.space

    def log_prob(self, x: Tensor) -> Tensor:
        """log R (B,) of z (B, D)."""
        natural, log_det = self.coordinates.to_natural(x)
        return self.base.log_prob(natural) + log_det

    def log_prob_and_score(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """log R (B,) and its gradient (B, D) with respect to z, by the base's own way to them; -inf and 0 where x
        overflows."""
        with torch.enable_grad():
            z = x.detach().requires_grad_()
            natural, log_det = self.coordinates.to_natural(z)
            log_r, score = self.base.log_prob_and_score(natural.detach())
            (pulled,) = torch.autograd.grad((natural * score).sum() + log_det.sum(), z)
        log_r = log_r + log_det.detach()
        reached = torch.isfinite(natural.detach()).all(-1)
        good = reached & ~torch.isposinf(log_r) & torch.isfinite(pulled).all(-1)
        log_r = torch.where(good | (reached & torch.isnan(log_r)), log_r, -torch.inf)
        return log_r, torch.where((good & torch.isfinite(log_r))[:, None], pulled, 0.0)

    def sample(self, generator: torch.Generator, n: int) -> Tensor:
        """(n, D) samples of the base, standardised."""
        return self.coordinates.to_standard(self.base.sample(generator, n))


def first_coordinates(
    centre: Tensor, scale: Tensor, standardise: Standardise = "prior", space: Space | None = None
) -> Affine:
    """Coordinates whose N(0, I) is the rough location and extent that are known beforehand.

    centre : (D,); scale : (D,), or (D, D) lower triangular; standardise : how `fit` will change them; space : of the
        target, where it is more than R^D
    """
    if standardise == "sinh":
        return Sinh(centre, scale if scale.ndim == 1 else scale.square().sum(1).sqrt())
    return Affine(centre, scale, "full" if standardise == "full" else "diagonal", space)
