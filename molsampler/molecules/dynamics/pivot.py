"""Pivot moves: Metropolis steps that turn one side of a molecule about a soft bond by any angle.

A rigid rotation of some atoms about an axis through two others, by an angle drawn uniformly, keeps Cartesian volume and
is as likely as its reversal, so that Metropolis' rule on the energy alone leaves the Boltzmann distribution invariant.
A proposal that is accepted may cross a torsion barrier that dynamics take long to climb.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from molsampler.basis.graph import turned_bond
from molsampler.molecules.coordinates.soft import SOFT_BARRIER, torsion_barriers
from molsampler.molecules.dynamics.langevin import LangevinState
from molsampler.molecules.energy.contract import Energy
from molsampler.molecules.molecule import Molecule


@dataclass(frozen=True)
class PivotBonds:
    """The K bonds that pivot moves turn about.

    axes : (K, 2) int64, the atoms of each bond
    moved : (K, N) bool, the atoms on the smaller side, which are turned
    """

    axes: Tensor
    moved: Tensor

    @classmethod
    def of_molecule(cls, molecule: Molecule) -> PivotBonds:
        """Bonds outside rings whose torsion energy varies by less than SOFT_BARRIER RT, with heavy atoms turned; of
        amides those, whatever their barrier, that are free to be cis and trans, which dynamics alone would not turn.

        Bonds that would turn nothing but hydrogens on one atom, such as methyl rotors, are left to dynamics. There may
        be none at all (K = 0).
        """
        graph = molecule.graph
        inner = [b for b in graph.bonds if b not in graph.ring_bonds and all(len(graph.neighbours[k]) > 1 for k in b)]
        barriers = torsion_barriers(molecule, inner)
        amides, free = ({turned_bond(amide) for amide in found} for found in (graph.amides, molecule.free_amides))
        axes, moved = [], []
        for i, j in inner:
            side = graph.beyond(j, i)
            if 2 * len(side) > molecule.n_atoms:
                i, j, side = j, i, graph.beyond(i, j)
            turned = set(side) - {i}
            bond = tuple(sorted((i, j)))
            turns = bond in free if bond in amides else barriers[bond] * molecule.beta < SOFT_BARRIER
            if turns and any(graph.atomic_numbers[k] != 1 for k in turned):
                axes.append((i, j))
                moved.append([k in turned for k in range(molecule.n_atoms)])
        return cls(
            torch.tensor(axes, dtype=torch.int64).reshape(-1, 2),
            torch.tensor(moved, dtype=torch.bool).reshape(-1, molecule.n_atoms),
        )

    def propose(self, positions: Tensor, generator: torch.Generator) -> Tensor:
        """positions (B, N, 3) nm with one random bond of each conformation turned by a uniformly random angle."""
        batch, device = len(positions), positions.device
        choice = torch.randint(len(self.axes), (batch,), generator=generator, device=device)
        angle = torch.rand(batch, generator=generator, device=device, dtype=positions.dtype)
        angle = math.pi * (2.0 * angle - 1.0)
        axis = self.axes.to(device)[choice]  # (B, 2)
        ends = positions[torch.arange(batch, device=device)[:, None], axis]  # (B, 2, 3)
        turned = rotate(positions, ends[:, 0], ends[:, 1], angle)
        return torch.where(self.moved.to(device)[choice][..., None], turned, positions)


def rotate(positions: Tensor, start: Tensor, end: Tensor, angle: Tensor) -> Tensor:
    """positions (B, N, 3) turned by angle (B,) radians about the axes from start (B, 3) to end (B, 3)."""
    unit = torch.nn.functional.normalize(end - start, dim=-1)[:, None]  # (B, 1, 3)
    arm = positions - start[:, None]
    cosine, sine = torch.cos(angle)[:, None, None], torch.sin(angle)[:, None, None]
    along = (arm * unit).sum(-1, keepdim=True) * unit
    return start[:, None] + along + cosine * (arm - along) + sine * torch.linalg.cross(unit.expand_as(arm), arm)


def pivot(
    energy: Energy, state: LangevinState, bonds: PivotBonds, beta: Tensor, generator: torch.Generator
) -> tuple[LangevinState, Tensor]:
    """One Metropolis step for each conformation at inverse temperatures beta (B,) in mol/kJ; B evaluations.

    Returns the new state and which proposals were accepted, (B,) bool. Velocities stay as they are: they are
    independent of the positions. A proposal of non-finite energy is never accepted, and a conformation that
    has failed stays so.
    """
    proposed = bonds.propose(state.positions, generator)
    new_energy, new_forces = (out.to(proposed) for out in energy.energy_and_forces(proposed))
    draw = torch.rand(len(proposed), generator=generator, dtype=torch.float64, device=proposed.device)
    accepted = torch.log(draw) < -beta.to(draw) * (new_energy - state.energy).double()
    accepted &= ~state.failed
    mask = accepted[:, None, None]
    moved = LangevinState(
        torch.where(mask, proposed, state.positions),
        state.velocities,
        torch.where(accepted, new_energy, state.energy),
        torch.where(mask, new_forces, state.forces),
    )
    return moved, accepted
