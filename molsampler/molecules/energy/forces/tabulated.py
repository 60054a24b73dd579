"""Tabulated functions inside OpenMM's expressions: the discrete ones, as GBn and NBFIX use them."""

from __future__ import annotations

import openmm
import torch
from torch import Tensor, nn

from molsampler.molecules.energy.forces.term import UnsupportedForce


class DiscreteTable(nn.Module):
    """A table of 1, 2 or 3 dimensions, read at the arguments rounded to integers; x runs fastest, as in OpenMM."""

    def __init__(self, values: list[float], shape: tuple[int, ...]) -> None:
        super().__init__()
        self.shape = shape
        self.register_buffer("values", torch.tensor(values, dtype=torch.float64))

    def forward(self, *arguments: Tensor) -> Tensor:
        index, stride = 0, 1
        for argument, size in zip(arguments, self.shape, strict=True):
            index = index + stride * torch.round(argument.detach()).long().clamp(0, size - 1)
            stride *= size
        return self.values[index]


def tabulated_functions(force: openmm.Force) -> dict[str, nn.Module]:
    """The tabulated functions of a Custom force by name. Raises UnsupportedForce for the continuous kinds."""
    tables: dict[str, nn.Module] = {}
    for k in range(force.getNumTabulatedFunctions()):
        function = force.getTabulatedFunction(k)
        name = force.getTabulatedFunctionName(k)
        *shape, values = function.getFunctionParameters() if _is_discrete(function) else (None,)
        if values is None:
            raise UnsupportedForce(f"{type(force).__name__} with the {type(function).__name__} '{name}'")
        tables[name] = DiscreteTable(list(values), tuple(shape) or (len(values),))
    return tables


def _is_discrete(function: openmm.TabulatedFunction) -> bool:
    return isinstance(function, openmm.Discrete1DFunction | openmm.Discrete2DFunction | openmm.Discrete3DFunction)
