"""A target seen through a linear change of coordinates, so that it lies where the sampler's prior does."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from molsampler.basis.errors import InputError
from molsampler.targets.target import Target


class Affine(Target):
    """log R(z) = log R_base(x(z)) + log |det dx/dz| with x = mean + scale z; log Z is the base's.

    base : a target on R^D (no angles); its counter books the evaluations
    mean : (D,)
    scale : (D,) positive, or (D, D) lower triangular with a positive diagonal

    mean and scale are kept in float64 and follow the dtype and the device of the states.
    """

    def __init__(self, base: Target, mean: Tensor, scale: Tensor) -> None:
        if base.space.n_circle:
            raise InputError(
                f"the target has {base.space.n_circle} angles, which a linear map does not keep on the circle; "
                "standardise targets on the line only"
            )
        self.base, self.space, self.log_z, self.counter = base, base.space, base.log_z, base.counter
        self._set(mean, scale)

    def _set(self, mean: Tensor, scale: Tensor) -> None:
        dim = self.space.dim
        mean, scale = mean.detach().double().clone(), scale.detach().double().clone()
        if mean.shape != (dim,) or scale.shape not in {(dim,), (dim, dim)}:
            raise InputError(
                f"mean and scale have shapes {tuple(mean.shape)} and {tuple(scale.shape)}; a target of {dim} "
                f"coordinates needs ({dim},) and ({dim},) or ({dim}, {dim})"
            )
        diagonal = scale if scale.ndim == 1 else scale.diagonal()
        if not (torch.isfinite(mean).all() and torch.isfinite(scale).all() and (diagonal > 0.0).all()):
            raise InputError(
                f"the smallest scale is {float(diagonal.min()):.3g}; give finite numbers and positive scales"
            )
        if scale.ndim == 2 and bool(scale.triu(1).any()):
            raise InputError(
                f"the scale has {float(scale.triu(1).abs().max()):.3g} above its diagonal; make it lower triangular"
            )
        self.mean, self.scale = mean, scale
        self.log_det = float(diagonal.log().sum())

    @classmethod
    def fit(cls, base: Target, x: Tensor, kind: Literal["diagonal", "full"] = "diagonal") -> Affine:
        """The chart on which samples x (M, D), in the base's coordinates, have mean 0 and spread 1 ("diagonal") or
        covariance I ("full"). Needs M of at least 2, or D + 1 for "full", and samples that spread in every direction.
        """
        if kind not in ("diagonal", "full"):
            raise InputError(f"unknown standardisation '{kind}'; choose diagonal or full")
        dim = base.space.dim
        least = 2 if kind == "diagonal" else dim + 1
        if x.ndim != 2 or x.shape[1] != dim or len(x) < least:
            raise InputError(
                f"samples have shape {tuple(x.shape)}; a {kind} standardisation of {dim} coordinates needs "
                f"(M, {dim}) with M of at least {least}"
            )
        x = x.detach().double()
        if not bool(torch.isfinite(x).all()):
            raise InputError(f"{int((~torch.isfinite(x)).any(1).sum())} of {len(x)} samples are not finite; drop them")
        mean, std = x.mean(0), x.std(0)
        # rounding leaves a spread of about 1e-16 of the size where there is none
        if bool((std <= 1e-12 * x.abs().amax(0)).any()):
            raise InputError(
                f"coordinate {int(std.argmin())} has the same value in all {len(x)} samples; drop it or move it"
            )
        if kind == "diagonal":
            return cls(base, mean, std)
        unit = (x - mean) / std
        factor, failed = torch.linalg.cholesky_ex(unit.T @ unit / (len(x) - 1))
        if int(failed) or float(factor.diagonal().min()) < 1e-6:
            raise InputError(
                f"the {len(x)} samples do not spread in all {dim} directions; use more samples or the diagonal kind"
            )
        return cls(base, mean, std[:, None] * factor)

    def to_natural(self, z: Tensor) -> Tensor:
        """z (B, D) -> x (B, D) in the base's coordinates."""
        scale = self.scale.to(z)
        return self.mean.to(z) + (z * scale if scale.ndim == 1 else z @ scale.T)

    def to_standard(self, x: Tensor) -> Tensor:
        """x (B, D) -> z (B, D), the inverse of `to_natural`."""
        scale, shifted = self.scale.to(x), x - self.mean.to(x)
        if scale.ndim == 1:
            return shifted / scale
        return torch.linalg.solve_triangular(scale, shifted.T, upper=False).T

    def log_prob(self, x: Tensor) -> Tensor:
        """log R (B,) of z (B, D)."""
        return self.base.log_prob(self.to_natural(x)) + self.log_det

    def log_prob_and_score(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """log R (B,) and its gradient (B, D) with respect to z, by the base's own way to them."""
        log_r, score = self.base.log_prob_and_score(self.to_natural(x.detach()))
        scale = self.scale.to(score)
        return log_r + self.log_det, score * scale if scale.ndim == 1 else score @ scale

    def sample(self, generator: torch.Generator, n: int) -> Tensor:
        """(n, D) samples of the base, standardised."""
        return self.to_standard(self.base.sample(generator, n))

    def state_dict(self) -> dict[str, Tensor]:
        """mean and scale, plain tensors."""
        return {"mean": self.mean, "scale": self.scale}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Take over another chart of the same target; refused by InputError where the shapes do not fit it."""
        self._set(state["mean"], state["scale"])
