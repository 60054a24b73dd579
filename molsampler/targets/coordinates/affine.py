"""Coordinates of R^D that lie where a sampler's prior does: x = mean + scale z."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from molsampler.basis.coordinates import Coordinates
from molsampler.basis.errors import InputError
from molsampler.basis.space import Space

Kind = Literal["diagonal", "full"]


class Affine(Coordinates):
    """x = mean + scale z on the line.

    mean : (D,); scale : (D,) positive, or (D, D) lower triangular with a positive diagonal
    space : of the states, where it is more than R^D: a condition in it should have mean 0 and scale 1, to stay as it is
    kind : what `fit` gives the states that it is fitted to, mean 0 and spread 1 ("diagonal") or covariance I ("full")

    mean and scale are kept in float64 and follow the dtype and the device of the states.
    """

    def __init__(self, mean: Tensor, scale: Tensor, kind: Kind = "diagonal", space: Space | None = None) -> None:
        if kind not in ("diagonal", "full"):
            raise InputError(f"unknown standardisation '{kind}'; choose diagonal or full")
        self.kind = kind
        self._space = space or Space.of(len(mean))
        self._set(mean, scale)

    @property
    def space(self) -> Space:
        return self._space

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

    def fit(self, x: Tensor, weights: Tensor | None = None) -> Affine:
        """Needs at least 2 states, or D + 1 for "full", that spread in every direction."""
        dim = self.space.dim
        least = 2 if self.kind == "diagonal" else dim + 1
        if x.ndim != 2 or x.shape[1] != dim or len(x) < least:
            raise InputError(
                f"samples have shape {tuple(x.shape)}; a {self.kind} standardisation of {dim} coordinates needs "
                f"(M, {dim}) with M of at least {least}"
            )
        x = x.detach().double()
        if not bool(torch.isfinite(x).all()):
            raise InputError(f"{int((~torch.isfinite(x)).any(1).sum())} of {len(x)} samples are not finite; drop them")
        mean, std = _moments(x, weights)
        # rounding leaves a spread of about 1e-16 of the size where there is none
        if bool((std <= 1e-12 * x.abs().amax(0)).any()):
            raise InputError(
                f"coordinate {int(std.argmin())} has the same value in all {len(x)} samples; drop it or move it"
            )
        if self.kind == "diagonal":
            self._set(mean, std)
            return self
        unit = (x - mean) / std
        share = 1.0 / (len(x) - 1) if weights is None else (weights.double() / weights.double().sum())[:, None]
        factor, failed = torch.linalg.cholesky_ex(unit.T @ (share * unit))
        if int(failed) or float(factor.diagonal().min()) < 1e-6:
            raise InputError(
                f"the {len(x)} samples do not spread in all {dim} directions; use more samples or the diagonal kind"
            )
        self._set(mean, std[:, None] * factor)
        return self

    def standardise(self, mean: Tensor, covariance: Tensor) -> Affine:
        covariance = covariance.double()
        if self.kind == "diagonal":
            self._set(mean, covariance.diagonal().sqrt())
            return self
        factor, failed = torch.linalg.cholesky_ex(covariance)
        if int(failed):
            raise InputError("the covariance is not positive definite: give more samples, less alike")
        self._set(mean, factor)
        return self

    def to_natural(self, z: Tensor) -> tuple[Tensor, Tensor]:
        scale = self.scale.to(z)
        x = self.mean.to(z) + (z * scale if scale.ndim == 1 else z @ scale.T)
        return x, torch.full_like(z[:, 0], self.log_det)

    def to_standard(self, x: Tensor) -> Tensor:
        scale, shifted = self.scale.to(x), x - self.mean.to(x)
        if scale.ndim == 1:
            return shifted / scale
        return torch.linalg.solve_triangular(scale, shifted.T, upper=False).T

    def inside(self, z: Tensor, x: Tensor | None = None) -> Tensor:
        return torch.isfinite(z).all(-1)

    def state_dict(self) -> dict:
        return {"mean": self.mean, "scale": self.scale}

    def load_state_dict(self, state: dict) -> None:
        self._set(state["mean"], state["scale"])


def _moments(x: Tensor, weights: Tensor | None) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation (D,) of x (M, D)."""
    if weights is None:
        return x.mean(0), x.std(0)
    w = weights.double() / weights.double().sum()
    mean = w @ x
    return mean, (w @ (x - mean).square()).sqrt()
