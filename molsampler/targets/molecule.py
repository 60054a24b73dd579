"""A molecule as a target: log R(z) = -beta U(x(z)) + log |det dx/dz| on the chart's support, -inf outside.

The one place where molecules meets the sampler. With the torch energy three kernels follow one another: the chart
places the atoms, the energy gives its gradient, the chart pulls that back. They are compiled apart. The energy's is the
one that dynamics runs too; and in one graph with the chart the compiler ran the sums of the energy's gradient across
the batch instead of along it, which cost twice as much as all the rest. With the OpenMM bridge the forces come from
OpenMM and the chart's derivative from autograd.
"""

from __future__ import annotations

import functools
from collections.abc import Callable

import torch
from torch import Tensor

from molsampler.basis.compilation import CompiledOrEager
from molsampler.basis.counter import EvaluationCounter
from molsampler.molecules.coordinates.chart import Charted
from molsampler.molecules.coordinates.rotors import Rotor
from molsampler.molecules.coordinates.stored import AnyChart
from molsampler.molecules.dynamics.langevin import Langevin
from molsampler.molecules.energy.contract import Energy
from molsampler.molecules.energy.stand_in import stand_in
from molsampler.molecules.energy.torch_energy import TorchEnergy, UnsupportedForce
from molsampler.molecules.molecule import Molecule
from molsampler.targets.target import Target

DISTORTED, DISTORTION = 4, 0.005
"""Structures, and nm of normal noise on their atoms, at which like atoms are told apart or not."""
SAME_ENERGY = 0.01  # RT, ten times the rounding of an energy in float32
MOVES_FRICTION = 5.0  # 1/ps: local moves are to forget their start, not to follow it


