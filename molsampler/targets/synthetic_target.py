"""What every synthetic target offers beyond a density: where it lies, where its modes are, what a picture shows."""

from __future__ import annotations

import torch
from torch import Tensor

from molsampler.basis.space import Space
from molsampler.targets.target import Target


class SyntheticTarget(Target):
    """A density on R^D in its natural coordinates, with exact or highly accurate samples.

    name : its name in the registry
    centre, extent : (D,) float64, a rough location and half-width, about one standard deviation or more, that are
        known beforehand: N(centre, extent^2) is where a sampler may start
    log_z, log_z_error : log of the integral, exact or with this standard error; log_z is None where it is unknown
    modes : (M, D) float64 centres of the known modes, or None
    mode_radius : a state belongs to its nearest mode if it is not farther away than this
    plot_axes, limits : the two coordinates that a picture shows, and the range (lo, hi) of both its axes

    Constants are kept in float64 and follow the dtype and the device of the states, so float64 in is float64 accurate.
    """

    modes: Tensor | None = None
    mode_radius: float | None = None
    log_z_error: float = 0.0
    plot_axes: tuple[int, int] = (0, 1)

    def __init__(self, name: str, centre: Tensor, extent: Tensor | float, limits: tuple[float, float]) -> None:
        super().__init__()
        self.name, self.limits = name, limits
        self.centre = centre.double()
        self.extent = torch.as_tensor(extent, dtype=torch.float64).expand_as(self.centre).clone()
        self.space = Space.of(len(centre))

    @property
    def first_scale(self) -> Tensor:
        """(D,), or (D, D) lower triangular: the scale of the coordinates whose N(0, I) is a sampler's first prior."""
        return self.extent

    @property
    def n_modes(self) -> int | None:
        """Number of modes that `count_modes` can find; None where none are listed."""
        return None if self.modes is None else len(self.modes)

    def mode_of(self, x: Tensor) -> Tensor:
        """(B,) index of the mode to which each row of x (B, D) belongs, -1 where it belongs to none."""
        if self.modes is None:
            return torch.full((len(x),), -1, device=x.device)
        return nearest(x, self.modes.to(x), self.mode_radius)

    def count_modes(self, x: Tensor) -> int:
        """Number of different modes among samples x (B, D); 0 for a target that lists none."""
        found = self.mode_of(x)
        return len(found[found >= 0].unique())


def nearest(x: Tensor, centres: Tensor, radius: float) -> Tensor:
    """(B,) index of the centre (M, D) nearest to each row of x (B, D), -1 where even that is beyond `radius`."""
    # the other way to compute distances loses all digits where rows are far from the origin and near a centre
    distances = torch.cdist(x, centres, compute_mode="donot_use_mm_for_euclid_dist")
    distance, index = distances.min(1)
    return torch.where(distance <= radius, index, -1)
