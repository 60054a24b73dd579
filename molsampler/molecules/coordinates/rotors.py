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


@dataclass(frozen=True)
class RotorColumns:
    """G rotors of one size m: stiff : (G (3 m - 1),) their columns among the raw coordinates on the line, bonds (G, m),
    angles (G, m) and relative torsions (G, m - 1) one after the other; own : (G,) columns of their soft torsions."""

    stiff: Tensor
    own: Tensor
    size: int

    @property
    def count(self) -> int:
        return len(self.own)

    def turn(
        self, raw: Tensor, own: Tensor, by_raw: Tensor, by_own: Tensor, mean: Tensor, shift: Tensor
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Raw coordinates (B, len(stiff)), soft torsions (B, G) and grad log R by both, with every rotor turned by
        shift (B, G) places.

        mean : (len(stiff),) that relative torsions stay within pi of
        """
        # absolute torsions change places: the soft one, and the others as differences from it
        bonds, angles, relative = self._parts(raw)
        own = own[..., None]
        absolute = torch.cat([own, own + relative], dim=-1)
        bonds, angles, absolute = self._turned(torch.stack([bonds, angles, absolute], 1), shift)
        by_bonds, by_angles, by_relative = self._parts(by_raw)
        by_first = by_own[..., None] - by_relative.sum(-1, keepdim=True)
        by_absolute = torch.cat([by_first, by_relative], dim=-1)
        by_bonds, by_angles, by_absolute = self._turned(torch.stack([by_bonds, by_angles, by_absolute], 1), shift)
        own, middle = absolute[..., 0], self._parts(mean[None])[2]
        relative = middle + wrap_angle(absolute[..., 1:] - own[..., None] - middle)
        raw, by_raw = (
            torch.cat([part.flatten(1) for part in parts], dim=1)
            for parts in ((bonds, angles, relative), (by_bonds, by_angles, by_absolute[..., 1:]))
        )
        return raw, wrap_angle(own), by_raw, by_absolute.sum(-1)

    def _parts(self, values: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """(B, len(stiff)) -> (B, G, m), (B, G, m), (B, G, m - 1)."""
        g, m = self.count, self.size
        bonds, angles, relative = values.split([g * m, g * m, g * (m - 1)], dim=1)
        return bonds.unflatten(1, (g, m)), angles.unflatten(1, (g, m)), relative.unflatten(1, (g, m - 1))

    def _turned(self, values: Tensor, shift: Tensor) -> tuple[Tensor, ...]:
        """(B, 3, G, m) turned by shift (B, G), as three (B, G, m)."""
        index = (torch.arange(self.size, device=values.device) + shift[..., None]) % self.size
        return values.gather(-1, index[:, None].expand_as(values)).unbind(1)
