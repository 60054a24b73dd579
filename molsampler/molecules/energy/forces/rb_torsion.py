"""OpenMM's RBTorsionForce: a polynomial of order 5 in cos(phi - 180 degrees)."""

from __future__ import annotations

import openmm
import torch
from openmm import unit
from torch import Tensor

from molsampler.molecules.energy.forces.gather import AtomTuples
from molsampler.molecules.energy.forces.geometry import dihedral_cosine_sine
from molsampler.molecules.energy.forces.term import PairDistances, Term, refuse_periodic


class RBTorsion(Term):
    """Ryckaert-Bellemans torsions of an `openmm.RBTorsionForce` among n_atoms atoms."""

    def __init__(self, force: openmm.RBTorsionForce, n_atoms: int) -> None:
        super().__init__()
        refuse_periodic(force)
        terms = [force.getTorsionParameters(k) for k in range(force.getNumTorsions())]
        self.atoms = AtomTuples([tuple(t[:4]) for t in terms], n_atoms)
        values = [[c.value_in_unit(unit.kilojoule_per_mole) for c in t[4:]] for t in terms]
        self.register_buffer("coefficients", torch.tensor(values, dtype=torch.float64).T[..., None].contiguous())

    def forward(self, x: Tensor, pairs: PairDistances | None) -> Tensor:
        c = -dihedral_cosine_sine(self.atoms(x))[0]  # cos(phi - 180 degrees)
        value = self.coefficients[5]  # (M, 1)
        for n in range(4, -1, -1):
            value = value * c + self.coefficients[n]
        return value.sum(0)
