"""Batched BAOAB Langevin dynamics over an `Energy`: one energy evaluation a step, all conformations at once.

The splitting is that of Leimkuhler and Matthews (Appl. Math. Res. eXpress 2013, 34): half a kick (B), half a drift (A),
an exact Ornstein-Uhlenbeck step of the velocities (O), half a drift, half a kick. Its positions are exactly Boltzmann
distributed in a harmonic well at every stable time step. Units are nm, ps, dalton and kJ/mol, in which force / mass is
an acceleration without any factor.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from molsampler.basis.errors import InputError
from molsampler.basis.units import thermal_energy
from molsampler.molecules.energy.contract import Energy


@dataclass(frozen=True)
class LangevinState:
    """Conformations in motion.

    positions : (B, N, 3) nm, always finite
    velocities : (B, N, 3) nm/ps
    energy : (B,) kJ/mol of `positions`; +inf marks a conformation that failed and stands still where it last was finite
    forces : (B, N, 3) kJ/mol/nm at `positions`
    """

    positions: Tensor
    velocities: Tensor
    energy: Tensor
    forces: Tensor

    @property
    def failed(self) -> Tensor:
        """(B,) bool, conformations whose energy has become non-finite."""
        return ~torch.isfinite(self.energy)

    def select(self, index: Tensor) -> LangevinState:
        """The conformations that `index` ((M,) integers or (B,) bool) names."""
        return LangevinState(self.positions[index], self.velocities[index], self.energy[index], self.forces[index])

    def to(self, device: torch.device) -> LangevinState:
        """The same on a device."""
        return LangevinState(*(part.to(device) for part in (self.positions, self.velocities, self.energy, self.forces)))


FrameCallback = Callable[[int, LangevinState], None]


class Langevin:
    """BAOAB dynamics of many independent conformations of one molecule.

    energy : the potential; its evaluations are booked under the purpose that the caller has set on its counter
    masses : (N,) dalton, all positive
    temperature : K, one for all conformations or one each, (B,)
    timestep : ps
    friction : 1/ps; 0 is velocity Verlet at constant energy
    """

    def __init__(
        self,
        energy: Energy,
        masses: np.ndarray | Tensor | Sequence[float],
        temperature: float | Tensor | Sequence[float],
        timestep: float = 0.001,
        friction: float = 1.0,
    ) -> None:
        self.energy = energy
        self.masses = torch.as_tensor(masses, dtype=torch.float64)
        self.temperature = torch.as_tensor(temperature, dtype=torch.float64)
        self.timestep = float(timestep)
        self.friction = float(friction)
        self._check()

    def _check(self) -> None:
        if self.masses.shape != (self.energy.n_atoms,) or not bool((self.masses > 0).all()):
            raise InputError(
                f"masses {self.masses.tolist()} do not suit dynamics: "
                f"give {self.energy.n_atoms} positive masses in dalton."
            )
        if self.temperature.ndim > 1 or not bool((torch.isfinite(self.temperature) & (self.temperature > 0)).all()):
            raise InputError(
                f"temperature {self.temperature.tolist()} K is not usable: give positive numbers of kelvin."
            )
        if not (math.isfinite(self.timestep) and self.timestep > 0):
            raise InputError(f"timestep {self.timestep} ps is not usable: give a positive one, such as 0.001.")
        if not (math.isfinite(self.friction) and self.friction >= 0):
            raise InputError(f"friction {self.friction} 1/ps is not usable: give zero or a positive number.")

    def start(self, positions: Tensor, generator: torch.Generator) -> LangevinState:
        """The state at positions (B, N, 3) nm with Maxwell-Boltzmann velocities; costs one evaluation each.

        The dtype and device of `positions` are those of the whole run. Positions that are not finite are refused.
        """
        if not bool(torch.isfinite(positions).all()):
            bad = (~torch.isfinite(positions)).flatten(1).any(1).nonzero().flatten().tolist()
            raise InputError(
                f"conformations {bad[:8]} hold positions that are not finite: dynamics cannot start there."
            )
        energy, forces = self.energy.energy_and_forces(positions)
        velocities = self.draw_velocities(positions, generator)
        return LangevinState(positions.detach().clone(), velocities, energy.to(positions), forces.to(positions))

    def draw_velocities(self, positions: Tensor, generator: torch.Generator) -> Tensor:
        """Maxwell-Boltzmann velocities (B, N, 3) in nm/ps, in the dtype and on the device of positions (B, N, 3)."""
        return self._thermal_speed(positions) * _randn(positions, generator)

    def step(
        self,
        state: LangevinState,
        n: int,
        generator: torch.Generator,
        on_frame: FrameCallback | None = None,
        frame_interval: int = 1,
    ) -> LangevinState:
        """`n` steps on from `state`, which is left untouched; B * n energy evaluations.

        After each `frame_interval` steps `on_frame(steps_done, state)` is called. A conformation whose positions or
        energy become non-finite fails: it keeps its last finite positions, zero velocity and energy +inf from then on
        (`state.failed`), and the others are not affected.
        """
        speed, mass = self._thermal_speed(state.positions), self.masses.to(state.positions)[:, None]
        kick, drift = 0.5 * self.timestep / mass, 0.5 * self.timestep  # (N, 1) ps/dalton and ps
        keep = math.exp(-self.friction * self.timestep)
        noise = math.sqrt(-math.expm1(-2.0 * self.friction * self.timestep)) * speed  # (B or 1, N, 1) nm/ps
        for done in range(1, n + 1):
            velocities = torch.addcmul(state.velocities, kick, state.forces)
            positions = torch.add(state.positions, velocities, alpha=drift)
            if self.friction > 0:
                velocities.mul_(keep).addcmul_(noise, _randn(positions, generator))
            positions.add_(velocities, alpha=drift)
            energy, forces = self.energy.energy_and_forces(positions)
            forces = forces.to(positions)
            velocities.addcmul_(kick, forces)
            state = _freeze_failed(state, LangevinState(positions, velocities, energy.to(positions), forces))
            if on_frame is not None and done % frame_interval == 0:
                on_frame(done, state)
        return state

    def _thermal_speed(self, positions: Tensor) -> Tensor:
        """sqrt(RT / m), (B or 1, N, 1), nm/ps."""
        if self.temperature.ndim and len(self.temperature) != len(positions):
            raise InputError(
                f"{len(self.temperature)} temperatures were given for {len(positions)} conformations: "
                "give one temperature or one for each."
            )
        speed = torch.sqrt(thermal_energy(self.temperature.reshape(-1, 1, 1)) / self.masses[:, None])
        return speed.to(positions)


def _freeze_failed(old: LangevinState, new: LangevinState) -> LangevinState:
    """`new`, but conformations that failed before or just now stay where they were, at rest, with energy +inf."""
    failed = old.failed | new.failed
    if not bool(failed.any()):
        return new
    mask = failed[:, None, None]
    return LangevinState(
        torch.where(mask, old.positions, new.positions),
        torch.where(mask, 0.0, new.velocities),
        torch.where(failed, torch.inf, new.energy),
        torch.where(mask, 0.0, new.forces),
    )


def _randn(like: Tensor, generator: torch.Generator) -> Tensor:
    return torch.randn(like.shape, generator=generator, dtype=like.dtype, device=like.device)
