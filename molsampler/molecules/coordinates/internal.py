"""Bonds, angles and torsions to Cartesian positions and back, in batches, along the levels of a Z-matrix.

Frames travel down the tree by rotations alone (no cross products, nothing to normalise), so placing atoms is smooth
everywhere, also where an angle is 0 or a bond is negative; whether a point is inside the support is another question.
The kernel works with the batch as the last, contiguous axis.
"""

from __future__ import annotations

import torch
from torch import Tensor

from molsampler.basis.space import wrap_angle
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


class InternalCoordinates:
    """The map between positions and internal coordinates that one Z-matrix defines.

    It holds index tensors only, so it serves float32 and float64 alike; `to(device)` moves it.
    """

    def __init__(self, zmatrix: ZMatrix) -> None:
        self.zmatrix = zmatrix
        self.n_atoms = zmatrix.n_atoms
        self.to("cpu")

    def to(self, device: torch.device | str) -> InternalCoordinates:
        """Moves the index tensors to `device`; returns self."""
        z = self.zmatrix
        self.device = torch.device(device)
        self._bond_atoms = self._index(z.bond_atoms.T)
        self._angle_atoms = self._index(z.angle_atoms.T)
        self._torsion_atoms = self._index(z.torsion_atoms.T)
        # Index N - 3 is a row of zeros, for torsions that nothing is added to.
        self._base = self._index([b if b >= 0 else len(z.base) for b in z.base.tolist()])
        self._levels = []
        frame_rows = [0]  # rows that have a frame, in the order in which the frames of one level are stored
        placed = [0]
        has_children = set(z.parent_row.tolist())
        for level in range(1, int(z.depth.max()) + 1):
            rows = [k for k in range(self.n_atoms) if z.depth[k] == level]
            parents = [int(z.parent_row[k]) for k in rows]
            inner = [k for k in rows if k in has_children]
            self._levels.append(
                (
                    self._index([k - 1 for k in rows]),
                    self._index([frame_rows.index(p) for p in parents]),
                    self._index([rows.index(k) for k in inner]),
                )
            )
            frame_rows = inner
            placed += rows
        atoms = z.order[placed].tolist()
        self._to_atom_order = self._index([atoms.index(i) for i in range(self.n_atoms)])
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
        return self.place_batch_last(bonds, angles, self.resolve(torsions))

    def place_batch_last(self, bonds: Tensor, angles: Tensor, resolved: Tensor) -> Tensor:
        """As `cartesian_batch_last`, of torsions (N-3, B) that are resolved already."""
        one = torch.ones_like(bonds[:1])
        zero = torch.zeros_like(one)
        # The second atom is placed like all others by angle 0 and torsion 180 degrees, the third by torsion 0.
        cos_a, sin_a = torch.cat([one, torch.cos(angles)]), torch.cat([zero, torch.sin(angles)])
        cos_t = torch.cat([-one, one, torch.cos(resolved)])
        sin_t = torch.cat([zero, zero, torch.sin(resolved)])
        e1 = torch.stack([one, zero, zero])
        e2 = torch.stack([zero, one, zero])
        e3 = torch.stack([zero, zero, -one])  # e3 = e2 x e1: left-handed, so that clockwise torsions are positive
        origin = torch.zeros_like(e1)
        placed = [origin]
        for rows, parents, inner in self._levels:
            e1, e2, e3, origin = (e.index_select(1, parents) for e in (e1, e2, e3, origin))
            ca, sa, ct, st = (c.index_select(0, rows) for c in (cos_a, sin_a, cos_t, sin_t))
            side = ct * e2 + st * e3
            direction = ca * e1 + sa * side
            position = origin + bonds.index_select(0, rows) * direction
            placed.append(position)
            e1, e2, e3 = -direction, sa * e1 - ca * side, ct * e3 - st * e2
            e1, e2, e3, origin = (e.index_select(1, inner) for e in (e1, e2, e3, position))
        return torch.cat(placed, dim=1).index_select(1, self._to_atom_order)
