"""A Z-matrix from the bond graph: which atoms each bond length, angle and torsion of a molecule is measured between.

The tree grows from an atom in the middle of the main chain, so that it is shallow (few levels to place one after the
other, little rounding error carried along), and along the main chain first, so that backbone torsions come out as the
true dihedrals. Every bond that both ends go on from has exactly one free torsion; the other atoms on that axis are
measured from the first one and barely move against it.
"""

from __future__ import annotations

import heapq
import math
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import openmm
from openmm import unit

from molsampler.basis.errors import InputError
from molsampler.basis.graph import Graph
from molsampler.molecules.molecule import Molecule

LINEAR_MARGIN = math.radians(5.0)  # an angle closer than this to 180 degrees makes the torsions behind it meaningless

Neighbours = Sequence[Sequence[int]]


@dataclass(frozen=True)
class ZMatrix:
    """Rows of a Z-matrix in the order in which atoms are placed; -1 stands for "none".

    rows : (N, 4) int, atoms (a, b, c, d): a is placed by bond a-b, angle a-b-c, torsion a-b-c-d. The first three rows
        lack the last three, two and one of them.
    parent_row : (N,) int, row of atom b (-1 for the root)
    depth : (N,) int, level of the tree; the root has level 0
    free : (N - 3,) bool, whether the torsion of row k + 3 turns its whole axis
    base : (N - 3,) int, for a relative torsion the torsion (counted from row 3) that is added to it to resolve it;
        -1 for free torsions, and for relative ones on the axis whose zero is the third atom
    """

    rows: np.ndarray
    parent_row: np.ndarray
    depth: np.ndarray
    free: np.ndarray
    base: np.ndarray

    @property
    def n_atoms(self) -> int:
        return len(self.rows)

    @property
    def order(self) -> np.ndarray:
        """(N,) int, the atom of each row."""
        return self.rows[:, 0]

    @property
    def bond_atoms(self) -> np.ndarray:
        """(N - 1, 2) int."""
        return self.rows[1:, :2]

    @property
    def angle_atoms(self) -> np.ndarray:
        """(N - 2, 3) int, the apex in the middle."""
        return self.rows[2:, :3]

    @property
    def torsion_atoms(self) -> np.ndarray:
        """(N - 3, 4) int; a relative torsion has its sibling on the axis in the last place."""
        return self.rows[3:]


def build_zmatrix(molecule: Molecule) -> ZMatrix:
    """The Z-matrix of a connected molecule of three atoms or more, rings included.

    Raises InputError for fewer atoms, for atoms that no chain of bonds reaches, and for angles within 5 degrees of 180
    (in the input structure or at the force field's equilibrium), by name.
    """
    if molecule.n_atoms < 3:
        raise InputError(f"'{molecule.name}' has {molecule.n_atoms} atoms; internal coordinates need at least 3")
    _refuse_unconnected(molecule)
    neighbours = molecule.graph.neighbours
    main = main_chain(molecule)
    ranks = _ranks(molecule.graph, main)
    first = _first_three(neighbours, main, ranks)
    zmatrix = _make_rows(_span(neighbours, main, ranks, first), ranks, first)
    _refuse_linear(molecule, zmatrix)
    return zmatrix


def main_chain(molecule: Molecule) -> set[int]:
    """Backbone of a peptide (N, CA, C, and the C and N they are bonded to), or else the longest heavy-atom chain."""
    neighbours, names, numbers = molecule.graph.neighbours, molecule.graph.names, molecule.graph.atomic_numbers
    backbone: set[int] = set()
    for residue in molecule.topology.residues():
        named = {a.name: a.index for a in residue.atoms()}
        if {"N", "CA", "C"} <= named.keys():
            n, ca, c = named["N"], named["CA"], named["C"]
            if ca in neighbours[n] and c in neighbours[ca]:
                backbone |= {n, ca, c}
                backbone |= {j for j in neighbours[n] if names[j] == "C"}
                backbone |= {j for j in neighbours[c] if names[j] == "N"}
    if backbone:
        return backbone
    heavy = [i for i, number in enumerate(numbers) if number != 1]
    if not heavy:
        return set(range(molecule.n_atoms))
    longest: list[int] = []
    for start in heavy:
        path = _farthest_path(neighbours, start, set(heavy))
        if len(path) > len(longest):
            longest = path
    return set(longest)


def _farthest_path(neighbours: Neighbours, start: int, allowed: set[int]) -> list[int]:
    """The shortest path from `start` to an atom that is farthest from it within `allowed`."""
    parent = {start: -1}
    queue = deque([start])
    last = start
    while queue:
        last = queue.popleft()
        for j in neighbours[last]:
            if j in allowed and j not in parent:
                parent[j] = last
                queue.append(j)
    path = []
    while last != -1:
        path.append(last)
        last = parent[last]
    return path


def _refuse_unconnected(molecule: Molecule) -> None:
    parts = molecule.graph.parts
    if len(parts) > 1:
        stray = parts[1][0]
        raise InputError(
            f"'{molecule.name}' is not one connected molecule: no chain of bonds joins {molecule.atom_labels[stray]} "
            f"(atom {stray}) and {molecule.atom_labels[0]} (atom 0); give one molecule with all of its bonds"
        )


