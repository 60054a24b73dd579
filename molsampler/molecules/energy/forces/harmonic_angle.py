"""OpenMM's HarmonicAngleForce: k/2 (theta - theta0)^2."""

from __future__ import annotations

import openmm
from openmm import unit
from torch import Tensor

from molsampler.molecules.energy.forces.gather import AtomTuples
from molsampler.molecules.energy.forces.geometry import angles
from molsampler.molecules.energy.forces.term import PairDistances, Term, column, refuse_periodic


class HarmonicAngle(Term):
    """Harmonic angles of an `openmm.HarmonicAngleForce` among n_atoms atoms."""

    def __init__(self, force: openmm.HarmonicAngleForce, n_atoms: int) -> None:
        super().__init__()
        refuse_periodic(force)
        terms = [force.getAngleParameters(k) for k in range(force.getNumAngles())]
        self.atoms = AtomTuples([tuple(t[:3]) for t in terms], n_atoms)
        self.register_buffer("angle", column([t[3].value_in_unit(unit.radian) for t in terms]))
        self.register_buffer("constant", column([t[4].value_in_unit_system(unit.md_unit_system) for t in terms]))

    def forward(self, x: Tensor, pairs: PairDistances | None) -> Tensor:
        bend = angles(self.atoms(x)) - self.angle
        return (0.5 * self.constant * bend * bend).sum(0)
