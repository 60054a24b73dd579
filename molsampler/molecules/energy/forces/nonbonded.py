"""OpenMM's NonbondedForce without cutoff: Coulomb and Lennard-Jones between all pairs, exceptions in their place."""

from __future__ import annotations

import openmm
import torch
from openmm import unit
from torch import Tensor

from molsampler.molecules.energy.forces.term import PairDistances, Term, UnsupportedForce, refuse_cutoff

COULOMB = 138.93545764438198  # kJ mol^-1 nm e^-2, 1 / (4 pi eps0) as OpenMM has it


class Nonbonded(Term):
    """Pairs of an `openmm.NonbondedForce` without cutoff among n_atoms atoms, as dense symmetric tables."""

    pairwise = True

    def __init__(self, force: openmm.NonbondedForce, n_atoms: int) -> None:
        super().__init__()
        refuse_cutoff(force)
        if force.getNumParticleParameterOffsets() or force.getNumExceptionParameterOffsets():
            raise UnsupportedForce("NonbondedForce with parameter offsets")
        system = unit.md_unit_system
        particles = [force.getParticleParameters(i) for i in range(n_atoms)]
        q, sigma, epsilon = torch.tensor(
            [[p.value_in_unit_system(system) for p in row] for row in particles], dtype=torch.float64
        ).T
        charge = q[:, None] * q
        sigma = 0.5 * (sigma[:, None] + sigma)
        epsilon = torch.sqrt(epsilon[:, None] * epsilon)
        for k in range(force.getNumExceptions()):
            i, j, *values = force.getExceptionParameters(k)
            product, s, e = (v.value_in_unit_system(system) for v in values)
            for a, b in ((i, j), (j, i)):
                charge[a, b], sigma[a, b], epsilon[a, b] = product, s, e
        for table in (charge, sigma, epsilon):
            table.fill_diagonal_(0.0)
        sigma = torch.where(epsilon == 0.0, 0.0, sigma)
        # Every pair stands twice in the dense tables, hence the halves.
        self.register_buffer("coulomb", (0.5 * COULOMB * charge)[..., None])
        self.register_buffer("sigma2", (sigma * sigma)[..., None])
        self.register_buffer("epsilon2", (2.0 * epsilon)[..., None])

    def forward(self, x: Tensor, pairs: PairDistances | None) -> Tensor:
        assert pairs is not None
        ratio = self.sigma2 * (pairs.inverse * pairs.inverse)  # (N, N, B)
        sixth = ratio * ratio * ratio
        # sixth * (sixth - 1), not a difference of two powers: a clash becomes +inf, never inf - inf.
        return (self.coulomb * pairs.inverse + self.epsilon2 * (sixth * (sixth - 1.0))).sum((0, 1))
