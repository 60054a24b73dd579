"""RMSD after optimal superposition, in nm."""

from __future__ import annotations

import mdtraj as md
import numpy as np

from molsampler.analysis.observables.ramachandran import Basins


def heavy_atoms(topology: md.Topology) -> np.ndarray:
    """Indices of all atoms but hydrogens; all atoms where fewer than three are heavy."""
    heavy = np.array([a.index for a in topology.atoms if a.element is None or a.element.symbol != "H"], dtype=np.int64)
    return heavy if len(heavy) >= 3 else np.arange(topology.n_atoms)


def rmsd_to(trajectory: md.Trajectory, positions: np.ndarray) -> np.ndarray:
    """(n_frames,) float64 nm: RMSD of the heavy atoms to one structure, positions (N, 3) nm."""
    atoms = heavy_atoms(trajectory.topology)
    target = md.Trajectory(np.asarray(positions, dtype=np.float32)[None], trajectory.topology)
    return md.rmsd(trajectory, target, 0, atom_indices=atoms).astype(np.float64)


def rmsd_to_nearest(trajectory: md.Trajectory, minima: np.ndarray) -> np.ndarray:
    """(n_frames,) nm: RMSD to the nearest of minima (k, N, 3) nm."""
    return np.min([rmsd_to(trajectory, structure) for structure in minima], axis=0)


def lowest_in_basins(
    trajectory: md.Trajectory, potential_energy: np.ndarray, basins: Basins, angles: np.ndarray
) -> tuple[list[str], np.ndarray]:
    """Names and positions (k, N, 3) nm of the frame of lowest energy in each basin that holds a frame of finite energy.

    potential_energy : (n_frames,) kJ/mol;  angles : (n_frames, 2) radians, phi and psi of the frames
    """
    label = basins.assign(angles)
    names, frames = [], []
    for k, name in enumerate(basins.names):
        inside = np.flatnonzero((label == k) & np.isfinite(potential_energy))
        if len(inside):
            names.append(name)
            frames.append(inside[np.argmin(potential_energy[inside])])
    return names, trajectory.xyz[np.array(frames, dtype=np.int64)]


def medoid(trajectory: md.Trajectory) -> int:
    """The frame that is nearest to all others: least mean RMSD of the heavy atoms, over (n_frames)^2 of them."""
    return int(np.argmin([rmsd_to(trajectory, structure).mean() for structure in trajectory.xyz]))


def superposed(trajectory: md.Trajectory, onto: int) -> md.Trajectory:
    """All frames superposed by their heavy atoms on one of them, whose heavy atoms lie about the origin with their
    longest extent along x and their shortest along z."""
    atoms = heavy_atoms(trajectory.topology)
    target = trajectory[onto]
    middle = target.xyz[0, atoms].mean(0)
    axes = np.linalg.svd(target.xyz[0, atoms] - middle)[2]  # rows, by decreasing extent
    axes[2] *= np.linalg.det(axes)  # a rotation: on a mirrored frame no other would fit
    target.xyz = (target.xyz - middle) @ axes.T
    return trajectory[:].superpose(target, atom_indices=atoms)
