"""OpenMM's CustomAngleForce: an expression of the angle theta of three atoms."""

from __future__ import annotations

import openmm
from torch import Tensor

from molsampler.molecules.energy.forces.custom_tuples import CustomTuples
from molsampler.molecules.energy.forces.geometry import angles
from molsampler.molecules.energy.forces.term import refuse_periodic


class CustomAngle(CustomTuples):
    """The angles of an `openmm.CustomAngleForce` among n_atoms atoms."""

    def __init__(self, force: openmm.CustomAngleForce, n_atoms: int) -> None:
        refuse_periodic(force)
        terms = [force.getAngleParameters(k) for k in range(force.getNumAngles())]
        names = [force.getPerAngleParameterName(k) for k in range(force.getNumPerAngleParameters())]
        super().__init__(force, n_atoms, [tuple(t[:3]) for t in terms], [t[3] for t in terms], names, ["theta"])

    def coordinates(self, atoms: Tensor) -> tuple[Tensor, ...]:
        return (angles(atoms),)
