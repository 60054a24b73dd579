"""OpenMM's CustomExternalForce: an expression of the coordinates x, y, z of one atom."""

from __future__ import annotations

import openmm
from torch import Tensor

from molsampler.molecules.energy.forces.custom_tuples import CustomTuples
from molsampler.molecules.energy.forces.term import refuse_periodic


class CustomExternal(CustomTuples):
    """The particles of an `openmm.CustomExternalForce` among n_atoms atoms."""

    def __init__(self, force: openmm.CustomExternalForce, n_atoms: int) -> None:
        refuse_periodic(force)
        particles = [force.getParticleParameters(k) for k in range(force.getNumParticles())]
        names = [force.getPerParticleParameterName(k) for k in range(force.getNumPerParticleParameters())]
        tuples = [(i,) for i, _ in particles]
        super().__init__(force, n_atoms, tuples, [p[1] for p in particles], names, ["x", "y", "z"])

    def coordinates(self, atoms: Tensor) -> tuple[Tensor, ...]:
        return atoms[0, 0], atoms[1, 0], atoms[2, 0]