class MoleculeTarget(Target):
    """R on the chart of a molecule, or on the atlas of one in several pieces.

    single : the target of one density, to anneal: itself
    compile : compile the chart's two kernels by torch.compile (torch energy only, which compiles its own if asked to)
    """

    def __init__(
        self,
        molecule: Molecule,
        chart: AnyChart,
        energy: Energy,
        compile: bool = True,
        say: Callable[[str], None] = print,
    ) -> None:
        self.molecule, self.coordinates, self.energy = molecule, chart, energy
        self.counter = energy.counter
        self.space = chart.space
        self.beta = molecule.beta
        self._torch = energy if isinstance(energy, TorchEnergy) else None
        self._compile, self._say = compile, say
        self._place = CompiledOrEager(chart.place_batch_last, say) if compile else chart.place_batch_last
        self._finish = CompiledOrEager(self._log_r_and_score, say) if compile else self._log_r_and_score

    @property
    def single(self) -> MoleculeTarget:
        return self

    def from_single(self, x: Tensor) -> Tensor:
        """States of this target (B, D), with the same log R, from those of `single`."""
        return x

    def log_prob(self, x: Tensor) -> Tensor:
        """log R (B,) of z (B, D): line coordinates standardised, soft torsions in radians."""
        if torch.is_grad_enabled() and x.requires_grad:
            positions, log_det = self.coordinates.to_natural(x)
            log_r = self.log_r(x, self.energy(positions), log_det)
            return torch.where(self.coordinates.inside(x, positions), log_r, -torch.inf)
        return self.log_prob_and_score(x)[0]

    def log_r(self, x: Tensor, potential: Tensor, log_det: Tensor) -> Tensor:
        """log R (B,) on the support, of states x (B, D) with U (B,) in kJ/mol and log |dx/dz| (B,)."""
        return -self.beta * potential + log_det

    def log_z_guess(self, x: Tensor) -> Tensor:
        """What log R leaves out of the log density of states x (B, D), a number for each temperature: (B,)."""
        return torch.zeros_like(x[:, 0])

    @torch.no_grad()
    def log_prob_and_score(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """log R (B,) and its gradient (B, D), one evaluation of the energy; the gradient is zero where log R is
        -inf."""
        if self._torch is None:
            return self._differentiate(x)  # the energy books the evaluations
        if not len(x):
            return x.new_zeros(0), torch.zeros_like(x)
        pieces = [self._piece(piece) for piece in x.detach().split(self._torch.piece)]
        log_r, score, inside = (torch.cat(part) for part in zip(*pieces, strict=True))
        bad = torch.isnan(log_r) | torch.isposinf(log_r) | (~torch.isfinite(score).all(-1) & torch.isfinite(log_r))
        self.counter.add(len(x), int(bad.sum()))
        log_r = torch.where(inside & ~bad, log_r, -torch.inf)
        return log_r, torch.where(torch.isfinite(log_r)[:, None], score, 0.0)

    def _piece(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        assert self._torch is not None
        n = len(x)
        charted, log_r, score = self._placed(x, self._torch)
        inside = self.coordinates.inside(x, charted.placed.positions.permute(2, 1, 0)[:n])
        return log_r[:n], score.T[:n], inside

    def _placed(self, x: Tensor, energy: TorchEnergy) -> tuple[Charted, Tensor, Tensor]:
        """x (n, D) on the chart, with log R (B,) and score (D, B) by `energy`; B >= n, the rest repeats the first."""
        # padded to a size that the energy is compiled for
        size = energy.small_piece if len(x) <= energy.small_piece else energy.piece
        charted = self._place(torch.cat([x, x[:1].expand(size - len(x), -1)]).T.contiguous())
        return charted, *self._finish(charted, *energy.piece_energy_and_gradient(charted.placed.positions))

    def guide(self) -> Callable[[Tensor], Tensor] | None:
        """The score of the force field with frozen Born radii, on the support and off it; None where the torch energy
        does not cover that."""
        return self._guide_score if self._stand_in is not None else None

    def stand_in(self) -> Callable[[Tensor], Tensor] | None:
        """log R with that force field."""
        return self._guide_log_r if self._stand_in is not None else None

    @functools.cached_property
    def _stand_in(self) -> TorchEnergy | None:
        try:
            dtype, device = self.coordinates.dtype, self.coordinates.device
            return TorchEnergy(stand_in(self.molecule), dtype, device, self._compile, self._say)
        except UnsupportedForce:
            return None

    def _guide_score(self, x: Tensor) -> Tensor:
        return self._guided(x)[1]

    def _guide_log_r(self, x: Tensor) -> Tensor:
        return self._guided(x)[0]

    @torch.no_grad()
    def _guided(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """log R (B,) and score (B, D) by the stand-in."""
        energy = self._stand_in
        assert energy is not None
        if not len(x):
            return x.new_zeros(0), torch.zeros_like(x)
        self.counter.add_guide(len(x))
        found = [(len(piece), *self._placed(piece, energy)[1:]) for piece in x.split(energy.piece)]
        return torch.cat([log_r[:n] for n, log_r, _ in found]), torch.cat([score.T[:n] for n, _, score in found])

    def _log_r_and_score(self, charted: Charted, energy: Tensor, gradient: Tensor) -> tuple[Tensor, Tensor]:
        """What `place_batch_last` gave, U (B,) kJ/mol and dU/dx (3, N, B) -> log R (B,) and score (D, B)."""
        return charted.log_det - self.beta * energy, self.coordinates.pull_back(charted, -self.beta * gradient)

    @torch.no_grad()
    def local_moves(self, x: Tensor, n_steps: int, generator: torch.Generator) -> Tensor:
        """States (M, D) after n_steps of Langevin dynamics (1 fs, 5 / ps) from x (M, D) at the target's temperature.

        Costs M (n_steps + 1) evaluations. The result may lie off the support, or be where a conformation failed.
        """
        dynamics = Langevin(self.energy, self.molecule.masses, self.molecule.temperature, friction=MOVES_FRICTION)
        state = dynamics.step(dynamics.start(self.positions(x), generator), n_steps, generator)
        return self.coordinates.to_standard(state.positions)

    @functools.cached_property
    def rotors(self) -> list[Rotor]:
        """The chart's rotors whose atoms the energy does not tell apart, asked at a few distorted structures.

        Nothing is booked: a run that goes on asks again, and its counts are to be those of one that was never stopped.
        """
        generator = torch.Generator().manual_seed(0)
        at = torch.as_tensor(self.molecule.positions, dtype=self.coordinates.dtype)
        noise = torch.randn(DISTORTED, *at.shape, generator=generator, dtype=at.dtype)
        x = (at + DISTORTION * noise).to(self.coordinates.device)
        turned = [x[:, rotor.turned(len(at)).to(x.device)] for rotor in self.coordinates.rotors]
        booked, self.energy.counter = self.energy.counter, EvaluationCounter()
        try:
            energies = self.beta * self.energy.energy(torch.cat([x, *turned])).double().view(-1, DISTORTED)
        finally:
            self.energy.counter = booked
        same = ((energies[1:] - energies[:1]).abs() < SAME_ENERGY).all(1).tolist()
        return [rotor for rotor, alike in zip(self.coordinates.rotors, same, strict=True) if alike]

    @torch.no_grad()
    def symmetrised(
        self, x: Tensor, log_r: Tensor, score: Tensor, generator: torch.Generator
    ) -> tuple[Tensor, Tensor, Tensor]:
        """x (B, D) with every rotor of like atoms turned by a random number of places, log R (B,) and its gradient
        there."""
        if not self.rotors:
            return x, log_r, score
        turned, by_turned = self.coordinates.turn_rotors(x, score, self.rotors, generator)
        return turned, log_r + self.coordinates.log_bend(turned) - self.coordinates.log_bend(x), by_turned

    @torch.no_grad()
    def positions(self, x: Tensor) -> Tensor:
        """Cartesian positions (B, N, 3) in nm of z (B, D), in the chart's fixed frame."""
        return self.coordinates.to_natural(x)[0]
