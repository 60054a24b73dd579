"""Which of a molecule's pieces a frame lies in: the conformers of its rings, cis and trans amides.

The arithmetic is this module's own, by mdtraj and NumPy: it is there to hold samples and simulations against each
other, and must not go through the kernels that the samples were drawn by.
"""

from __future__ import annotations

from dataclasses import dataclass

import mdtraj as md
import numpy as np

from molsampler.analysis.observables.torsions import torsion_angles


@dataclass(frozen=True)
class Pieces:
    """A partition of the torus of the torsions that tell pieces apart: each point belongs to the centre that it is
    nearest to, by the sum of the cosines of all differences.

    quadruples : (T, 4) int, atoms of the torsions;  centres : (K, T) float64 radians
    """

    quadruples: np.ndarray
    centres: np.ndarray
    maps_phi = False

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(f"piece {k + 1}" for k in range(len(self.centres)))

    @property
    def dimension(self) -> int:
        return len(self.quadruples)

    def assign(self, angles: np.ndarray) -> np.ndarray:
        """(n,) int, the piece of each of angles (n, T), radians."""
        return np.cos(angles[:, None] - self.centres).sum(-1).argmax(-1)

    def angles(self, trajectory: md.Trajectory) -> np.ndarray:
        """(n, T) float64 radians."""
        return torsion_angles(trajectory, self.quadruples)
