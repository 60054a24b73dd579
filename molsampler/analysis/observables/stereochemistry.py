"""Stereocentres and amides by the geometry of the frames alone: how many frames are mirror images, how many are cis.

Which atoms are looked at comes from the bond graph, as everywhere. The arithmetic is this module's own, in NumPy and by
mdtraj: it is there to find the chart that samples are drawn in at fault, and must not go through the chart's kernels.
"""

from __future__ import annotations

from collections.abc import Sequence

import mdtraj as md
import numpy as np

from molsampler.analysis.observables.bond_graph import graph_of
from molsampler.analysis.observables.torsions import torsion_angles


def handedness(positions: np.ndarray, quadruples: Sequence[Sequence[int]]) -> np.ndarray:
    """(n, k) int8, +1 or -1: the hand of each quadruple (k, 4) of atoms, as `basis.graph` defines it.

    positions : (n, N, 3) nm
    """
    sides = np.empty((len(positions), len(quadruples)), dtype=np.int8)
    for k, (a, b, c, d) in enumerate(quadruples):
        p, q, r = (positions[:, i].astype(np.float64) - positions[:, d] for i in (a, b, c))
        sides[:, k] = np.sign(np.einsum("ij,ij->i", np.cross(p, q), r))
    return sides


def inverted(trajectory: md.Trajectory, structure: np.ndarray) -> np.ndarray:
    """(n_frames,) bool: some stereocentre has the other hand than in `structure`, (N, 3) nm."""
    quadruples = list(graph_of(trajectory.topology).stereocentres.values())
    known = handedness(np.asarray(structure, dtype=np.float64)[None], quadruples)
    return (handedness(trajectory.xyz, quadruples) != known).any(1)


def cis(trajectory: md.Trajectory) -> np.ndarray:
    """(n_frames,) bool: some amide is cis, its omega within 90 degrees of 0."""
    quadruples = graph_of(trajectory.topology).isomeric_amides
    return (np.abs(torsion_angles(trajectory, quadruples)) < np.pi / 2).any(1)
