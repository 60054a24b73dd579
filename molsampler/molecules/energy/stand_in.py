"""A molecule's force field at less work: its implicit solvent with Born radii frozen at the input structure.

What generalised Born solvents cost is the radii, a sum over pairs that has to be made before the sum over pairs that is
the energy, and differentiated after it. With the radii as constants only the second sum is left, and it has nearly all
of what the solvent does to a contact: it screens the charges.
"""

from __future__ import annotations

import copy
import dataclasses

import openmm
import torch

from molsampler.molecules.energy.forces.custom_gb import CustomGB
from molsampler.molecules.energy.forces.gbsa_obc import as_custom_gb
from molsampler.molecules.energy.forces.term import PairDistances
from molsampler.molecules.molecule import Molecule

_SINGLE, _PAIR = openmm.CustomGBForce.SingleParticle, openmm.CustomGBForce.ParticlePair


def stand_in(molecule: Molecule) -> Molecule:
    """The molecule with a copy of its System in which generalised Born forces are pair sums with constant radii.

    Raises UnsupportedForce where such a force is none that the torch energy covers.
    """
    system = copy.deepcopy(molecule.system)
    for k in reversed(range(system.getNumForces())):
        force = system.getForce(k)
        if isinstance(force, openmm.GBSAOBCForce | openmm.CustomGBForce):
            born = as_custom_gb(force) if isinstance(force, openmm.GBSAOBCForce) else force
            for frozen in _frozen(born, torch.as_tensor(molecule.positions, dtype=torch.float64)):
                system.addForce(frozen)
            system.removeForce(k)
    return dataclasses.replace(molecule, system=system)


def _frozen(force: openmm.CustomGBForce, positions: torch.Tensor) -> list[openmm.CustomNonbondedForce]:
    """The force's pair energies, its computed values constants that they have at positions (N, 3) nm."""
    term = CustomGB(force, len(positions))
    x = positions.T[..., None]  # (3, N, 1)
    values = torch.cat(term.computed(x, PairDistances.of(x)), dim=1).tolist()
    pairs = []
    for k in range(force.getNumEnergyTerms()):
        text, kind = force.getEnergyTermParameters(k)
        if kind == _SINGLE:
            continue  # of constants it is one
        pair = openmm.CustomNonbondedForce(text)
        for name in term.parameter_names + term.value_names:
            pair.addPerParticleParameter(name)
        for own in values:
            pair.addParticle(own)
        for j in range(force.getNumGlobalParameters()):
            pair.addGlobalParameter(force.getGlobalParameterName(j), force.getGlobalParameterDefaultValue(j))
        for j in range(force.getNumTabulatedFunctions()):
            pair.addTabulatedFunction(force.getTabulatedFunctionName(j), copy.deepcopy(force.getTabulatedFunction(j)))
        for j in range(force.getNumExclusions() if kind == _PAIR else 0):
            pair.addExclusion(*force.getExclusionParticles(j))
        pairs.append(pair)
    return pairs
