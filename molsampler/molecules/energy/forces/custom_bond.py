"""OpenMM's CustomBondForce: an expression of the distance r between two atoms."""

from __future__ import annotations

import openmm
from torch import Tensor

from molsampler.molecules.energy.forces.custom_tuples import CustomTuples
from molsampler.molecules.energy.forces.geometry import distances
from molsampler.molecules.energy.forces.term import refuse_periodic


class CustomBond(CustomTuples):
    """The bonds of an `openmm.CustomBondForce` among n_atoms atoms."""

    def __init__(self, force: openmm.CustomBondForce, n_atoms: int) -> None:
        refuse_periodic(force)
        bonds = [force.getBondParameters(k) for k in range(force.getNumBonds())]
        names = [force.getPerBondParameterName(k) for k in range(force.getNumPerBondParameters())]
        super().__init__(force, n_atoms, [(i, j) for i, j, _ in bonds], [b[2] for b in bonds], names, ["r"])

    def coordinates(self, atoms: Tensor) -> tuple[Tensor, ...]:
        return (distances(atoms),)
