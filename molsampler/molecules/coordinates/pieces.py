"""The pieces that a molecule's conformations fall into: which torsions tell them apart, and which piece is which.

Short MD and local moves do not get from one ring conformer to another, nor from a cis amide to a trans one, and one
chart does not hold both well: between them lies a thin curved sheet. A piece is all that is nearer to its own centre
than to any other, in the torsions that tell pieces apart. So pieces are disjoint, and together they are everything,
whatever their centres are: none of the weights depends on how well they were found.
"""

from __future__ import annotations

import torch
from torch import Tensor

from molsampler.molecules.coordinates.internal import dihedral
from molsampler.molecules.molecule import Molecule

Quadruple = tuple[int, int, int, int]


def piece_torsions(molecule: Molecule) -> Tensor:
    """(T, 4) int64, atoms of the torsions that tell a molecule's pieces apart; none where it is in one piece.

    Of every ring that may have several conformers all torsions around it, and at each of its nitrogens that can turn
    inside out one that its third neighbour ends; the omega of every amide that is free.
    """
    graph = molecule.graph
    found: list[Quadruple] = []
    for ring in graph.flexible_rings:
        order = graph.around(ring)
        n = len(order)
        found += [tuple(order[(k + m) % n] for m in range(4)) for k in range(n)]
        for k, atom in enumerate(order):
            if _inverts(molecule, atom):
                (third,) = set(graph.neighbours[atom]) - {order[k - 1], order[(k + 1) % n]}
                found.append((order[k - 2], order[k - 1], atom, third))
    found += molecule.free_amides
    return torch.tensor(found, dtype=torch.long).reshape(-1, 4)


def _inverts(molecule: Molecule, atom: int) -> bool:
    """Whether an atom is a nitrogen with three neighbours and none of a plane: an amine's, no amide's."""
    graph = molecule.graph
    near = graph.neighbours[atom]
    in_plane = any(atom in amide[1:3] for amide in graph.amides) or any(len(graph.neighbours[k]) == 3 for k in near)
    return graph.atomic_numbers[atom] == 7 and len(near) == 3 and not in_plane


def torsions_of(positions: Tensor, quadruples: Tensor) -> Tensor:
    """(B, T) radians: the torsions of atoms (T, 4) at positions (B, N, 3) nm."""
    return dihedral(*(positions[:, quadruples[:, k]] for k in range(4)))


def nearest(torsions: Tensor, centres: Tensor) -> Tensor:
    """(B,) int64: which of the centres (K, T) torsions (B, T) are nearest to, by the sum of cosines of what they
    differ by, so that no torsion has a seam."""
    alike = torsions.cos() @ centres.cos().T + torsions.sin() @ centres.sin().T
    return alike.argmax(-1)
