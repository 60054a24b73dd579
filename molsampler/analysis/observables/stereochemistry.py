"""Stereocentres and amides by the geometry of the frames alone: how many frames are mirror images, how many are cis.

Independent of the coordinates that samples are drawn in, so that it can find them at fault.
"""

from __future__ import annotations

from collections.abc import Sequence

import mdtraj as md
import numpy as np

from molsampler.analysis.observables.torsions import torsion_angles


def _neighbours(topology: md.Topology) -> list[list[int]]:
    found: list[list[int]] = [[] for _ in range(topology.n_atoms)]
    for a, b in topology.bonds:
        found[a.index].append(b.index)
        found[b.index].append(a.index)
    return [sorted(each) for each in found]


def stereocentres(topology: md.Topology) -> dict[str, tuple[int, int, int, int]]:
    """By label ("ALA2-CA"), four neighbours of every atom whose four neighbours all differ.

    Whether two neighbours differ is read off the bond graph by colour refinement: colours are elements at first, and
    are split by the colours of neighbours until nothing changes. Ring stereochemistry beyond that is not looked for.
    """
    neighbours = _neighbours(topology)
    colours = [0 if a.element is None else a.element.number for a in topology.atoms]
    kinds = 0
    while len(set(colours)) > kinds:
        kinds = len(set(colours))
        signs = [(colours[i], tuple(sorted(colours[j] for j in near))) for i, near in enumerate(neighbours)]
        order = {sign: k for k, sign in enumerate(sorted(set(signs)))}
        colours = [order[sign] for sign in signs]
    return {
        str(topology.atom(i)): tuple(near)
        for i, near in enumerate(neighbours)
        if len(near) == 4 and len({colours[j] for j in near}) == 4
    }


def handedness(positions: np.ndarray, quadruples: Sequence[Sequence[int]]) -> np.ndarray:
    """(n, k) int8, +1 or -1: on which side of the first three of each quadruple (k, 4) of neighbours the fourth lies.

    positions : (n, N, 3) nm
    """
    sides = np.empty((len(positions), len(quadruples)), dtype=np.int8)
    for k, (a, b, c, d) in enumerate(quadruples):
        p, q, r = (positions[:, i].astype(np.float64) - positions[:, d] for i in (a, b, c))
        sides[:, k] = np.sign(np.einsum("ij,ij->i", np.cross(p, q), r))
    return sides


def amides(topology: md.Topology) -> list[tuple[int, int, int, int]]:
    """Atoms (x, C, N, y) of every amide whose N carries more than hydrogens; y is the CA where there is one, as at
    proline, else the heaviest neighbour."""
    neighbours = _neighbours(topology)
    number = [0 if a.element is None else a.element.number for a in topology.atoms]
    names = [a.name for a in topology.atoms]
    found = []
    for c, near in enumerate(neighbours):
        oxygens = [j for j in near if number[j] == 8 and len(neighbours[j]) == 1]
        if number[c] != 6 or len(near) != 3 or not oxygens:
            continue
        for n in near:
            others = [j for j in neighbours[n] if j != c and number[j] > 1]
            if number[n] == 7 and others:
                x = next(j for j in near if j not in (n, oxygens[0]))
                found.append((x, c, n, min(others, key=lambda j: (names[j] != "CA", -number[j], j))))
    return found


def inverted(trajectory: md.Trajectory, structure: np.ndarray) -> np.ndarray:
    """(n_frames,) bool: some stereocentre has the other hand than in `structure`, (N, 3) nm."""
    quadruples = list(stereocentres(trajectory.topology).values())
    known = handedness(np.asarray(structure, dtype=np.float64)[None], quadruples)
    return (handedness(trajectory.xyz, quadruples) != known).any(1)


def cis(trajectory: md.Trajectory) -> np.ndarray:
    """(n_frames,) bool: some amide is cis, its omega within 90 degrees of 0."""
    return (np.abs(torsion_angles(trajectory, amides(trajectory.topology))) < np.pi / 2).any(1)
