"""OpenMM's CustomNonbondedForce without cutoff: an expression of the distance r and both particles' parameters."""

from __future__ import annotations

import openmm
import torch
from torch import Tensor, nn

from molsampler.molecules.energy.forces.custom_tuples import ParameterColumns, global_parameters
from molsampler.molecules.energy.forces.expression import translate
from molsampler.molecules.energy.forces.tabulated import tabulated_functions
from molsampler.molecules.energy.forces.term import INVERSES, PairDistances, Term, refuse_cutoff


def pair_counts(force: openmm.CustomNonbondedForce, n_atoms: int) -> Tensor:
    """(N, N) float64, how often each pair counts, by interaction groups and exclusions; 0 on the diagonal."""
    counts = torch.zeros(n_atoms, n_atoms, dtype=torch.float64)
    for k in range(force.getNumInteractionGroups()):
        first, second = (set(group) for group in force.getInteractionGroupParameters(k))
        for i, j in {(min(i, j), max(i, j)) for i in first for j in second}:
            counts[i, j] += 1.0
    if force.getNumInteractionGroups() == 0:
        counts += torch.ones_like(counts).triu(1)
    counts += counts.T.clone()
    for k in range(force.getNumExclusions()):
        i, j = force.getExclusionParticles(k)
        counts[i, j] = counts[j, i] = 0.0
    return counts.fill_diagonal_(0.0)


class CustomNonbonded(Term):
    """The pairs of an `openmm.CustomNonbondedForce` with NoCutoff among n_atoms atoms."""

    pairwise = True

    def __init__(self, force: openmm.CustomNonbondedForce, n_atoms: int) -> None:
        super().__init__()
        refuse_cutoff(force)
        names = [force.getPerParticleParameterName(k) for k in range(force.getNumPerParticleParameters())]
        self.columns = ParameterColumns([force.getParticleParameters(i) for i in range(n_atoms)], len(names))
        constants, tables = global_parameters(force), tabulated_functions(force)
        self.values = nn.ModuleList()
        for k in range(force.getNumComputedValues()):
            name, text = force.getComputedValueParameters(k)
            self.values.append(translate(text, names, constants, tables))
            names = [*names, name]
        variables = ["r", "r inverse", *(f"{name}1" for name in names), *(f"{name}2" for name in names)]
        self.expression = translate(force.getEnergyFunction(), variables, constants, tables, INVERSES)
        counts = pair_counts(force, n_atoms)
        self.register_buffer("counts", 0.5 * counts[..., None])  # every pair stands twice in the dense table
        self.register_buffer("counted", (counts > 0.0)[..., None])

    def forward(self, x: Tensor, pairs: PairDistances | None) -> Tensor:
        assert pairs is not None
        own = self.columns()
        n_parameters = len(own)
        for value in self.values:
            own.append(value(*own[:n_parameters]))
        # Pairs that do not count are kept at 1 nm: whatever the expression does at short range, it does not reach them.
        distance = torch.where(self.counted, pairs.distance, 1.0)
        firsts = [v[:, None, :] for v in own]
        seconds = [v[None, :, :] for v in own]
        inverse = torch.where(self.counted, pairs.inverse, 1.0)
        return (self.expression(distance, inverse, *firsts, *seconds) * self.counts).sum((0, 1))
