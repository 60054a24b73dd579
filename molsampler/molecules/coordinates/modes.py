"""Modes: the few directions on the line along which a molecule is far from harmonic, put on the circle.

A ring leaves its mean along a bent and uneven sheet: nearly all that keeps its chart from being a standard normal is in
a dozen directions of some ninety. These are soft coordinates as torsions are, and are sampled as such: a mode y with
spread s becomes the angle pi erf(y / (s sqrt 2)), under which a uniform angle is y from N(0, s^2). The circle's seam is
at infinity, and states beyond REACH spreads are off the support.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

import torch
from torch import Tensor

from molsampler.basis.coordinates import Coordinates
from molsampler.basis.errors import InputError
from molsampler.basis.settings import POSITIVE, setting
from molsampler.basis.space import Circle, Coordinate, Label, Line, Space
from molsampler.molecules.coordinates.atlas import Atlas
from molsampler.molecules.coordinates.chart import Chart, Charted
from molsampler.molecules.coordinates.rotors import Rotor

WIDER = 1.5
"""Spread of the uniform angle's y over the states' own: tails of the states are to vanish at the seam."""
REACH = 5.0  # spreads, seven of the states' own; at more an angle in float32 cannot tell the mode
_LOG_SQRT_2PI = 0.5 * math.log(2.0 * math.pi)


@dataclass(frozen=True)
class ModesConfig:
    """Directions of the line that are drawn before the others, as torsions are."""

    most: int = setting(0, "modes at most, such as 12; 0 leaves all on the line", low=0)
    least: float = setting(
        0.25, "by which E[s^2] of a mode's score s is to exceed 1, a normal's", above=0.0, needs={"most": POSITIVE}
    )


class ModeChart(Coordinates):
    """Coordinates z (B, dim): those of `inner` on the line less the last ones, its soft torsions, these last ones as
    angles in (-pi, pi), and its label, if it has one.

    inner : a chart or an atlas whose stiff coordinates end with n_modes modes (`Chart.single_out`)
    scale : (n_modes,) float64, standard deviation of a mode whose angle is uniform
    """

    def __init__(self, inner: Chart | Atlas, n_modes: int) -> None:
        self.inner, self.n_modes = inner, n_modes
        for chart in _charts(inner):
            if len(chart.spreads) != n_modes:
                chart.single_out(n_modes)
        if isinstance(inner, Atlas):
            inner.install()
        self.n_atoms, self.n_stiff, self.n_soft = inner.n_atoms, inner.n_stiff, inner.n_soft
        self.names, self.soft_atoms, self.rotors = inner.names, inner.soft_atoms, inner.rotors
        self.dim, self.dtype, self.device = inner.dim, inner.dtype, inner.device
        self._sizes = [self.n_stiff - n_modes, self.n_soft, n_modes, self.dim - self.n_stiff - self.n_soft]
        self._space = self._make_space()
        self._measure()

    def _make_space(self) -> Space:
        line, _, _, label = self._sizes
        table = list(self.inner.space.table)
        modes = [Coordinate(f"mode {i + 1}") for i in range(self.n_modes)]
        behind = [part for part in self.inner.space.parts if isinstance(part, Label)]
        parts = (Line(line), Circle(self.n_soft + self.n_modes), *behind)
        rows = [*table[:line], *table[self.n_stiff : self.dim - label], *modes, *table[self.dim - label :]]
        return Space(parts, tuple(rows))

    def _measure(self) -> None:
        """Takes the modes' scale from the charts' spreads: the widest of all pieces'."""
        spreads = torch.stack([chart.spreads for chart in _charts(self.inner)]).amax(0)
        self._take(WIDER * spreads)

    def _take(self, scale: Tensor) -> None:
        self.scale = scale
        self._work_scale = scale.to(self.device, self.dtype)[:, None]
        self._log_scale = float((scale.log() - _LOG_SQRT_2PI).sum())

    @property
    def space(self) -> Space:
        return self._space

    @property
    def condition_number(self) -> float:
        return self.inner.condition_number

    # The map

    def plain(self, z: Tensor) -> Tensor:
        """z (B, dim) -> coordinates (B, dim) of the same conformations on `inner`."""
        line, soft, angle, label = z.split(self._sizes, dim=1)
        return torch.cat([line, self._unbent(angle.T).T, soft, label], dim=1)

    def at(self, plain: Tensor) -> Tensor:
        """Coordinates (B, dim) on `inner` -> z (B, dim) of the same conformations."""
        line, soft, mode, label = self._split_plain(plain, 1)
        angle = math.pi * torch.erf(mode / (math.sqrt(2.0) * self._work_scale.T))
        return torch.cat([line, soft, angle, label], dim=1)

    def _split_plain(self, plain: Tensor, dim: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        line, soft, modes, label = self._sizes
        first, mode, second, last = plain.split([line, modes, soft, label], dim=dim)
        return first, second, mode, last

    def _unbent(self, angle: Tensor) -> Tensor:
        """Angles (n_modes, B) -> modes y (n_modes, B), infinite at the seam."""
        return math.sqrt(2.0) * self._work_scale * torch.erfinv(angle / math.pi)

    def _slope(self, mode: Tensor) -> Tensor:
        """dy/dangle (n_modes, B) at y."""
        return self._work_scale * (0.5 * (mode / self._work_scale).square() - _LOG_SQRT_2PI).exp()

    def _by_angle(self, by_mode: Tensor, mode: Tensor) -> Tensor:
        """grad log R by the angles (n_modes, B), from that by the modes y on `inner`."""
        return (by_mode + mode / self._work_scale.square()) * self._slope(mode)

    def _log_slope(self, mode: Tensor) -> Tensor:
        """log |dy/dangle| (B,) of all modes y (n_modes, B)."""
        return 0.5 * (mode / self._work_scale).square().sum(0) + self._log_scale

    def log_bend(self, z: Tensor) -> Tensor:
        """As in `Coordinates`: a rotor's turn moves modes."""
        return self._log_slope(self._unbent(z.split(self._sizes, dim=1)[2].T))

    def place_batch_last(self, z: Tensor) -> Charted:
        """z (dim, B) -> Charted: atoms in a fixed frame and log |dx/dz|, all with the batch as the last axis."""
        line, soft, angle, label = z.split(self._sizes)
        mode = self._unbent(angle)
        charted = self.inner.place_batch_last(torch.cat([line, mode, soft, label]))
        return charted._replace(log_det=charted.log_det + self._log_slope(mode), modes=mode)

    def pull_back(self, charted: Charted, gradient: Tensor) -> Tensor:
        """As `Chart.pull_back`, (dim, B)."""
        mode = charted.modes
        assert mode is not None
        line, soft, by_mode, label = self._split_plain(self.inner.pull_back(charted, gradient), 0)
        return torch.cat([line, soft, self._by_angle(by_mode, mode), label])

    def to_natural(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """As `Chart.to_natural`."""
        charted = self.place_batch_last(z.T)
        return charted.placed.positions.permute(2, 1, 0), charted.log_det

    def to_standard(self, x: Tensor) -> Tensor:
        """positions x (B, N, 3) nm in any frame -> z (B, dim)."""
        return self.at(self.inner.to_standard(x))

    def inside(self, z: Tensor, x: Tensor | None = None) -> Tensor:
        """z (B, dim) -> (B,) bool: on the support of `inner`, and no mode beyond REACH."""
        angle = z.split(self._sizes, dim=1)[2]
        near = (angle.abs() < math.pi * math.erf(REACH / math.sqrt(2.0))).all(1)
        return near & self.inner.inside(self.plain(z), x)

    def turn_rotors(
        self, z: Tensor, score: Tensor, rotors: Sequence[Rotor], generator: torch.Generator
    ) -> tuple[Tensor, Tensor]:
        """As `Chart.turn_rotors`."""
        plain, own = self._plain_score(z, score)
        turned, by_turned = self.inner.turn_rotors(plain, own, rotors, generator)
        line, soft, by_mode, label = self._split_plain(by_turned, 1)
        by_angle = self._by_angle(by_mode.T, self._split_plain(turned, 1)[2].T)
        return self.at(turned), torch.cat([line, soft, by_angle.T, label], dim=1)

    def _plain_score(self, z: Tensor, score: Tensor) -> tuple[Tensor, Tensor]:
        """Coordinates and grad log R on `inner` (B, dim), of states z (B, dim) and grad log R here."""
        line, soft, by_angle, label = score.split(self._sizes, dim=1)
        plain = self.plain(z)
        mode = self._split_plain(plain, 1)[2].T
        by_mode = by_angle.T / self._slope(mode) - mode / self._work_scale.square()
        return plain, torch.cat([line, by_mode.T, soft, label], dim=1)

    # Standardisation and keeping

    def fit(self, x: Tensor, weights: Tensor | None = None) -> Self:
        """As `Chart.fit`; the modes stay where they are among the standardised coordinates."""
        self.inner.fit(x, weights)
        return self

    def standardise(self, mean: Tensor, covariance: Tensor) -> Self:
        """As `Chart.standardise`."""
        self.inner.standardise(mean, covariance)
        return self

    refines = True

    def refine(self, z: Tensor, score: Tensor) -> Self:
        """As `Chart.refine`, with the modes that these states have."""
        self.inner.refine(*self._plain_score(z, score))
        self._measure()
        return self

    def state_dict(self) -> dict:
        """The measurements of `inner` and the modes' scale: tensors and plain Python only."""
        return {"inner": self.inner.state_dict(), "modes": self.scale}

    def load_state_dict(self, state: dict) -> None:
        """Takes over what `state_dict` gave; raises InputError where it belongs to other coordinates."""
        if len(state.get("modes", ())) != self.n_modes:
            raise InputError(f"the stored coordinates have no {self.n_modes} modes: they are another molecule's")
        self.inner.load_state_dict(state["inner"])
        self._take(state["modes"])


def with_modes(inner: Chart | Atlas, config: ModesConfig) -> Chart | Atlas | ModeChart:
    """`inner`, standardised, with the modes of its least normal piece on the circle; as it is where none is far from
    normal."""
    found = 0
    for chart in _charts(inner):
        if config.most and chart.information is not None:
            found = max(found, int((torch.linalg.eigvalsh(chart.information) > 1.0 + config.least).sum()))
    found = min(found, config.most, inner.n_stiff - 1)
    return ModeChart(inner, found) if found else inner


def _charts(inner: Chart | Atlas) -> Sequence[Chart]:
    return inner.charts if isinstance(inner, Atlas) else [inner]
