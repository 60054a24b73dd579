"""Interatomic distances that torsions move: pairs of heavy atoms three or more bonds apart."""

from __future__ import annotations

import mdtraj as md
import numpy as np

from molsampler.analysis.observables.bond_graph import graph_of
from molsampler.analysis.observables.rmsd import heavy_atoms

MOST_PAIRS = 100


def distant_pairs(topology: md.Topology, most: int = MOST_PAIRS) -> np.ndarray:
    """(k, 2) int: pairs of heavy atoms three or more bonds apart; `most` evenly chosen ones where there are more.

    Closer pairs are bonds and bond angles, which hardly vary.
    """
    apart = graph_of(topology).bonds_apart()
    heavy = heavy_atoms(topology)
    first, second = np.triu_indices(len(heavy), 1)
    pairs = np.stack([heavy[first], heavy[second]], -1)
    pairs = pairs[apart[pairs[:, 0], pairs[:, 1]] >= 3]
    if len(pairs) > most:
        pairs = pairs[np.linspace(0, len(pairs) - 1, most).round().astype(int)]
    return pairs


def distances(trajectory: md.Trajectory, pairs: np.ndarray) -> np.ndarray:
    """(n_frames, k) float64 nm between pairs (k, 2) of atoms."""
    if len(pairs) == 0:
        return np.zeros((trajectory.n_frames, 0))
    return md.compute_distances(trajectory, pairs, periodic=False).astype(np.float64)
