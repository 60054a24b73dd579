"""The bond graph of a molecule: neighbours, rings, symmetry, stereocentres and amides, by atoms and bonds alone.

Nothing here knows a position, a force field or a file. Coordinates, analysis and messages all read the same graph, so
that they mean the same atoms; what they measure at these atoms is their own affair. Two conventions go with it:

    the hand of four atoms (a, b, c, d) is the sign of (a - d) x (b - d) . (c - d)
    an amide (x, C, N, y) is cis where the cosine of its torsion omega is positive, trans where it is negative
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property

import networkx
import numpy as np
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components, shortest_path

Bond = tuple[int, int]
Quadruple = tuple[int, int, int, int]


def turned_bond(quadruple: Quadruple) -> Bond:
    """The bond (i, j), i < j, that a torsion turns about."""
    i, j = sorted(quadruple[1:3])
    return i, j


@dataclass(frozen=True)
class Graph:
    """N atoms and the bonds between them.

    atomic_numbers : N, 0 for atoms without an element
    bonds : pairs (i, j), i < j, sorted
    names : N names of atoms, such as "CA"
    residues : N labels of the residues that the atoms belong to, such as "ALA2"
    """

    atomic_numbers: tuple[int, ...]
    bonds: tuple[Bond, ...]
    names: tuple[str, ...]
    residues: tuple[str, ...]

    @classmethod
    def of(
        cls, atomic_numbers: Iterable[int], bonds: Iterable[Bond], names: Iterable[str], residues: Iterable[str]
    ) -> Graph:
        """From bonds in any order, either end first, given once or more often."""
        pairs = sorted({(min(pair), max(pair)) for pair in bonds})
        return cls(tuple(map(int, atomic_numbers)), tuple(pairs), tuple(names), tuple(residues))

    @property
    def n_atoms(self) -> int:
        return len(self.atomic_numbers)

    @cached_property
    def labels(self) -> tuple[str, ...]:
        """One readable label an atom, such as "ALA2-CA", for messages."""
        return tuple(f"{residue}-{name}" for residue, name in zip(self.residues, self.names, strict=True))

    @cached_property
    def neighbours(self) -> tuple[tuple[int, ...], ...]:
        """Sorted bonded neighbours of every atom."""
        found: list[list[int]] = [[] for _ in range(self.n_atoms)]
        for i, j in self.bonds:
            found[i].append(j)
            found[j].append(i)
        return tuple(map(tuple, found))  # sorted, as the bonds are

    # Parts and paths

    @cached_property
    def parts(self) -> list[list[int]]:
        """The atoms of each connected part, sorted; the part with the first atom first."""
        count, labels = connected_components(self._matrix, directed=False)
        order = np.argsort(labels, kind="stable")
        parts = np.split(order, np.flatnonzero(np.diff(labels[order])) + 1) if count else []
        return sorted((part.tolist() for part in parts), key=lambda part: part[0])

    def bonds_apart(self) -> np.ndarray:
        """(N, N) float64: how many bonds the shortest chain between two atoms has; inf where there is none."""
        return shortest_path(self._matrix.tocsr(), directed=False, unweighted=True)

    @property
    def _matrix(self) -> coo_array:
        pairs = np.array(self.bonds, dtype=np.int64).reshape(-1, 2)
        return coo_array((np.ones(len(pairs)), (pairs[:, 0], pairs[:, 1])), shape=(self.n_atoms, self.n_atoms))

    def beyond(self, i: int, j: int) -> list[int]:
        """The atoms, sorted, that are cut off from i when the bond i-j, in no ring, is cut; j is one of them."""
        seen, stack = {i, j}, [j]
        while stack:
            new = [k for k in self.neighbours[stack.pop()] if k not in seen]
            seen.update(new)
            stack += new
        return sorted(seen - {i})

    # Rings

    @cached_property
    def ring_bonds(self) -> frozenset[Bond]:
        """The bonds (i < j) that lie in a ring: those whose removal leaves their two atoms connected."""
        bridges = networkx.bridges(networkx.Graph(self.bonds))
        return frozenset(self.bonds) - {(min(bridge), max(bridge)) for bridge in bridges}

    @cached_property
    def rings(self) -> list[list[int]]:
        """The sorted atoms of the smallest rings that make up all others (a minimum cycle basis)."""
        cycles = networkx.minimum_cycle_basis(networkx.Graph(sorted(self.ring_bonds)))
        return sorted(sorted(cycle) for cycle in cycles)

    @property
    def flexible_rings(self) -> list[list[int]]:
        """Rings of five or more atoms, tetrahedral ones among them: they may have several conformers with barriers
        between, such as the puckers of proline. Aromatic rings have no tetrahedral atom."""
        return [ring for ring in self.rings if len(ring) >= 5 and any(len(self.neighbours[k]) >= 4 for k in ring)]

    def around(self, ring: list[int]) -> list[int]:
        """The atoms of a ring in the order in which its bonds join them, from the first, its lower neighbour next."""
        left, order = set(ring), []
        here: int | None = ring[0]
        while here is not None:
            order.append(here)
            left.discard(here)
            here = next((k for k in self.neighbours[here] if k in left), None)
        return order

    # Symmetry and stereochemistry

    @cached_property
    def symmetry_classes(self) -> tuple[int, ...]:
        """A number for every atom, the same for atoms that the graph does not tell apart.

        Elements, split by the classes of neighbours until nothing changes (colour refinement; Weisfeiler and Leman
        1968). Atoms of two classes are never equivalent; those of one class need not be: atoms in rings of two sizes
        may have neighbours that look alike all the way.
        """
        classes = list(self.atomic_numbers)
        kinds = 0
        while len(set(classes)) > kinds:
            kinds = len(set(classes))
            keys = [(classes[i], tuple(sorted(classes[k] for k in near))) for i, near in enumerate(self.neighbours)]
            ranks = {key: rank for rank, key in enumerate(sorted(set(keys)))}
            classes = [ranks[key] for key in keys]
        return tuple(classes)

    @cached_property
    def tetrahedral(self) -> dict[int, Quadruple]:
        """By atom with four neighbours, these four; labelled hydrogens are four different ones too."""
        return {i: near for i, near in enumerate(self.neighbours) if len(near) == 4}

    @cached_property
    def stereocentres(self) -> dict[int, Quadruple]:
        """Those of `tetrahedral` whose four neighbours are of four classes, so that a mirror image is another molecule.

        Stereochemistry of rings that symmetry classes do not see is not looked for.
        """
        classes = self.symmetry_classes
        return {i: near for i, near in self.tetrahedral.items() if len({classes[k] for k in near}) == 4}

    @cached_property
    def alphas(self) -> dict[int, Quadruple]:
        """By CA of an amino acid, the atoms (N, C, CB, CA): their hand is positive in an L amino acid, negative in a D.

        Of all CA that bonds join to an N, a C and a CB; glycine has none.
        """
        found = {}
        for i, near in enumerate(self.neighbours):
            named = {self.names[k]: k for k in near}
            if self.names[i] == "CA" and {"N", "C", "CB"} <= named.keys():
                found[i] = (named["N"], named["C"], named["CB"], i)
        return found

    @cached_property
    def amides(self) -> tuple[Quadruple, ...]:
        """Atoms (x, C, N, y) of the torsion omega of every O=C-N group.

        x is the other neighbour of C; y is CA where the nitrogen has one, as in proline, whose CD is on the other side,
        or else its heaviest other neighbour.
        """
        found = []
        for c, near in enumerate(self.neighbours):
            oxygens = [o for o in near if self.atomic_numbers[o] == 8 and len(self.neighbours[o]) == 1]
            if self.atomic_numbers[c] != 6 or len(near) != 3 or not oxygens:
                continue
            for n in near:
                others = [k for k in self.neighbours[n] if k != c]
                if self.atomic_numbers[n] == 7 and others:
                    x = next(k for k in near if k not in (n, oxygens[0]))
                    found.append((x, c, n, min(others, key=self._rank_beside_nitrogen)))
        return tuple(found)

    def _rank_beside_nitrogen(self, k: int) -> tuple[bool, int, int]:
        return self.names[k] != "CA", -self.atomic_numbers[k], k

    @property
    def isomeric_amides(self) -> tuple[Quadruple, ...]:
        """Those of `amides` whose nitrogen carries more than hydrogens: they have a cis and a trans form."""
        return tuple(amide for amide in self.amides if self.atomic_numbers[amide[3]] > 1)
