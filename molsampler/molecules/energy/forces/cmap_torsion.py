"""OpenMM's CMAPTorsionForce: a periodic bicubic spline over two dihedrals."""

from __future__ import annotations

import math

import numpy as np
import openmm
import torch
from openmm import unit
from torch import Tensor

from molsampler.molecules.energy.forces.gather import AtomTuples
from molsampler.molecules.energy.forces.geometry import dihedrals
from molsampler.molecules.energy.forces.term import PairDistances, Term, refuse_periodic

# Value and slope at 0 and at 1 -> coefficients of 1, t, t^2, t^3.
_HERMITE = np.array([[1, 0, 0, 0], [0, 0, 1, 0], [-3, 3, -2, -1], [2, -2, 1, 1]], dtype=np.float64)


def bicubic_coefficients(values: np.ndarray) -> np.ndarray:
    """values (S, S) [first, second] -> coefficients (S, S, 4, 4) of t^a u^b in every cell of the periodic spline."""
    size = len(values)
    following = np.roll(np.eye(size), 1, axis=1)  # row i picks node i + 1
    # Slopes m of a periodic cubic spline of unit spacing: m_(i-1) + 4 m_i + m_(i+1) = 3 (f_(i+1) - f_(i-1)).
    slope = np.linalg.solve(4.0 * np.eye(size) + following + following.T, 3.0 * (following - following.T))
    by_first, by_second, by_both = slope @ values, values @ slope.T, slope @ values @ slope.T
    corners = np.empty((size, size, 4, 4))
    for a in (0, 1):
        for b in (0, 1):
            shifted = [np.roll(f, (-a, -b), (0, 1)) for f in (values, by_second, by_first, by_both)]
            corners[..., a, b], corners[..., a, b + 2], corners[..., a + 2, b], corners[..., a + 2, b + 2] = shifted
    return _HERMITE @ corners @ _HERMITE.T


class CMAPTorsion(Term):
    """Torsion pairs of an `openmm.CMAPTorsionForce` among n_atoms atoms."""

    def __init__(self, force: openmm.CMAPTorsionForce, n_atoms: int) -> None:
        super().__init__()
        refuse_periodic(force)
        terms = [force.getTorsionParameters(k) for k in range(force.getNumTorsions())]
        self.first = AtomTuples([tuple(t[1:5]) for t in terms], n_atoms)
        self.second = AtomTuples([tuple(t[5:9]) for t in terms], n_atoms)
        sizes, offsets, tables, start = [], [], [], 0
        for k in range(force.getNumMaps()):
            size, energies = force.getMapParameters(k)
            values = np.array(energies.value_in_unit(unit.kilojoule_per_mole)).reshape(size, size).T
            tables.append(bicubic_coefficients(values).reshape(size * size, 16))
            sizes.append(size)
            offsets.append(start)
            start += size * size
        self.register_buffer("coefficients", torch.from_numpy(np.concatenate(tables).T.copy()))  # (16, cells)
        self.register_buffer("size", torch.tensor([[sizes[t[0]]] for t in terms]))  # (M, 1)
        self.register_buffer("offset", torch.tensor([[offsets[t[0]]] for t in terms]))

    def _cell(self, angle: Tensor) -> tuple[Tensor, Tensor]:
        """Cell index and place in the cell, both (M, B), of dihedrals in radians."""
        scaled = angle * (self.size / (2.0 * math.pi))
        floor = torch.floor(scaled.detach())
        return torch.remainder(floor.long(), self.size), scaled - floor

    def forward(self, x: Tensor, pairs: PairDistances | None) -> Tensor:
        i, t = self._cell(dihedrals(self.first(x)))
        j, u = self._cell(dihedrals(self.second(x)))
        cell = self.offset + i * self.size + j
        value = 0.0
        for a in (3, 2, 1, 0):
            row = 0.0
            for b in (3, 2, 1, 0):
                row = row * u + self.coefficients[4 * a + b][cell]
            value = value * t + row
        return value.sum(0)
