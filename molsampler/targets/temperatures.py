"""A molecule at every temperature of a range, as one target with the temperature for its condition:
log R(z; T) = -U(x(z)) / kT + log |dx/dz| - guess(T), with guess(T) about log Z(T) - log Z(T_0) and 0 at T_0.

So brought to about the same integral, weights of different temperatures compare, and what is learnt at one helps the
others; what guess(T) misses is learnt as log Z(T).
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from molsampler.molecules.coordinates.chart import Charted
from molsampler.molecules.coordinates.temperatures import TemperatureChart
from molsampler.molecules.energy.torch_energy import TorchEnergy
from molsampler.targets.molecule import MoleculeTarget


class TemperatureTarget(MoleculeTarget):
    """R of a molecule at the temperature in the last column of its states.

    single : the target at the molecule's own temperature T_0 alone, on the chart whose states have no temperature
    """

    coordinates: TemperatureChart

    def __init__(
        self, single: MoleculeTarget, coordinates: TemperatureChart, compile: bool, say: Callable[[str], None] = print
    ) -> None:
        """coordinates : over the chart of `single`"""
        super().__init__(single.molecule, coordinates, single.energy, compile, say)
        self._single = single

    @property
    def single(self) -> MoleculeTarget:
        return self._single

    def from_single(self, x: Tensor) -> Tensor:
        """States at T_0, where nothing is stretched."""
        return self.coordinates.at(x, self.coordinates.reference)

    def log_prob(self, x: Tensor) -> Tensor:
        """log R (B,) of z (B, D), differentiable but for the temperature, which is given."""
        return super().log_prob(torch.cat([x[:, :-1], x[:, -1:].detach()], dim=1))

    def log_r(self, x: Tensor, potential: Tensor, log_det: Tensor) -> Tensor:
        """As `MoleculeTarget.log_r`, at each state's temperature."""
        temperature = x[:, -1].to(potential)
        beta = self.beta * self.coordinates.reference / temperature
        return -beta * potential + log_det - self.log_z_guess(x).to(potential)

    def log_z_guess(self, x: Tensor) -> Tensor:
        return self.coordinates.log_z_guess(x[:, -1])

    def _log_r_and_score(self, charted: Charted, energy: Tensor, gradient: Tensor) -> tuple[Tensor, Tensor]:
        assert charted.stretch is not None
        beta = self.beta / charted.stretch.square()
        return charted.log_det - beta * energy, self.coordinates.pull_back(charted, -beta * gradient)

    def _placed(self, x: Tensor, energy: TorchEnergy) -> tuple[Charted, Tensor, Tensor]:
        charted, log_r, score = super()._placed(x, energy)
        assert charted.stretch is not None
        # outside the compiled kernels, which would have to be made again for every guess
        temperature = self.coordinates.reference * charted.stretch.square()
        return charted, log_r - self.coordinates.log_z_guess(temperature), score

    def local_moves(self, x: Tensor, n_steps: int, generator: torch.Generator) -> Tensor:
        """Dynamics has one temperature: not offered."""
        raise TypeError("Langevin dynamics moves states of one temperature")
