"""What the Custom forces over bonds, angles, torsions and single particles share: one expression, many atoms."""

from __future__ import annotations

from abc import abstractmethod

import openmm
import torch
from torch import Tensor, nn

from molsampler.molecules.energy.forces.expression import translate
from molsampler.molecules.energy.forces.gather import AtomTuples
from molsampler.molecules.energy.forces.term import PairDistances, Term


def global_parameters(force: openmm.Force) -> dict[str, float]:
    """The global parameters of a Custom force with their default values."""
    return {
        force.getGlobalParameterName(k): force.getGlobalParameterDefaultValue(k)
        for k in range(force.getNumGlobalParameters())
    }


class ParameterColumns(nn.Module):
    """Rows of parameters as one (M, 1) column a parameter, in the order of the names."""

    def __init__(self, rows: list[tuple[float, ...]], count: int) -> None:
        super().__init__()
        self.count = count
        values = torch.tensor(rows, dtype=torch.float64).reshape(len(rows), count)
        for k in range(count):
            self.register_buffer(f"column_{k}", values[:, k : k + 1].clone())

    def forward(self) -> list[Tensor]:
        return [getattr(self, f"column_{k}") for k in range(self.count)]


class CustomTuples(Term):
    """Sum of one expression over tuples of atoms, each with its own parameters.

    tuples : M tuples of atoms; rows : their parameters, in the order of `names`
    variables : names of what `coordinates` returns
    """

    def __init__(
        self,
        force: openmm.Force,
        n_atoms: int,
        tuples: list[tuple[int, ...]],
        rows: list[tuple[float, ...]],
        names: list[str],
        variables: list[str],
    ) -> None:
        super().__init__()
        self.atoms = AtomTuples(tuples, n_atoms)
        self.columns = ParameterColumns(rows, len(names))
        self.expression = translate(force.getEnergyFunction(), variables + names, global_parameters(force))

    @abstractmethod
    def coordinates(self, atoms: Tensor) -> tuple[Tensor, ...]:
        """(3, k, M, B) nm -> the expression's variables, each (M, B)."""

    def forward(self, x: Tensor, pairs: PairDistances | None) -> Tensor:
        atoms = self.atoms(x)
        value = self.expression(*self.coordinates(atoms), *self.columns())
        return value.expand(atoms.shape[2:]).sum(0)
