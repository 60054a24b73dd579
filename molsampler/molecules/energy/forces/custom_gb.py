"""OpenMM's CustomGBForce without cutoff: computed values, single-particle and pair energies, all from expressions.

HCT, OBC1, OBC2, GBn and GBn2 implicit solvent, with their surface-area terms, are written in it by OpenMM's Amber
reader and its implicit/*.xml files.
"""

from __future__ import annotations

import openmm
import torch
from torch import Tensor, nn

from molsampler.molecules.energy.forces.custom_tuples import ParameterColumns, global_parameters
from molsampler.molecules.energy.forces.expression import translate
from molsampler.molecules.energy.forces.tabulated import tabulated_functions
from molsampler.molecules.energy.forces.term import INVERSES, PairDistances, Term, UnsupportedForce, refuse_cutoff

_PAIR = openmm.CustomGBForce.ParticlePair
_SINGLE = openmm.CustomGBForce.SingleParticle


def _of_pairs(names: list[str]) -> list[str]:
    return [f"{name}{k}" for k in (1, 2) for name in names]


class CustomGB(Term):
    """An `openmm.CustomGBForce` with NoCutoff among n_atoms atoms."""

    pairwise = True

    def __init__(self, force: openmm.CustomGBForce, n_atoms: int) -> None:
        super().__init__()
        refuse_cutoff(force)
        count = range(force.getNumPerParticleParameters())
        self.parameter_names = [force.getPerParticleParameterName(k) for k in count]
        self.columns = ParameterColumns([force.getParticleParameters(i) for i in range(n_atoms)], len(count))
        self.constants, self.tables = global_parameters(force), tabulated_functions(force)
        self.has_exclusions = force.getNumExclusions() > 0
        everyone = 1.0 - torch.eye(n_atoms, dtype=torch.float64)
        allowed = everyone.clone()
        for k in range(force.getNumExclusions()):
            i, j = force.getExclusionParticles(k)
            allowed[i, j] = allowed[j, i] = 0.0
        self.register_buffer("everyone", everyone[..., None])
        self.register_buffer("allowed", allowed[..., None])
        self._translate_values(force)
        self._translate_energies(force)

    def _translated(self, text: str, kind: int) -> nn.Module:
        own = self.parameter_names + self.value_names
        columns = zip(self.parameter_names, self.columns(), strict=True)
        positive = [name for name, column in columns if bool((column > 0.0).all())]
        if kind == _SINGLE:
            return translate(text, ["x", "y", "z", *own], self.constants, self.tables, positive=positive)
        variables = ["r", "r inverse", *_of_pairs(own)]
        return translate(text, variables, self.constants, self.tables, INVERSES, _of_pairs(positive))

    def _translate_values(self, force: openmm.CustomGBForce) -> None:
        self.value_names: list[str] = []
        self.value_kinds: list[int] = []
        self.values = nn.ModuleList()
        for k in range(force.getNumComputedValues()):
            name, text, kind = force.getComputedValueParameters(k)
            if kind != _SINGLE and k > 0:
                raise UnsupportedForce(f"CustomGBForce with a pair sum as its computed value number {k + 1}")
            self.values.append(self._translated(text, kind))
            self.value_names.append(name)
            self.value_kinds.append(kind)

    def _translate_energies(self, force: openmm.CustomGBForce) -> None:
        self.energy_kinds: list[int] = []
        self.energies = nn.ModuleList()
        for k in range(force.getNumEnergyTerms()):
            text, kind = force.getEnergyTermParameters(k)
            self.energies.append(self._translated(text, kind))
            self.energy_kinds.append(kind)

    def _pair(self, expression: nn.Module, kind: int, own: list[Tensor], pairs: PairDistances) -> Tensor:
        """Value of a pair expression for all ordered pairs, zero where the pair does not count: (N, N, B)."""
        firsts = [v[:, None, :] for v in own]
        seconds = [v[None, :, :] for v in own]
        if kind == _PAIR and self.has_exclusions:
            # Excluded pairs are kept at 1 nm: whatever the expression does at short range, it does not reach them.
            distance = torch.where(self.allowed > 0.0, pairs.distance, 1.0)
            inverse = torch.where(self.allowed > 0.0, pairs.inverse, 1.0)
            return expression(distance, inverse, *firsts, *seconds) * self.allowed
        return expression(pairs.distance, pairs.inverse, *firsts, *seconds) * self.everyone

    def computed(self, x: Tensor, pairs: PairDistances) -> list[Tensor]:
        """Every atom's parameters, (N, 1) each, and computed values, (N, B) each, in the order of their names."""
        own = self.columns()
        for expression, kind in zip(self.values, self.value_kinds, strict=True):
            own.append(expression(*x, *own) if kind == _SINGLE else self._pair(expression, kind, own, pairs).sum(1))
        return own

    def forward(self, x: Tensor, pairs: PairDistances | None) -> Tensor:
        """Energies (B,): computed values in the force's order, then its energy terms of atoms and of pairs."""
        assert pairs is not None
        own = self.computed(x, pairs)
        total = x.new_zeros(x.shape[-1])
        for expression, kind in zip(self.energies, self.energy_kinds, strict=True):
            if kind == _SINGLE:
                total = total + expression(*x, *own).expand(x.shape[1:]).sum(0)
            else:
                # OpenMM counts a pair once; a valid pair energy is symmetric, so half of the dense sum is the same.
                total = total + 0.5 * self._pair(expression, kind, own, pairs).sum((0, 1))
        return total
