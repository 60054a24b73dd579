"""The stand-in of a molecule's energy: generalised Born with radii frozen at the input structure."""

from __future__ import annotations

import copy

import numpy as np
import openmm
import pytest
import torch

from molsampler.molecules.energy.forces.gbsa_obc import as_custom_gb
from molsampler.molecules.energy.stand_in import stand_in
from molsampler.molecules.energy.torch_energy import TorchEnergy
from molsampler.molecules.loading.load import load_molecule
from molsampler.molecules.molecule import Molecule
from tests.molecules.energy.energy_cases import reference, structures

BORN = openmm.GBSAOBCForce | openmm.CustomGBForce


def born_force(system: openmm.System) -> openmm.CustomGBForce | None:
    """The solvent of a System, as a CustomGBForce."""
    for force in system.getForces():
        if isinstance(force, BORN):
            return as_custom_gb(force) if isinstance(force, openmm.GBSAOBCForce) else copy.deepcopy(force)
    return None


def single_terms(molecule: Molecule) -> openmm.System:
    """Nothing but the solvent's terms of single atoms."""
    whole, system = born_force(molecule.system), openmm.System()
    for i in range(molecule.n_atoms):
        system.addParticle(molecule.system.getParticleMass(i))
    force = openmm.CustomGBForce()
    for k in range(whole.getNumPerParticleParameters()):
        force.addPerParticleParameter(whole.getPerParticleParameterName(k))
    for i in range(molecule.n_atoms):
        force.addParticle(whole.getParticleParameters(i))
    for k in range(whole.getNumComputedValues()):
        force.addComputedValue(*whole.getComputedValueParameters(k))
    for k in range(whole.getNumEnergyTerms()):
        text, kind = whole.getEnergyTermParameters(k)
        if kind == openmm.CustomGBForce.SingleParticle:
            force.addEnergyTerm(text, kind)
    system.addForce(force)
    return system


@pytest.mark.parametrize("name", ["aldp", "tetra"], ids=["CustomGBForce", "GBSAOBCForce"])
def test_at_the_input_structure_only_the_terms_of_single_atoms_are_missing(name):
    """By OpenMM's Reference platform; away from it the radii change, and the two differ by more than a constant."""
    molecule = load_molecule(name)
    cheap = stand_in(molecule)
    assert not any(isinstance(force, BORN) for force in cheap.system.getForces())
    assert born_force(molecule.system) is not None  # a copy was changed
    at = torch.as_tensor(molecule.positions)[None]
    missing = reference(Molecule("single", molecule.topology, single_terms(molecule), molecule.positions, 300.0), at)[0]
    difference = reference(molecule, at)[0] - reference(cheap, at)[0]
    np.testing.assert_allclose(difference, missing, rtol=1e-6)
    away = structures(molecule, 20, spread=0.01)
    apart = reference(molecule, away)[0] - reference(cheap, away)[0] - missing
    assert 0.05 < np.abs(apart).max() < 0.2 * reference(molecule, away)[0].std()


def test_its_forces_are_close_to_the_energys():
    """Of distorted structures, which have large forces, and nearer than without the solvent."""
    molecule = load_molecule("aldp")
    at = structures(molecule, 20)
    wanted = reference(molecule, at)[1]
    bare = copy.deepcopy(molecule.system)
    for k in reversed(range(bare.getNumForces())):
        if isinstance(bare.getForce(k), BORN):
            bare.removeForce(k)
    bare = Molecule("bare", molecule.topology, bare, molecule.positions, 300.0)
    off, further = (np.square(wanted - reference(m, at)[1]).mean() for m in (stand_in(molecule), bare))
    assert off < 0.1 * further


def test_torch_covers_it_and_a_molecule_without_solvent_is_left_as_it_is():
    molecule = load_molecule("aldp")
    cheap = stand_in(molecule)
    at = structures(molecule, 5)
    energy = TorchEnergy(cheap, torch.float64, compile=False)
    np.testing.assert_allclose(energy.energy(at).numpy(), reference(cheap, at)[0], atol=1e-6)
    again = stand_in(cheap)
    np.testing.assert_array_equal(reference(again, at)[0], reference(cheap, at)[0])
