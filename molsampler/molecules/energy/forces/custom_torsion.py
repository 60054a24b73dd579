"""OpenMM's CustomTorsionForce: an expression of the dihedral theta of four atoms."""

from __future__ import annotations

import openmm
from torch import Tensor

from molsampler.molecules.energy.forces.custom_tuples import CustomTuples
from molsampler.molecules.energy.forces.geometry import dihedrals
from molsampler.molecules.energy.forces.term import refuse_periodic


class CustomTorsion(CustomTuples):
    """The torsions of an `openmm.CustomTorsionForce` among n_atoms atoms."""

    def __init__(self, force: openmm.CustomTorsionForce, n_atoms: int) -> None:
        refuse_periodic(force)
        terms = [force.getTorsionParameters(k) for k in range(force.getNumTorsions())]
        names = [force.getPerTorsionParameterName(k) for k in range(force.getNumPerTorsionParameters())]
        super().__init__(force, n_atoms, [tuple(t[:4]) for t in terms], [t[4] for t in terms], names, ["theta"])

    def coordinates(self, atoms: Tensor) -> tuple[Tensor, ...]:
        return (dihedrals(atoms),)
