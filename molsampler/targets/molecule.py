"""A molecule as a target: log R(z) = -beta U(x(z)) + log |det dx/dz| on the chart's support, -inf outside.

The one place where molecules meets the sampler. With the torch energy, chart and energy are one graph,
differentiated and compiled as a whole; with the OpenMM bridge the forces come from OpenMM and the chart's derivative
from autograd.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from molsampler.basis.compilation import CompiledOrEager
from molsampler.molecules.coordinates.chart import Chart
from molsampler.molecules.dynamics.langevin import Langevin
from molsampler.molecules.energy.contract import Energy
from molsampler.molecules.energy.torch_energy import SMALL_PIECE, TorchEnergy
from molsampler.molecules.molecule import Molecule
from molsampler.targets.target import Target

MOVES_FRICTION = 5.0  # 1/ps: local moves are to forget their start, not to follow it


class MoleculeTarget(Target):
    """R on the chart of a molecule.

    compile : fuse chart, energy and gradient by torch.compile (torch energy only)
    """

    def __init__(
        self, molecule: Molecule, chart: Chart, energy: Energy, compile: bool = True, say: Callable[[str], None] = print
    ) -> None:
        self.molecule, self.coordinates, self.energy = molecule, chart, energy
        self.counter = energy.counter
        self.space = chart.space
        self.beta = molecule.beta
        self._fused = isinstance(energy, TorchEnergy)
        self._kernel = CompiledOrEager(self._log_r_and_score, say) if compile and self._fused else self._log_r_and_score
        self._piece_size = energy.piece if isinstance(energy, TorchEnergy) else 0

    def log_prob(self, x: Tensor) -> Tensor:
        """log R (B,) of z (B, D): line coordinates standardised, soft torsions in radians."""
        if torch.is_grad_enabled() and x.requires_grad:
            positions, log_det = self.coordinates.to_natural(x)
            log_r = -self.beta * self.energy(positions) + log_det
            return torch.where(self.coordinates.inside(x, positions), log_r, -torch.inf)
        return self.log_prob_and_score(x)[0]

    @torch.no_grad()
    def log_prob_and_score(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """log R (B,) and its gradient (B, D), one evaluation of the energy; the gradient is zero where log R is
        -inf."""
        if not self._fused:
            return self._differentiate(x)  # the energy books the evaluations
        if not len(x):
            return x.new_zeros(0), torch.zeros_like(x)
        pieces = [self._piece(piece) for piece in x.detach().split(self._piece_size)]
        log_r, score, inside = (torch.cat(part) for part in zip(*pieces, strict=True))
        bad = torch.isnan(log_r) | torch.isposinf(log_r) | (~torch.isfinite(score).all(-1) & torch.isfinite(log_r))
        self.counter.add(len(x), int(bad.sum()))
        log_r = torch.where(inside & ~bad, log_r, -torch.inf)
        return log_r, torch.where(torch.isfinite(log_r)[:, None], score, 0.0)

    def _piece(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        # padded to the energy's piece or to its small one: two sizes, compiled once each
        n = len(x)
        size = SMALL_PIECE if n <= SMALL_PIECE else self._piece_size
        padded = torch.cat([x, x[:1].expand(size - n, -1)]).T.contiguous()
        log_r, score, positions = self._kernel(padded)
        inside = self.coordinates.inside(x, positions.permute(2, 1, 0)[:n])
        return log_r[:n], score.T[:n], inside

    def _log_r_and_score(self, z: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """z (D, B) -> log R (B,), score (D, B), positions (3, N, B); the batch last, where it is contiguous."""

        def summed(z: Tensor) -> tuple[Tensor, tuple[Tensor, Tensor]]:
            positions, log_det = self.coordinates.to_cartesian_batch_last(z)
            log_r = -self.beta * self.energy.potential(positions) + log_det
            return log_r.sum(), (log_r, positions)

        # not torch.autograd.grad: only torch.func stays inside one compiled graph
        score, (_, (log_r, positions)) = torch.func.grad_and_value(summed, has_aux=True)(z)
        return log_r, score, positions

    @torch.no_grad()
    def local_moves(self, x: Tensor, n_steps: int, generator: torch.Generator) -> Tensor:
        """States (M, D) after n_steps of Langevin dynamics (1 fs, 5 / ps) from x (M, D) at the target's temperature.

        Costs M (n_steps + 1) evaluations. The result may lie off the support, or be where a conformation failed.
        """
        dynamics = Langevin(self.energy, self.molecule.masses, self.molecule.temperature, friction=MOVES_FRICTION)
        state = dynamics.step(dynamics.start(self.positions(x), generator), n_steps, generator)
        return self.coordinates.to_standard(state.positions)

    @torch.no_grad()
    def positions(self, x: Tensor) -> Tensor:
        """Cartesian positions (B, N, 3) in nm of z (B, D), in the chart's fixed frame."""
        return self.coordinates.to_natural(x)[0]
