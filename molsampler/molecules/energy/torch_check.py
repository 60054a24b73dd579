"""The torch kernels against OpenMM's Reference platform: energies and forces on perturbed structures, in double."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import openmm
import torch
from openmm import unit
from torch import Tensor, nn

from molsampler.molecules.energy.forces.term import PairDistances, UnsupportedForce
from molsampler.molecules.molecule import Molecule

TOLERANCE = 1e-6  # relative to the force's own energy and largest component
_GROUPS = 32  # that OpenMM can tell apart in a Context
_STRUCTURES = 6
_SPREAD = 0.01  # nm


def reference_terms(system: openmm.System, structures: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Energies (F, S) and forces (F, S, N, 3) of each of the F forces alone, by OpenMM's Reference platform.

    structures : (S, N, 3) nm
    """
    n_forces = system.getNumForces()
    parts = [range(first, min(first + _GROUPS, n_forces)) for first in range(0, n_forces, _GROUPS)]
    found = [_terms_of_part(system, part, structures) for part in parts]
    if not found:
        return np.zeros((0, len(structures))), np.zeros((0, *structures.shape))
    energies, forces = (np.concatenate(arrays) for arrays in zip(*found, strict=True))
    return energies, forces


def _terms_of_part(system: openmm.System, part: range, structures: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """`reference_terms` of these forces, each a force group of a System without the others."""
    system = openmm.XmlSerializer.clone(system)
    for k in reversed(range(system.getNumForces())):
        if k in part:
            system.getForce(k).setForceGroup(k - part.start)
        else:
            system.removeForce(k)
    context = openmm.Context(system, openmm.VerletIntegrator(0.001), openmm.Platform.getPlatformByName("Reference"))
    energies = np.zeros((len(part), len(structures)))
    forces = np.zeros((len(part), *structures.shape))
    for s, structure in enumerate(structures):
        context.setPositions(structure)
        for k in range(len(part)):
            state = context.getState(energy=True, forces=True, groups={k})
            energies[k, s] = state.getPotentialEnergy().value_in_unit(unit.kilojoule_per_mole)
            forces[k, s] = state.getForces(asNumpy=True).value_in_unit_system(unit.md_unit_system)
    return energies, forces


def perturbed_structures(molecule: Molecule) -> np.ndarray:
    """(6, N, 3) nm: the input structure, and copies with normal noise on every coordinate.

    Half of them have noise of 0.01 nm, half three times as much: tables and dihedrals are met at several places.
    """
    noise = torch.randn(
        _STRUCTURES, molecule.n_atoms, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64
    )
    noise[0] = 0.0
    noise[_STRUCTURES // 2 :] *= 3.0
    return molecule.positions + _SPREAD * noise.numpy()


def energy_and_gradient(function: Callable[[Tensor], Tensor], positions: Tensor) -> tuple[Tensor, Tensor]:
    """Energies (B,) and gradient (3, N, B) of `function` at positions (3, N, B), without a graph; can be compiled."""

    def summed(x: Tensor) -> tuple[Tensor, Tensor]:
        energy = function(x)
        return energy.sum(), energy

    gradient, (_, energy) = torch.func.grad_and_value(summed, has_aux=True)(positions)
    return energy, gradient


def check_against_openmm(potential: nn.Module, molecule: Molecule) -> None:
    """Raise UnsupportedForce, naming the force, if a term of `potential` differs from OpenMM on perturbed structures.

    `potential` (a Potential) computes in double on the CPU. Every force is compared by itself: nothing hides behind
    another one's size.
    """
    potential.to("cpu", torch.float64)
    structures = perturbed_structures(molecule)
    expected, expected_forces = reference_terms(molecule.system, structures)
    x = torch.from_numpy(structures).permute(2, 1, 0).contiguous()
    for term, k in zip(potential.terms, potential.force_indices, strict=True):
        energy, gradient = energy_and_gradient(lambda y, t=term: t(y, PairDistances.of(y)), x)
        forces = -gradient.permute(2, 1, 0).numpy()
        error = np.abs(energy.numpy() - expected[k]) / (np.abs(expected[k]) + 1.0)
        scale = np.abs(expected_forces[k]).max((1, 2)) + 1.0
        force_error = np.abs(forces - expected_forces[k]).max((1, 2)) / scale
        if not (error.max() < TOLERANCE and force_error.max() < TOLERANCE):
            raise UnsupportedForce(
                f"{type(molecule.system.getForce(k)).__name__} (force {k}) of '{molecule.name}': the torch kernels "
                f"differ from OpenMM's Reference platform by {error.max():.1e} in energy and "
                f"{force_error.max():.1e} in forces"
            )
