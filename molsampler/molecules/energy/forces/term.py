"""What a translated force is: a module that gives one energy per conformation; and the exception where it cannot.

Positions go in as (3, N, B): the batch is the last, contiguous axis, so that every kernel runs over it with full
vectors and no force needs a transposition. Pair forces share the dense distance tables of `PairDistances`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import NamedTuple

import openmm
import torch
from torch import Tensor, nn


class UnsupportedForce(Exception):
    """A force of the System is not covered by the torch kernels, or does not agree with OpenMM; it is named."""


# "r inverse" cannot be written in an expression: no force can mean something else by it.
INVERSES = {"r": "r inverse"}


class PairDistances(NamedTuple):
    """Distances of all ordered pairs; the diagonal is 1 nm so that no gradient divides by zero, and must be masked.

    distance, inverse : (N, N, B), nm and 1/nm
    """

    distance: Tensor
    inverse: Tensor

    @classmethod
    def of(cls, x: Tensor) -> PairDistances:
        """Tables of positions x (3, N, B) in nm."""
        dx, dy, dz = (c[:, None, :] - c[None, :, :] for c in x)  # (N, N, B) each
        diagonal = torch.eye(x.shape[1], dtype=x.dtype, device=x.device)[:, :, None]
        squared = dx * dx + dy * dy + dz * dz + diagonal
        inverse = torch.rsqrt(squared)  # its gradient needs no division, that of a square root does
        return cls(squared * inverse, inverse)


class Term(nn.Module, ABC):
    """One force as a torch module. `pairwise` says whether it reads the distance tables."""

    pairwise = False

    @abstractmethod
    def forward(self, x: Tensor, pairs: PairDistances | None) -> Tensor:
        """x: (3, N, B) nm -> energies (B,) in kJ/mol."""


def column(values: list[float]) -> Tensor:
    """Per-interaction constants as a (M, 1) float64 column, to broadcast against (M, B)."""
    return torch.tensor(values, dtype=torch.float64).reshape(-1, 1)


def refuse_periodic(force: openmm.Force) -> None:
    """Raise `UnsupportedForce` for a force that uses periodic boundary conditions."""
    if force.usesPeriodicBoundaryConditions():
        raise UnsupportedForce(f"{type(force).__name__} with periodic boundary conditions")


def refuse_cutoff(force: openmm.Force) -> None:
    """Raise `UnsupportedForce` for a nonbonded force with a cutoff."""
    if force.getNonbondedMethod() != type(force).NoCutoff:
        raise UnsupportedForce(f"{type(force).__name__} with a cutoff (only NoCutoff is covered)")
