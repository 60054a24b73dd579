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
_STRUCTURES = 6
_SPREAD = 0.01  # nm


def reference_terms(system: openmm.System, structures: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Energies (F, S) and forces (F, S, N, 3) of each of the F forces alone, by OpenMM's Reference platform.

    structures : (S, N, 3) nm
    """
    system = openmm.XmlSerializer.clone(system)
    for k, force in enumerate(system.getForces()):
        force.setForceGroup(k)
    if system.getNumForces() > 32:
        raise UnsupportedForce(f"a System of {system.getNumForces()} forces (32 can be told apart)")
    context = openmm.Context(system, openmm.VerletIntegrator(0.001), openmm.Platform.getPlatformByName("Reference"))
    energies = np.zeros((system.getNumForces(), len(structures)))
    forces = np.zeros((system.getNumForces(), *structures.shape))
    for s, structure in enumerate(structures):
        context.setPositions(structure)
        for k in range(system.getNumForces()):
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
