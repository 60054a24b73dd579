"""Distances, angles and dihedrals of (3, k, M, B) tuples of atoms; gradients stay finite where atoms line up.

For energies, inside compiled kernels; `coordinates.internal` measures the same of points (..., 3).
"""

from __future__ import annotations

import torch
from torch import Tensor


def dot(a: Tensor, b: Tensor) -> Tensor:
    """Scalar product over the leading axis: (3, ...), (3, ...) -> (...)."""
    return a[0] * b[0] + a[1] * b[1] + a[2] * b[2]


def cross(a: Tensor, b: Tensor) -> Tensor:
    """Vector product over the leading axis: (3, ...), (3, ...) -> (3, ...)."""
    return torch.stack((a[1] * b[2] - a[2] * b[1], a[2] * b[0] - a[0] * b[2], a[0] * b[1] - a[1] * b[0]))


def _safe_sqrt(squared: Tensor) -> Tensor:
    # The floor is far below any square that a molecule has; it keeps the gradient at exactly zero finite.
    return torch.sqrt(squared.clamp_min(1e-30))


def distances(atoms: Tensor) -> Tensor:
    """(3, 2, M, B) nm -> (M, B) nm."""
    d = atoms[:, 0] - atoms[:, 1]
    return _safe_sqrt(dot(d, d))


def angles(atoms: Tensor) -> Tensor:
    """(3, 3, M, B) nm -> angles at the middle atom, (M, B) in [0, pi]."""
    a, b = atoms[:, 0] - atoms[:, 1], atoms[:, 2] - atoms[:, 1]
    normal = cross(a, b)
    return torch.atan2(_safe_sqrt(dot(normal, normal)), dot(a, b))


def dihedral_sides(atoms: Tensor) -> tuple[Tensor, Tensor]:
    """(3, 4, M, B) nm -> (y, x), both (M, B), with dihedral = atan2(y, x) in the IUPAC sign that OpenMM uses."""
    a, b, c = atoms[:, 1] - atoms[:, 0], atoms[:, 2] - atoms[:, 1], atoms[:, 3] - atoms[:, 2]
    m, n = cross(a, b), cross(b, c)
    return _safe_sqrt(dot(b, b)) * dot(a, n), dot(m, n)


def dihedrals(atoms: Tensor) -> Tensor:
    """(3, 4, M, B) nm -> dihedrals (M, B) in (-pi, pi]."""
    return torch.atan2(*dihedral_sides(atoms))


def dihedral_cosine_sine(atoms: Tensor) -> tuple[Tensor, Tensor]:
    """(3, 4, M, B) nm -> cosine and sine of the dihedrals, both (M, B), without an inverse trigonometric function."""
    y, x = dihedral_sides(atoms)
    inverse = torch.rsqrt((x * x + y * y).clamp_min(1e-30))
    return x * inverse, y * inverse
