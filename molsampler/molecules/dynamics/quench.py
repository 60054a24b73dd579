"""Batched capped gradient descent: brings clashing structures down to where dynamics can start."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from molsampler.basis.errors import InputError
from molsampler.molecules.energy.contract import Energy

_FIRST_RATE = 1e-6  # nm^2 mol/kJ: about one over the curvature of a stretched bond, the stiffest thing in a molecule
_LAST_RATE = 1e-2  # nm^2 mol/kJ: where a flat landscape lets the rate grow to
_GROWTH, _SHRINK = 1.2, 0.5  # of the rate after a step downhill, after one uphill


def quench(energy: Energy, positions: Tensor, steps: int = 400, max_move: float = 0.002) -> tuple[Tensor, Tensor]:
    """Moves every conformation downhill along its forces, no atom by more than `max_move` nm in a step.

    Parameters
    ----------
    energy : the potential; B * (steps + 1) evaluations, booked under the purpose that the caller has set
    positions : (B, N, 3) nm, finite; clashes and coinciding atoms are welcome
    steps : number of descent steps
    max_move : nm, the cap on the displacement of one atom in one step

    Returns
    -------
    positions (B, N, 3) nm and energies (B,) kJ/mol. A step that would raise the energy is not taken, and each
    conformation has its own rate, which grows while it descends. Where the energy is not finite (coinciding atoms have
    no direction to part in), the atoms are spread by `max_move` in fixed, mutually different directions until it is; a
    conformation that never became finite is returned with energy +inf.
    """
    if not (math.isfinite(max_move) and max_move > 0):
        raise InputError(f"max_move {max_move} nm is not usable: give a positive length, such as 0.002.")
    if not bool(torch.isfinite(positions).all()):
        raise InputError("a conformation to quench holds positions that are not finite: drop it first.")
    positions = positions.detach().clone()
    value, forces = (out.to(positions) for out in energy.energy_and_forces(positions))
    rate = torch.full_like(value, _FIRST_RATE)  # (B,)
    for step in range(steps):
        stuck = ~torch.isfinite(value)
        move = _capped(rate[:, None, None] * forces, max_move)
        if bool(stuck.any()):
            spread = max_move * _directions(positions.shape[1], step).to(positions)  # (N, 3)
            move = torch.where(stuck[:, None, None], spread, move)
        trial = positions + move
        trial_value, trial_forces = (out.to(positions) for out in energy.energy_and_forces(trial))
        taken = (trial_value <= value) | stuck
        positions = torch.where(taken[:, None, None], trial, positions)
        forces = torch.where(taken[:, None, None], trial_forces, forces)
        value = torch.where(taken, trial_value, value)
        rate = torch.where(stuck, rate, rate * torch.where(taken, _GROWTH, _SHRINK)).clamp_max(_LAST_RATE)
    return positions, value


def _capped(move: Tensor, max_move: float) -> Tensor:
    """move (B, N, 3) with every atom's displacement shortened to at most `max_move`; however long it was."""
    largest = move.abs().amax(-1, keepdim=True).clamp_min(max_move)
    length = largest * (move / largest).norm(dim=-1, keepdim=True)  # no square overflows
    return move * (max_move / length.clamp_min(max_move))


def _directions(n: int, turn: int) -> Tensor:
    """n unit vectors (n, 3) spread over the sphere (a Fibonacci spiral), another rotation of them each turn."""
    k = torch.arange(n, dtype=torch.float64)
    z = 1.0 - (2.0 * k + 1.0) / n
    angle = math.pi * (3.0 - math.sqrt(5.0)) * (k + turn)
    radius = torch.sqrt(1.0 - z.square())
    return torch.stack((radius * torch.cos(angle), radius * torch.sin(angle), z), -1)
