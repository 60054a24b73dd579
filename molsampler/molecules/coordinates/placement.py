"""Placing the atoms of a Z-matrix, and what a gradient at the atoms is in bonds, angles and torsions.

Placing: each row of the Z-matrix turns the frame of its parent by a rotation of its own angle and torsion. Rotations
are unit quaternions; those along the path from the root to every atom are multiplied by doubling (after k rounds a row
holds the product of its last 2^k), so that a tree of depth D takes log2 D passes over all rows, not D over a few. The
sums along paths and over subtrees are products with one 0-1 matrix, N^2 multiplications at the processor's full rate:
less than a tenth of what the pairs of an energy cost at any N.

Pulling back: let F be the force and T the torque on the subtree beyond a bond. Then stretching the bond does work
direction . F, opening the angle -normal . T, turning the torsion direction(parent) . T, and nothing else moves. The
torque about the bond's near end is the sum of arm x F over the subtree, arm being each atom's own bond vector: lever
arms stay one bond long, and nothing cancels in float32 however far from the root an atom is.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from molsampler.molecules.coordinates.zmatrix import ZMatrix


class Placed(NamedTuple):
    """Atoms in space, the batch last, and what `TreePlacement.pull_back` needs.

    positions : (3, N, B) nm, in the order of the molecule's atoms
    directions : (3, N, B) unit vectors from each row's parent to its atom, in the order of the rows
    normals : (3, N, B) unit vectors about which each row's angle turns
    """

    positions: Tensor
    directions: Tensor
    normals: Tensor


class TreePlacement:
    """The tree of one Z-matrix of N rows as index tensors and matrices; `to(device)` moves it.

    Bonds, angles and torsions are (N, B), one row an atom; rows that lack one (the first has none, the second a bond,
    the third a bond and an angle) hold zeros there, and get a gradient that means nothing.
    """

    def __init__(self, zmatrix: ZMatrix) -> None:
        self.zmatrix = zmatrix
        self.to("cpu")

    def to(self, device: torch.device | str) -> TreePlacement:
        """Moves the tables to `device`; returns self."""
        z = self.zmatrix
        n = z.n_atoms
        parent = [0, *z.parent_row[1:].tolist()]  # the root is its own: its rotation is the identity
        subtree = torch.eye(n, dtype=torch.float64)  # (N, N), 1 where the column's row is beyond the row's bond
        for row in reversed(range(1, n)):
            subtree[parent[row]] += subtree[row]
        path = torch.zeros_like(subtree)
        path[torch.as_tensor(z.order)] = subtree.T  # rows in the order of atoms
        matrices = {t: (subtree.to(device, t), path.to(device, t)) for t in (torch.float32, torch.float64)}
        self._matrices = matrices
        inner = sorted(set(parent))  # rows that others are placed from, the root first
        at = {row: k for k, row in enumerate(inner)}
        self._inner = torch.tensor(inner, device=device)
        self._parent = torch.tensor(parent, device=device)
        self._parent_inner = torch.tensor([at[p] for p in parent], device=device)
        jump = [at[parent[row]] for row in inner]
        self._jumps = []
        while any(jump):  # until everything has arrived at the root
            self._jumps.append(torch.tensor(jump, device=device))
            jump = [jump[j] for j in jump]
        # Rows that no angle turns: the root is not turned at all, the second atom by angle 0 and torsion 180 degrees.
        fixed = torch.zeros(4, n, 1, dtype=torch.float64)
        fixed[0, 0], fixed[2, 1] = 1.0, -1.0
        turned = torch.ones(n, 1, dtype=torch.float64)
        turned[:2] = 0.0
        self._fixed = {t: (fixed.to(device, t), turned.to(device, t)) for t in matrices}
        return self

    def place(self, bonds: Tensor, angles: Tensor, torsions: Tensor) -> Placed:
        """bonds (N, B) nm, angles and resolved torsions (N, B) radians -> Placed; smooth everywhere, differentiable.

        The root is at the origin, the second atom on the x axis, the third in the half-plane y > 0 of the xy plane.
        """
        w, x, y, z = self._rotations(angles, torsions)
        # The frame at an atom: first axis towards its parent, second in the plane of the angle, the third its normal.
        # Left-handed, so that clockwise torsions are positive: the z axis is mirrored.
        direction = torch.stack([y * y + z * z - w * w - x * x, -2.0 * (x * y + w * z), 2.0 * (x * z - w * y)])
        normal = torch.stack([2.0 * (x * z + w * y), 2.0 * (y * z - w * x), x * x + y * y - w * w - z * z])
        _, path = self._matrices[bonds.dtype]
        return Placed(_product(path, bonds * direction), direction, normal)

    def pull_back(self, placed: Placed, bonds: Tensor, gradient: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """A gradient (3, N, B) with respect to positions -> with respect to bonds, angles and torsions, (N, B) each.

        bonds : (N, B), those that `placed` was made of
        """
        subtree, path = self._matrices[bonds.dtype]
        direction = placed.directions
        force = _product(path.T, gradient)  # (3, N, B), summed over the subtree beyond each bond
        arm = bonds * direction
        torque = _product(subtree, _cross(arm, force))
        axis = direction.index_select(1, self._parent)
        return _dot(direction, force), -_dot(placed.normals, torque), _dot(axis, torque)

    def _rotations(self, angles: Tensor, torsions: Tensor) -> tuple[Tensor, ...]:
        """Unit quaternions (w, x, y, z), (N, B) each, that turn the root's frame into every atom's."""
        fixed, turned = self._fixed[angles.dtype]
        cos_a, sin_a = torch.cos(0.5 * angles) * turned, torch.sin(0.5 * angles) * turned
        cos_t, sin_t = torch.cos(0.5 * torsions), torch.sin(0.5 * torsions)
        # a turn by the torsion about the first axis, then one by angle + 180 degrees about the third
        own = torch.stack([-cos_t * sin_a, -sin_t * sin_a, -sin_t * cos_a, cos_t * cos_a]) + fixed
        along = own.index_select(1, self._inner)
        for jump in self._jumps:
            along = torch.stack(_times(along.index_select(1, jump), along))
        return _times(along.index_select(1, self._parent_inner), own)


def _times(p: Tensor, q: Tensor) -> tuple[Tensor, ...]:
    """Hamilton's product of quaternions (4, ..., B)."""
    return (
        p[0] * q[0] - p[1] * q[1] - p[2] * q[2] - p[3] * q[3],
        p[0] * q[1] + p[1] * q[0] + p[2] * q[3] - p[3] * q[2],
        p[0] * q[2] - p[1] * q[3] + p[2] * q[0] + p[3] * q[1],
        p[0] * q[3] + p[1] * q[2] - p[2] * q[1] + p[3] * q[0],
    )


def _product(matrix: Tensor, vectors: Tensor) -> Tensor:
    """matrix (N, N) times vectors (3, N, B), axis by axis."""
    return torch.bmm(matrix.expand(3, -1, -1), vectors)


def _dot(a: Tensor, b: Tensor) -> Tensor:
    return a[0] * b[0] + a[1] * b[1] + a[2] * b[2]


def _cross(a: Tensor, b: Tensor) -> Tensor:
    return torch.stack((a[1] * b[2] - a[2] * b[1], a[2] * b[0] - a[0] * b[2], a[0] * b[1] - a[1] * b[0]))
