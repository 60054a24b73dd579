"""Like atoms at the end of a soft torsion (methyl, ammonium): turning their names round is a symmetry of the density.

In internal coordinates it permutes bonds, angles and torsions about the axis, so it is linear there, volume is kept,
and the score follows without another evaluation of the energy. Every state then stands for three states a methyl.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from molsampler.basis.space import wrap_angle
from molsampler.molecules.coordinates.zmatrix import ZMatrix
from molsampler.molecules.molecule import Molecule


@dataclass(frozen=True)
class Rotor:
    """m like atoms, placed about one axis by one soft torsion and m - 1 relative to it; rows : theirs in the
    Z-matrix, in the order round the axis in which the names turn."""

    atoms: tuple[int, ...]
    rows: tuple[int, ...]

    def turned(self, n_atoms: int) -> Tensor:
        """(N,) int: atom k of the turned molecule is where atom turned[k] was."""
        index = torch.arange(n_atoms)
        index[list(self.atoms)] = torch.tensor([*self.atoms[1:], self.atoms[0]])
        return index


def find_rotors(molecule: Molecule, zmatrix: ZMatrix, is_soft: Tensor) -> list[Rotor]:
    """Candidates by element and bonds; whether the energy takes their atoms for the same is for the energy to say.

    is_soft : (N - 3,) bool, of the Z-matrix's torsions
    """
    numbers, parents = molecule.graph.atomic_numbers, set(zmatrix.parent_row.tolist())
    order, rotors = zmatrix.order.tolist(), []
    for k in torch.nonzero(is_soft)[:, 0].tolist():
        rows = [k + 3, *(j + 3 for j, base in enumerate(zmatrix.base.tolist()) if base == k)]
        alike = len({numbers[order[row]] for row in rows}) == 1
        if len(rows) > 1 and alike and parents.isdisjoint(rows):
            rotors.append(Rotor(tuple(order[row] for row in rows), tuple(rows)))
    return rotors


def turn(values: Tensor, shift: Tensor) -> Tensor:
    """values (B, G, m) of G rotors, each turned by shift (B, G) places."""
    m = values.shape[-1]
    index = (torch.arange(m, device=values.device) + shift[..., None]) % m
    return values.gather(-1, index)


@dataclass(frozen=True)
class RotorColumns:
    """Where G rotors of one size m have their coordinates: columns (G, m) of raw coordinates in the order of z."""

    bonds: Tensor
    angles: Tensor
    torsions: Tensor

    @property
    def shape(self) -> torch.Size:
        return self.bonds.shape

    def turn(self, raw: Tensor, score: Tensor, mean: Tensor, shift: Tensor) -> tuple[Tensor, Tensor]:
        """Raw coordinates (B, dim) and grad log R by them with the rotors turned by shift (B, G).

        mean : (dim,) that relative torsions stay within pi of
        """
        raw, score = raw.clone(), score.clone()
        for columns in (self.bonds, self.angles):
            for values in (raw, score):
                values[:, columns] = turn(values[:, columns], shift)
        # absolute torsions are permuted: the first one, and the others as differences from it
        own, relative = self.torsions[:, :1], self.torsions[:, 1:]
        first = raw[:, own]
        absolute = turn(torch.cat([first, first + raw[:, relative]], dim=-1), shift)
        raw[:, own] = wrap_angle(absolute[..., :1])
        middle = mean[relative]
        raw[:, relative] = middle + wrap_angle(absolute[..., 1:] - absolute[..., :1] - middle)
        by_own, by_relative = score[:, own], score[:, relative]
        by_absolute = turn(torch.cat([by_own - by_relative.sum(-1, keepdim=True), by_relative], dim=-1), shift)
        score[:, own] = by_absolute.sum(-1, keepdim=True)
        score[:, relative] = by_absolute[..., 1:]
        return raw, score
