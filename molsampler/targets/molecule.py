"""A molecule as a target: log R(z) = -beta U(x(z)) + log |det dx/dz| on the chart's support, -inf outside.

The one place where molecules meets the sampler. With the torch energy, chart and energy are one graph, differentiated and
compiled as a whole; with the OpenMM bridge the forces come from OpenMM and the chart's derivative from autograd.
"""

from __future__ import annotations

import warnings

import torch
from torch import Tensor

from molsampler.diffusion.space import Space
from molsampler.molecules.chart import Chart
from molsampler.molecules.energy import Energy
from molsampler.molecules.molecule import Molecule
from molsampler.molecules.torch_energy import TorchEnergy
from molsampler.targets.target import Target

PAD_SIZES = (64, 256, 1024, 2048)
"""Batches are padded to the next of these, larger ones cut into pieces: nothing is compiled twice."""


class MoleculeTarget(Target):
    """R on the chart of a molecule.

    compile : fuse chart, energy and gradient by torch.compile (torch energy only)
    """

    def __init__(self, molecule: Molecule, chart: Chart, energy: Energy, compile: bool = True) -> None:
        self.molecule, self.chart, self.energy = molecule, chart, energy
        self.counter = energy.counter
        self.space = Space(chart.n_stiff, chart.n_soft)
        self.beta = molecule.beta
        self._fused = isinstance(energy, TorchEnergy)
        self._kernel = torch.compile(self._log_r_and_score, dynamic=False) if compile and self._fused else None

    def log_prob(self, x: Tensor) -> Tensor:
        """log R (B,) of z (B, D): line coordinates standardised, soft torsions in radians."""
        if torch.is_grad_enabled() and x.requires_grad:
            positions, log_det = self.chart.to_cartesian(x)
            log_r = -self.beta * self.energy(positions) + log_det
            return torch.where(self.chart.inside(x, positions), log_r, -torch.inf)
        return self.log_prob_and_score(x)[0]

    @torch.no_grad()
    def log_prob_and_score(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """log R (B,) and its gradient (B, D), one evaluation of the energy; the gradient is zero where log R is -inf."""
        if not self._fused:
            log_r, score = super().log_prob_and_score(x)
            return log_r, score
        if not len(x):
            return x.new_zeros(0), torch.zeros_like(x)
        pieces = [self._piece(piece) for piece in x.detach().split(PAD_SIZES[-1])]
        log_r, score, inside = (torch.cat(part) for part in zip(*pieces, strict=True))
        bad = torch.isnan(log_r) | torch.isposinf(log_r) | (~torch.isfinite(score).all(-1) & torch.isfinite(log_r))
        self.counter.add(len(x), int(bad.sum()))
        log_r = torch.where(inside & ~bad, log_r, -torch.inf)
        return log_r, torch.where(torch.isfinite(log_r)[:, None], score, 0.0)

    def _piece(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        n = len(x)
        size = next(s for s in PAD_SIZES if s >= n)
        padded = torch.cat([x, x[:1].expand(size - n, -1)]).T.contiguous()
        kernel = self._kernel or self._log_r_and_score
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            log_r, score, positions = kernel(padded)
        inside = self.chart.inside(x, positions.permute(2, 1, 0)[:n])
        return log_r[:n], score.T[:n], inside

    def _log_r_and_score(self, z: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """z (D, B) -> log R (B,), score (D, B), positions (3, N, B); the batch last, where it is contiguous."""
        with torch.enable_grad():
            z = z.detach().requires_grad_()
            positions, log_det = self.chart.to_cartesian_batch_last(z)
            log_r = -self.beta * self.energy.potential(positions) + log_det
            (score,) = torch.autograd.grad(log_r.sum(), z)
        return log_r.detach(), score, positions.detach()

    @torch.no_grad()
    def positions(self, x: Tensor) -> Tensor:
        """Cartesian positions (B, N, 3) in nm of z (B, D), in the chart's fixed frame."""
        return self.chart.to_cartesian(x)[0]
