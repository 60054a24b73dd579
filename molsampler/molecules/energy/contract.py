"""The energy contract: batched conformations in, potential energies in kJ/mol out, differentiable once.

`OpenMMEnergy` and `TorchEnergy` fulfil it; `tests/molecules/test_energy_conformance.py` walks through both.
"""

from __future__ import annotations

from abc import ABC, abstractmethod

import torch
from torch import Tensor

from molsampler.basis.counter import EvaluationCounter


class Energy(ABC):
    """A potential energy U of one molecule, evaluated for batches of conformations.

    Implementations provide `_evaluate`; counting, the handling of non-finite values and autograd live here, once.
    A conformation whose energy is NaN, or for which the backend raised, has energy +inf and zero force. A clash is a
    large finite energy or +inf; nothing is ever clipped.
    """

    def __init__(self, n_atoms: int, counter: EvaluationCounter | None = None) -> None:
        """counter : one to share with another energy; a new one where left out"""
        self.n_atoms = n_atoms
        self.counter = counter or EvaluationCounter()

    @abstractmethod
    def _evaluate(self, positions: Tensor, forces: bool) -> tuple[Tensor, Tensor | None]:
        """positions: (B, N, 3) nm -> energies (B,) kJ/mol and, if asked for, forces (B, N, 3) kJ/mol/nm; no graph."""

    def close(self) -> None:  # noqa: B027, most backends hold nothing
        """Release workers and devices. Safe to call twice."""

    def energy(self, positions: Tensor) -> Tensor:
        """Potential energies (B,) in kJ/mol of positions (B, N, 3) in nm, without graph or forces."""
        return self._finish(positions, forces=False)[0]

    def energy_and_forces(self, positions: Tensor) -> tuple[Tensor, Tensor]:
        """Energies (B,) in kJ/mol and forces (B, N, 3) in kJ/mol/nm of positions (B, N, 3) in nm, without graph."""
        energy, forces = self._finish(positions, forces=True)
        assert forces is not None
        return energy, forces

    def __call__(self, positions: Tensor) -> Tensor:
        """Energies (B,) in kJ/mol of positions (B, N, 3) in nm; `backward` uses the forces computed with them."""
        if torch.is_grad_enabled() and positions.requires_grad:
            return _EnergyFunction.apply(positions, self)
        return self.energy(positions)

    def _finish(self, positions: Tensor, forces: bool) -> tuple[Tensor, Tensor | None]:
        if positions.ndim != 3 or positions.shape[1:] != (self.n_atoms, 3):
            raise ValueError(
                f"positions have shape {tuple(positions.shape)}; expected (batch, {self.n_atoms}, 3) in nm"
            )
        with torch.no_grad():
            energy, force = self._evaluate(positions.detach(), forces)
            bad = torch.isnan(energy) | torch.isneginf(energy)
            if force is not None:
                bad |= ~torch.isfinite(force).all(-1).all(-1) & torch.isfinite(energy)
                force = torch.where((bad | ~torch.isfinite(energy))[:, None, None], 0.0, force)
            energy = torch.where(bad, torch.inf, energy)
            self.counter.add(len(positions), int(bad.sum()))
        return energy, force


class _EnergyFunction(torch.autograd.Function):
    """Bridges an `Energy` into autograd; a second derivative is refused."""

    @staticmethod
    def forward(ctx, positions: Tensor, energy: Energy) -> Tensor:
        value, forces = energy.energy_and_forces(positions)
        ctx.save_for_backward(forces)
        return value

    @staticmethod
    def backward(ctx, grad: Tensor) -> tuple[Tensor, None]:
        # autograd runs this with gradients on exactly where create_graph=True asks for a second derivative;
        # `once_differentiable` would let one through silently where the incoming gradient is a constant
        if torch.is_grad_enabled():
            raise RuntimeError("an energy can be differentiated once; its second derivative is not available")
        (forces,) = ctx.saved_tensors
        return -grad[:, None, None] * forces, None
