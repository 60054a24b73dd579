"""Bonds, angles and torsions to Cartesian positions and back, in batches, along the tree of a Z-matrix.

Frames travel down the tree by rotations alone (no cross products, nothing to normalise), so placing atoms is smooth
everywhere, also where an angle is 0 or a bond is negative; whether a point is inside the support is another question.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import pad

from molsampler.basis.space import wrap_angle
from molsampler.molecules.coordinates.placement import TreePlacement
from molsampler.molecules.coordinates.zmatrix import ZMatrix


def wrap(angle: Tensor) -> Tensor:
    """A torsion in radians, any shape, brought into (-pi, pi], as atan2 and mdtraj give it: trans is +pi.

    The mirror image of `basis.space.wrap_angle`, whose [-pi, pi) is the interval that the uniform prior draws from.
    """
    return -wrap_angle(-angle)


def angle_between(a: Tensor, b: Tensor, c: Tensor) -> Tensor:
    """Angle (...) in radians at b of points (..., 3), accurate also near 0 and 180 degrees."""
    u, v = a - b, c - b
    return torch.atan2(torch.linalg.vector_norm(torch.linalg.cross(u, v), dim=-1), (u * v).sum(-1))


def dihedral(a: Tensor, b: Tensor, c: Tensor, d: Tensor) -> Tensor:
    """Torsion (...) in [-pi, pi] of points (..., 3) by the IUPAC sign, as mdtraj has it: cis 0, clockwise positive.

    For measuring: the kernels of the torch energy have their own, which takes the coordinates as the leading axis, can
    be fused, and has a finite gradient where atoms line up (`energy.forces.geometry`).
    """
    axis = c - b
    u = torch.linalg.cross(b - a, axis)
    v = torch.linalg.cross(axis, d - c)
    length = torch.linalg.vector_norm(axis, dim=-1)
    return torch.atan2(((b - a) * v).sum(-1) * length, (u * v).sum(-1))


def log_abs_det(bonds: Tensor, angles: Tensor, dim: int = -1) -> Tensor:
    """log |d(positions modulo rigid motions) / d(bonds, angles, torsions)| = 2 sum log b + sum log sin(angle).

    Translations and the Haar measure of the rotations are integrated out (constants dropped). Finite outside the
    support too, by absolute values. bonds (B, N-1) nm, angles (B, N-2) radians -> (B,); `dim` is the axis of the
    coordinates, 0 where the batch comes last.
    """
    tiny = torch.finfo(bonds.dtype).tiny
    lengths = torch.log(bonds.abs().clamp_min(tiny)).sum(dim)
    return 2.0 * lengths + torch.log(torch.sin(angles).abs().clamp_min(tiny)).sum(dim)


def log_abs_det_slopes(bonds: Tensor, angles: Tensor) -> tuple[Tensor, Tensor]:
    """The derivatives of `log_abs_det` by bonds and by angles, of their shapes; zero where it has its floor."""
    tiny = torch.finfo(bonds.dtype).tiny
    sine = torch.sin(angles)
    by_angle = torch.where(sine.abs() < tiny, 0.0, torch.cos(angles) / sine)
    return torch.where(bonds.abs() < tiny, 0.0, 2.0 / bonds), by_angle


class InternalCoordinates:
    """The map between positions and internal coordinates that one Z-matrix defines.

    It serves float32 and float64 alike; `to(device)` moves it. placement : the tree, for those who go both ways
    """

    def __init__(self, zmatrix: ZMatrix) -> None:
        self.zmatrix = zmatrix
        self.n_atoms = zmatrix.n_atoms
        self.placement = TreePlacement(zmatrix)
        self.to("cpu")

    def to(self, device: torch.device | str) -> InternalCoordinates:
        """Moves the tables to `device`; returns self."""
        z = self.zmatrix
        self.device = torch.device(device)
        self.placement.to(self.device)
        self._bond_atoms = self._index(z.bond_atoms.T)
        self._angle_atoms = self._index(z.angle_atoms.T)
        self._torsion_atoms = self._index(z.torsion_atoms.T)
        # Index N - 3 is a row of zeros, for torsions that nothing is added to.
        self._base = self._index([b if b >= 0 else len(z.base) for b in z.base.tolist()])
        return self

    def _index(self, values) -> Tensor:
        return torch.as_tensor(values, dtype=torch.long, device=self.device).contiguous()

    def to_internal(self, positions: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """positions (B, N, 3) nm -> bonds (B, N-1) nm, angles (B, N-2) in [0, pi], torsions (B, N-3) in [-pi, pi].

        Torsions are in the order of the Z-matrix, relative ones as differences from their sibling's.
        """
        x = [positions[:, i] for i in self._bond_atoms]
        bonds = torch.linalg.vector_norm(x[0] - x[1], dim=-1)
        angles = angle_between(*(positions[:, i] for i in self._angle_atoms))
        torsions = dihedral(*(positions[:, i] for i in self._torsion_atoms))
        return bonds, angles, torsions

    def to_cartesian(self, bonds: Tensor, angles: Tensor, torsions: Tensor) -> Tensor:
        """Inverse of `to_internal` in a fixed frame: the root at the origin, the second atom on the x axis, the third
        in the xy half-plane y > 0. Shapes and units as there; differentiable. Returns (B, N, 3) nm."""
        return self.cartesian_batch_last(bonds.T, angles.T, torsions.T).permute(2, 1, 0)

    def resolve(self, torsions: Tensor) -> Tensor:
        """Torsions (N-3, B) with relative ones made absolute by adding their sibling's."""
        zero = torch.zeros_like(torsions[:1]) if len(torsions) else torsions
        return torsions + torch.cat([torsions, zero])[self._base]

    def cartesian_batch_last(self, bonds: Tensor, angles: Tensor, torsions: Tensor) -> Tensor:
        """bonds (N-1, B) nm, angles (N-2, B), torsions (N-3, B) radians -> positions (3, N, B) nm."""
        resolved = self.resolve(torsions)
        rows = (pad(c, (0, 0, self.n_atoms - len(c), 0)) for c in (bonds, angles, resolved))  # a row an atom
        return self.placement.place(*rows).positions
