"""A molecule's force field without its implicit solvent: a third of the work, and nearly all of what shapes it."""

from __future__ import annotations

import copy
import dataclasses

import openmm

from molsampler.molecules.molecule import Molecule

SCREENING = 0.4
"""Charges are multiplied by this: what a dielectric constant of six between them would do, in place of the solvent."""
_SOLVENT = (openmm.GBSAOBCForce, openmm.CustomGBForce, openmm.AmoebaGeneralizedKirkwoodForce)


def desolvated(molecule: Molecule, screening: float = SCREENING) -> Molecule:
    """The molecule with a copy of its System in which generalised Born forces are left out and charges are screened."""
    system = copy.deepcopy(molecule.system)
    for k in reversed(range(system.getNumForces())):
        force = system.getForce(k)
        if isinstance(force, _SOLVENT):
            system.removeForce(k)
        elif isinstance(force, openmm.NonbondedForce):
            _screen(force, screening)
    return dataclasses.replace(molecule, system=system)


def _screen(force: openmm.NonbondedForce, by: float) -> None:
    for i in range(force.getNumParticles()):
        charge, *rest = force.getParticleParameters(i)
        force.setParticleParameters(i, charge * by, *rest)
    for k in range(force.getNumExceptions()):
        i, j, product, *rest = force.getExceptionParameters(k)
        force.setExceptionParameters(k, i, j, product * by**2, *rest)
