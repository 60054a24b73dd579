"""Stereochemistry as in the input structure: handedness of tetrahedral atoms, cis or trans at each amide that keeps it.

Hydrogens count as labelled atoms, so CH2 and CH3 groups keep their handedness too: exchanging two hydrogens is a
relabelling that a bounded region of narrow torsions cannot reach anyway.

Which atoms, and what the signs mean, is `basis.graph`'s to say. Analysis measures the same signs of the same atoms by
arithmetic of its own, to be able to contradict this module.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from molsampler.molecules.molecule import Molecule

FLAT = 0.05  # |triple product| of unit bond differences; a regular tetrahedron has 3.1, four atoms in a plane 0


@dataclass(frozen=True)
class Stereochemistry:
    """The side of every tetrahedral atom and amide, read off a structure.

    centres : (n_centres, 4) int64, the four neighbours of each tetrahedral atom
    centre_signs : (n_centres,) float64, +1 or -1, the sign of their triple product
    amides : (n_amides, 4) int64, the atoms of each omega, but for amides that are free to be both
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
        tetrahedral = molecule.graph.tetrahedral
        centres = torch.tensor(list(tetrahedral.values()), dtype=torch.long).reshape(-1, 4)
        middle = torch.tensor(list(tetrahedral), dtype=torch.long)[:, None]
        unit = torch.nn.functional.normalize(positions[:, centres] - positions[:, middle], dim=-1)  # (1, n, 4, 3)
        own = torch.arange(4 * len(centres)).reshape(-1, 4)
        centres = centres[triple_products(unit.reshape(1, -1, 3), own)[0].abs() > FLAT]
        kept = [amide for amide in molecule.graph.amides if amide not in molecule.free_amides]
        amides = torch.tensor(kept, dtype=torch.long).reshape(-1, 4)
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
    """Six times the signed volumes (B, n) spanned by atoms (n, 4) at positions (B, N, 3); their signs are the hands."""
    a, b, c, d = (positions[:, quadruples[:, k]] for k in range(4))
    return (torch.linalg.cross(a - d, b - d) * (c - d)).sum(-1)


def cosine_signs(positions: Tensor, quadruples: Tensor) -> Tensor:
    """A positive multiple (B, n) of the cosine of each torsion (n, 4) at positions (B, N, 3)."""
    a, b, c, d = (positions[:, quadruples[:, k]] for k in range(4))
    return (torch.linalg.cross(b - a, c - b) * torch.linalg.cross(c - b, d - c)).sum(-1)
