"""Stereochemistry as in the input structure: handedness of tetrahedral atoms, cis or trans at each amide.

Hydrogens count as labelled atoms, so CH2 and CH3 groups keep their handedness too: exchanging two hydrogens is a
relabelling that a bounded region of narrow torsions cannot reach anyway.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from molsampler.molecules.coordinates.zmatrix import neighbour_lists
from molsampler.molecules.molecule import Molecule

FLAT = 0.05  # |triple product| of unit bond differences; a regular tetrahedron has 3.1, four atoms in a plane 0


def amide_quadruples(molecule: Molecule) -> list[tuple[int, int, int, int]]:
    """Atoms (x, C, N, y) of the omega torsion of every O=C-N group; x and y are the heaviest other neighbours."""
    neighbours = neighbour_lists(molecule)
    numbers = molecule.atomic_numbers
    quadruples = []
    for c in range(molecule.n_atoms):
        if numbers[c] != 6 or len(neighbours[c]) != 3:
            continue
        oxygens = [o for o in neighbours[c] if numbers[o] == 8 and len(neighbours[o]) == 1]
        for n in neighbours[c]:
            others = [k for k in neighbours[n] if k != c]
            if numbers[n] != 7 or not oxygens or not others:
                continue
            x = next(k for k in neighbours[c] if k not in (n, oxygens[0]))
            quadruples.append((x, c, n, min(others, key=lambda k: (-int(numbers[k]), k))))
    return quadruples


@dataclass(frozen=True)
class Stereochemistry:
    """The side of every tetrahedral atom and amide, read off a structure.

    centres : (n_centres, 4) int64, the four neighbours of each tetrahedral atom
    centre_signs : (n_centres,) float64, +1 or -1, the sign of their triple product
    amides : (n_amides, 4) int64, the atoms of each omega
    amide_signs : (n_amides,) float64, the sign of cos(omega): -1 trans, +1 cis
    """

    centres: Tensor
    centre_signs: Tensor
    amides: Tensor
    amide_signs: Tensor

    @classmethod
    def from_molecule(cls, molecule: Molecule) -> Stereochemistry:
        """Stereochemistry of the molecule's input structure; atoms with four neighbours in a plane have none."""
        positions = torch.as_tensor(molecule.positions, dtype=torch.float64)[None]
        neighbours = neighbour_lists(molecule)
        four = [n for n in neighbours if len(n) == 4]
        centres = torch.tensor(four, dtype=torch.long).reshape(-1, 4)
        unit = [
            torch.nn.functional.normalize(positions[:, n] - positions[:, [i]], dim=-1)
            for i, n in enumerate(neighbours)
            if len(n) == 4
        ]
        if unit:
            own = torch.arange(4 * len(unit)).reshape(-1, 4)
            centres = centres[triple_products(torch.cat(unit, dim=1), own)[0].abs() > FLAT]
        amides = torch.tensor(amide_quadruples(molecule), dtype=torch.long).reshape(-1, 4)
        return cls(
            centres,
            triple_products(positions, centres)[0].sign(),
            amides,
            cosine_signs(positions, amides)[0].sign(),
        )

    def to(self, device: torch.device | str) -> Stereochemistry:
        """A copy on `device`."""
        return Stereochemistry(
            self.centres.to(device), self.centre_signs.to(device), self.amides.to(device), self.amide_signs.to(device)
        )

    def matches(self, positions: Tensor) -> Tensor:
        """positions (B, N, 3) nm -> (B,) bool: every centre and amide on its side; never for NaN."""
        handed = triple_products(positions, self.centres) * self.centre_signs.to(positions.dtype) > 0
        sided = cosine_signs(positions, self.amides) * self.amide_signs.to(positions.dtype) > 0
        return handed.all(-1) & sided.all(-1)


def triple_products(positions: Tensor, quadruples: Tensor) -> Tensor:
    """Six times the signed volumes (B, n) spanned by atoms (n, 4) at positions (B, N, 3)."""
    a, b, c, d = (positions[:, quadruples[:, k]] for k in range(4))
    return (torch.linalg.cross(a - d, b - d) * (c - d)).sum(-1)


def cosine_signs(positions: Tensor, quadruples: Tensor) -> Tensor:
    """A positive multiple (B, n) of the cosine of each torsion (n, 4) at positions (B, N, 3)."""
    a, b, c, d = (positions[:, quadruples[:, k]] for k in range(4))
    return (torch.linalg.cross(b - a, c - b) * torch.linalg.cross(c - b, d - c)).sum(-1)
