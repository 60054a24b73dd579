"""The door for a density of one's own: any object that fulfils the target contract, or a plain function."""

from __future__ import annotations

from collections.abc import Callable
from numbers import Integral
from typing import Any

import torch
from torch import Tensor

from molsampler.basis.errors import InputError
from molsampler.basis.space import Circle, Space
from molsampler.targets.target import Target

_PROBES = 64


class Density(Target):
    """An unnormalised density on R^dim from a function.

    log_prob : states (B, dim) -> log R (B,), in torch, differentiable, for float32 and float64; -inf where R is 0
    centre, extent : (dim,) or numbers, rough location and half-width that are known beforehand: N(centre, extent^2) is
        where the sampler starts, so it should reach every mode
    log_z : log of the integral, where it is known
    """

    def __init__(
        self,
        log_prob: Callable[[Tensor], Tensor],
        dim: int,
        *,
        centre: Any = 0.0,
        extent: Any = 1.0,
        log_z: float | None = None,
        name: str = "density",
    ) -> None:
        super().__init__()
        if dim < 1:
            raise InputError(f"a density of dimension {dim} has nothing to sample: give at least 1")
        self.name, self.space, self.log_z = name, Space.of(dim), log_z
        self._log_prob = log_prob
        self.centre, self.extent = (
            _vector(value, dim, what) for value, what in ((centre, "centre"), (extent, "extent"))
        )
        if not bool((self.extent > 0.0).all()):
            raise InputError(f"the extent {extent!r} is not positive: give the half-width of each coordinate")

    def log_prob(self, x: Tensor) -> Tensor:
        """log R, (B,), of states x (B, dim)."""
        return self._log_prob(x)


def as_target(given: Any) -> Target:
    """The target that is meant by a Target, by an object with `log_prob` and `dim` (or `space`), and perhaps `centre`,
    `extent`, `log_z` and `name`.

    Raises InputError, in one sentence, for what does not fulfil the contract; its log_prob is tried at a few states.
    """
    if isinstance(given, Target):
        target = given
    else:
        log_prob = getattr(given, "log_prob", None)
        dim = getattr(given, "dim", getattr(getattr(given, "space", None), "dim", None))
        if not callable(log_prob) or not isinstance(dim, Integral):  # NumPy's too
            raise InputError(
                f"{type(given).__name__} is no target: give an object with log_prob(x), (B, dim) -> (B,), and dim, "
                f"or a "
                "molsampler.Density"
            )
        known = {name: getattr(given, name) for name in ("centre", "extent", "log_z", "name") if hasattr(given, name)}
        target = Density(log_prob, int(dim), **known)
    if target.space.count(Circle):
        raise InputError(
            f"the target has {target.space.count(Circle)} angles; densities of one's own live on the line for now"
        )
    if target.space.conditional:
        raise InputError(
            f"{type(target).__name__} is a density for every condition, and a run on a density of one's own is on one: "
            "give the density of a single condition"
        )
    _try(target)
    return target


def start_of(target: Target) -> tuple[Tensor, Tensor]:
    """centre (D,) and first scale, (D,) or (D, D), of where a sampler may start; 0 and 1 where the target names
    none."""
    dim = target.space.dim
    centre = getattr(target, "centre", torch.zeros(dim, dtype=torch.float64))
    extent = getattr(target, "extent", torch.ones(dim, dtype=torch.float64))
    return centre, getattr(target, "first_scale", extent)


def _try(target: Target) -> None:
    """InputError where log_prob does not do at a few states what the sampler will ask of it."""
    centre, scale = start_of(target)
    dim = target.space.dim
    noise = torch.randn(_PROBES, dim, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    x = (centre + (noise * scale if scale.ndim == 1 else noise @ scale.T)).float().requires_grad_()
    name = type(target).__name__
    try:
        log_r = target.log_prob(x)
    except Exception as error:
        raise InputError(f"log_prob of {name} fails on states ({_PROBES}, {dim}) in float32: {error}") from error
    if not isinstance(log_r, Tensor) or log_r.shape != (_PROBES,):
        shape = tuple(log_r.shape) if isinstance(log_r, Tensor) else type(log_r).__name__
        raise InputError(f"log_prob of {name} gives {shape} for states ({_PROBES}, {dim}): return ({_PROBES},)")
    if not log_r.requires_grad:
        raise InputError(f"log_prob of {name} cannot be differentiated: compute it from x with torch alone")
    if not bool(torch.isfinite(log_r).any()):
        raise InputError(
            f"log_prob of {name} is finite at none of {_PROBES} draws from N(centre, extent^2): say with centre and "
            "extent where the density lies"
        )


def _vector(value: Any, dim: int, what: str) -> Tensor:
    try:
        vector = torch.as_tensor(value, dtype=torch.float64)
    except (TypeError, ValueError, RuntimeError):
        vector = torch.full((1,), torch.nan)
    if vector.ndim > 1 or vector.numel() not in (1, dim) or not bool(torch.isfinite(vector).all()):
        raise InputError(f"the {what} {value!r} is not usable: give a finite number, or {dim} of them")
    return vector.expand(dim).clone()