def _ranks(graph: Graph, main: set[int]) -> list[tuple]:
    """Sort key of every atom: main chain first, then atoms that something hangs on, the heaviest, by index."""
    return [(i not in main, len(near) == 1, -graph.atomic_numbers[i], i) for i, near in enumerate(graph.neighbours)]


def _eccentricity(neighbours: Neighbours, start: int) -> int:
    return len(_farthest_path(neighbours, start, set(range(len(neighbours))))) - 1


def _first_three(neighbours: Neighbours, main: set[int], ranks: list[tuple]) -> tuple[int, int, int]:
    """Root, second and third atom (bonded in that order): the root is the middle of the main chain if it can be."""
    roots = [i for i in range(len(neighbours)) if any(len(neighbours[j]) > 1 for j in neighbours[i])]
    on_chain = [i for i in roots if i in main]
    root = min(on_chain or roots, key=lambda i: (_eccentricity(neighbours, i), ranks[i]))
    second = min((j for j in neighbours[root] if len(neighbours[j]) > 1), key=lambda j: ranks[j])
    third = min((k for k in neighbours[second] if k != root), key=lambda k: ranks[k])
    return root, second, third


def _span(
    neighbours: Neighbours, main: set[int], ranks: list[tuple], first: tuple[int, int, int]
) -> dict[int, tuple[int, int]]:
    """Parent and depth of every atom of a breadth-first spanning tree that takes the bonds of the main chain first."""
    root, second, third = first
    tree = {root: (-1, 0), second: (root, 1), third: (second, 2)}
    for allowed in (main, set(range(len(neighbours)))):
        heap = [(tree[i][1] + 1, ranks[i], ranks[j], i, j) for i in tree for j in neighbours[i] if j in allowed]
        heapq.heapify(heap)
        while heap:
            depth, _, _, i, j = heapq.heappop(heap)
            if j in tree:
                continue
            tree[j] = (i, depth)
            for k in neighbours[j]:
                if k in allowed and k not in tree:
                    heapq.heappush(heap, (depth + 1, ranks[j], ranks[k], j, k))
    return tree


def _make_rows(tree: dict[int, tuple[int, int]], ranks: list[tuple], first: tuple[int, int, int]) -> ZMatrix:
    root, second, third = first
    # The root has no parent: seen from its other branches, the second atom stands in for it.
    above = {a: p if p != -1 else second for a, (p, _) in tree.items()}
    row_of = {a: k for k, a in enumerate(first)}
    for level in range(1, max(depth for _, depth in tree.values()) + 1):
        atoms = [a for a, (_, depth) in tree.items() if depth == level and a not in row_of]
        for a in sorted(atoms, key=lambda a: (row_of[tree[a][0]], ranks[a])):
            row_of[a] = len(row_of)
    rows = [(root, -1, -1, -1), (second, root, -1, -1), (third, second, root, -1)]
    free, base = [], []
    leader: dict[int, int] = {second: third}  # the atom that the other children of an atom are measured from
    for a in list(row_of)[3:]:
        b = tree[a][0]
        c = above[b]
        if b in leader:
            d = leader[b]
            free.append(False)
            base.append(row_of[d] - 3 if d != third else -1)
        else:
            leader[b] = a
            d = third if b == root else above[c]
            free.append(True)
            base.append(-1)
        rows.append((a, b, c, d))
    return ZMatrix(
        rows=np.array(rows),
        parent_row=np.array([-1] + [row_of[tree[a][0]] for a in list(row_of)[1:]]),
        depth=np.array([tree[a][1] for a in row_of]),
        free=np.array(free, dtype=bool),
        base=np.array(base, dtype=int),
    )


def _refuse_linear(molecule: Molecule, zmatrix: ZMatrix) -> None:
    equilibrium: dict[tuple[int, int, int], float] = {}
    for force in molecule.system.getForces():
        if isinstance(force, openmm.HarmonicAngleForce):
            for n in range(force.getNumAngles()):
                i, j, k, theta, _ = force.getAngleParameters(n)
                equilibrium[i, j, k] = equilibrium[k, j, i] = theta.value_in_unit(unit.radian)
    x = molecule.positions
    for a, b, c in zmatrix.angle_atoms.tolist():
        u, v = x[a] - x[b], x[c] - x[b]
        angle = math.atan2(np.linalg.norm(np.cross(u, v)), float(u @ v))
        angle = max(angle, equilibrium.get((a, b, c), 0.0))
        if angle > math.pi - LINEAR_MARGIN:
            labels = "-".join(f"{molecule.atom_labels[i]}" for i in (a, b, c))
            raise InputError(
                f"the angle {labels} (atoms {a}, {b}, {c}) of '{molecule.name}' is {math.degrees(angle):.1f} degrees; "
                "internal coordinates are singular at 180 degrees: sample a molecule without linear angles"
            )
