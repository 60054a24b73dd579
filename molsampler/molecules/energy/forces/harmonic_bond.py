"""OpenMM's HarmonicBondForce: k/2 (r - r0)^2."""

from __future__ import annotations

import openmm
from openmm import unit
from torch import Tensor

from molsampler.molecules.energy.forces.gather import AtomTuples
from molsampler.molecules.energy.forces.geometry import distances
from molsampler.molecules.energy.forces.term import PairDistances, Term, column, refuse_periodic


class HarmonicBond(Term):
    """Harmonic bonds of an `openmm.HarmonicBondForce` among n_atoms atoms."""

    def __init__(self, force: openmm.HarmonicBondForce, n_atoms: int) -> None:
        super().__init__()
        refuse_periodic(force)
        bonds = [force.getBondParameters(k) for k in range(force.getNumBonds())]
        self.atoms = AtomTuples([(i, j) for i, j, _, _ in bonds], n_atoms)
        self.register_buffer("length", column([b[2].value_in_unit(unit.nanometer) for b in bonds]))
        self.register_buffer("constant", column([b[3].value_in_unit_system(unit.md_unit_system) for b in bonds]))

    def forward(self, x: Tensor, pairs: PairDistances | None) -> Tensor:
        stretch = distances(self.atoms(x)) - self.length
        return (0.5 * self.constant * stretch * stretch).sum(0)
