"""A chart for a range of temperatures at once: its coordinates stretched by temperature, and the temperature behind
them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Self

import torch
from torch import Tensor

from molsampler.basis.coordinates import Coordinates
from molsampler.basis.errors import InputError
from molsampler.basis.space import Condition, Coordinate, Space
from molsampler.molecules.coordinates.chart import Chart, Charted
from molsampler.molecules.coordinates.rotors import Rotor

VALUES = 1024  # temperatures to train on, evenly spaced in log T
DEGREE = 5  # of the polynomial in log T / T_0 that guesses log Z


class TemperatureChart(Coordinates):
    """Coordinates z (B, dim): those of `chart`, the line divided by sqrt(T / T_0), then the temperature T in kelvin.

    A harmonic molecule then has the same density at every temperature: networks have to learn only what differs.

    chart : standardised at `reference`, T_0 in kelvin
    temperatures : (VALUES,) kelvin, to train on
    guess : (DEGREE,) float64, log Z(T) - log Z(T_0) as a polynomial in log T / T_0 without a constant: an estimate, by
        which densities of different temperatures are brought to about the same integral
    """

    def __init__(self, chart: Chart, reference: float, coldest: float, hottest: float) -> None:
        if not 0.0 < coldest <= reference <= hottest:
            raise InputError(
                f"temperatures from {coldest:g} to {hottest:g} K do not hold the molecule's own, {reference:g} K"
            )
        self.chart, self.reference, self.coldest, self.hottest = chart, reference, coldest, hottest
        self.temperatures = torch.linspace(math.log(coldest), math.log(hottest), VALUES, dtype=torch.float64).exp()
        self.guess = torch.zeros(DEGREE, dtype=torch.float64)
        self.n_atoms, self.n_stiff, self.n_soft = chart.n_atoms, chart.n_stiff, chart.n_soft
        self.names, self.soft_atoms, self.rotors = chart.names, chart.soft_atoms, chart.rotors
        self.dim, self.dtype, self.device = chart.dim + 1, chart.dtype, chart.device
        condition = Condition(1, self.temperatures[:, None].float())
        table = [*chart.space.table, Coordinate("temperature", "number")]
        self._space = Space((*chart.space.parts, condition), tuple(table))

    @property
    def space(self) -> Space:
        return self._space

    @property
    def condition_number(self) -> float:
        return self.chart.condition_number

    def stretch(self, temperature: Tensor) -> Tensor:
        """sqrt(T / T_0), the shape of the temperatures T in kelvin."""
        return (temperature / self.reference).sqrt()

    def plain(self, z: Tensor) -> Tensor:
        """z (B, dim) -> coordinates (B, dim - 1) of the same conformations on `chart`."""
        line, soft, temperature = z.split([self.n_stiff, self.n_soft, 1], dim=1)
        return torch.cat([line * self.stretch(temperature), soft], dim=1)

    def at(self, plain: Tensor, temperature: Tensor | float) -> Tensor:
        """Coordinates (B, dim - 1) on `chart` -> z (B, dim) of the same conformations at temperatures (B,), or one for
        all."""
        t = torch.as_tensor(temperature, dtype=plain.dtype, device=plain.device).expand(len(plain))[:, None]
        return torch.cat([plain[:, : self.n_stiff] / self.stretch(t), plain[:, self.n_stiff :], t], dim=1)

    def log_z_guess(self, temperature: Tensor) -> Tensor:
        """About log Z(T) - log Z(T_0), the shape of the temperatures, 0 at T_0 exactly."""
        u = (temperature / self.reference).log()
        found = torch.zeros_like(u)
        for coefficient in reversed(self.guess.tolist()):
            found = u * (coefficient + found)
        return found

    def fit_guess(self, temperatures: Tensor, log_z: Tensor) -> None:
        """Sets `guess` by estimates (R,) of log Z(T) - log Z(T_0) at temperatures (R,), least squares."""
        u = (temperatures.double() / self.reference).log()
        powers = torch.stack([u ** (k + 1) for k in range(min(DEGREE, int((u.abs() > 1e-6).sum())))], 1)
        fitted = torch.linalg.lstsq(powers, log_z.double()[:, None], driver="gelsd").solution[:, 0]
        self.guess = torch.zeros(DEGREE, dtype=torch.float64)
        self.guess[: len(fitted)] = fitted

    # The map

    def place_batch_last(self, z: Tensor) -> Charted:
        """z (dim, B) -> Charted: atoms in a fixed frame and log |dx/dz| at fixed temperature, the batch last."""
        line, soft, temperature = z.split([self.n_stiff, self.n_soft, 1])
        stretch = self.stretch(temperature)
        charted = self.chart.place_batch_last(torch.cat([line * stretch, soft]))
        stretch = stretch[0]
        return charted._replace(log_det=charted.log_det + self.n_stiff * stretch.log(), stretch=stretch)

    def pull_back(self, charted: Charted, gradient: Tensor) -> Tensor:
        """As `Chart.pull_back`, (dim, B); zero for the temperature."""
        assert charted.stretch is not None
        own = self.chart.pull_back(charted, gradient)
        line, soft = own.split([self.n_stiff, self.n_soft])
        return torch.cat([line * charted.stretch, soft, torch.zeros_like(own[:1])])

    def to_natural(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """As `Chart.to_natural`, each state at its temperature."""
        charted = self.place_batch_last(z.T)
        return charted.placed.positions.permute(2, 1, 0), charted.log_det

    def to_standard(self, x: Tensor, temperature: Tensor | float | None = None) -> Tensor:
        """positions x (B, N, 3) nm in any frame -> z (B, dim) at temperatures (B,) or one for all, by default T_0."""
        return self.at(self.chart.to_standard(x), self.reference if temperature is None else temperature)

    def inside(self, z: Tensor, x: Tensor | None = None) -> Tensor:
        """As `Chart.inside`."""
        return self.chart.inside(self.plain(z), x)

    def turn_rotors(
        self, z: Tensor, score: Tensor, rotors: Sequence[Rotor], generator: torch.Generator
    ) -> tuple[Tensor, Tensor]:
        """As `Chart.turn_rotors`; the temperature stays."""
        stretch = self.stretch(z[:, -1:])
        own = torch.cat([score[:, : self.n_stiff] / stretch, score[:, self.n_stiff : -1]], dim=1)
        turned, by_turned = self.chart.turn_rotors(self.plain(z), own, rotors, generator)
        by_line = by_turned[:, : self.n_stiff] * stretch
        return self.at(turned, z[:, -1]), torch.cat([by_line, by_turned[:, self.n_stiff :], score[:, -1:]], dim=1)

    # Standardisation and keeping

    def fit(self, x: Tensor, weights: Tensor | None = None) -> Self:
        """As `Chart.fit`, by frames at T_0."""
        self.chart.fit(x, weights)
        return self

    def standardise(self, mean: Tensor, covariance: Tensor) -> Self:
        """As `Chart.standardise`, at T_0."""
        self.chart.standardise(mean, covariance)
        return self

    def state_dict(self) -> dict:
        """The chart's measurements and the range of temperatures: tensors and plain Python only."""
        return {
            "chart": self.chart.state_dict(),
            "temperatures": [self.reference, self.coldest, self.hottest],
            "guess": self.guess,
        }

    def load_state_dict(self, state: dict) -> None:
        """Takes over what `state_dict` gave; raises InputError where it belongs to other coordinates."""
        own = [self.reference, self.coldest, self.hottest]
        if state.get("temperatures") != own:
            raise InputError(
                f"the stored coordinates are for the temperatures {state.get('temperatures')} (the molecule's own, the "
                f"coldest and the hottest), not {own}: put the molecule's temperature back, or begin a new run"
            )
        self.chart.load_state_dict(state["chart"])
        self.guess = state["guess"]
