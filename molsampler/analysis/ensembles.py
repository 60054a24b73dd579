"""Ensembles of conformations from wherever they come, in one shape: what a comparison is made of."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import mdtraj as md
import numpy as np

from molsampler.analysis.observables.basins import ResidueBasins
from molsampler.analysis.observables.torsions import shown_torsions, torsion_angles
from molsampler.analysis.reference_ensemble import Reference
from molsampler.analysis.statistics import estimates
from molsampler.analysis.statistics.blocks import blocks_of
from molsampler.basis.errors import InputError
from molsampler.basis.log_weights import effective_frames, normalised
from molsampler.store.run_directory import Samples


@dataclass(frozen=True)
class Member:
    """Frames with normalised weights (n,), and which of them depend on each other.

    name : as shown;  kind : "run", "reference" or "trajectory"
    groups : (n,) int, the independent part that each frame belongs to (SMC pass, ladder, block); None where all are
    in_blocks : whether frames of a group are correlated in time, so that they are resampled whole for floors
    effective : independent frames that they are worth;  energy : (n,) kJ/mol, or None
    temperature : K, None where the files do not say
    residues : basins that a stored reference brings along;  cautions : sentences on what its errors cannot hold
    """

    name: str
    kind: str
    trajectory: md.Trajectory
    weights: np.ndarray
    effective: float
    groups: np.ndarray | None = None
    in_blocks: bool = False
    energy: np.ndarray | None = None
    temperature: float | None = None
    residues: dict[str, ResidueBasins] = field(default_factory=dict)
    cautions: tuple[str, ...] = ()

    @property
    def n(self) -> int:
        return len(self.weights)


def of_run(name: str, samples: Samples, temperature: float | None) -> Member:
    """The weighted samples of a run; InputError where none has a weight."""
    weights = samples.weights
    if weights is None:
        raise InputError(f"No sample of the run '{name}' lies on the support, so that it has nothing to compare.")
    effective = effective_frames(weights)
    if samples.group is not None:
        share = estimates.run_estimates(samples.log_weights, samples.group)[0].value
        effective = max(1.0, share * len(weights)) if np.isfinite(share) else effective
    # samples of weight zero may be clashes: nothing of them shall be drawn
    kept = np.flatnonzero(weights > 0)
    group = None if samples.group is None else samples.group[kept]
    energy = samples.potential_energy[kept]
    frames = samples.trajectory[kept]
    largest = float(weights.max())
    said = (f"One sample of {name} carries {largest:.1%} of all its weight.",) if largest > 0.01 else ()
    return Member(
        name, "run", frames, weights[kept], effective, group, energy=energy, temperature=temperature, cautions=said
    )


def of_reference(name: str, reference: Reference) -> Member:
    """The frames of a stored reference, equally weighted, correlated within their ladder."""
    n = reference.trajectory.n_frames
    groups = estimates.independent_blocks(reference.ladder)
    temperature = reference.summary.get("temperature")
    return Member(
        name,
        "reference",
        reference.trajectory,
        np.full(n, 1.0 / n),
        n / _inefficiency(reference.trajectory, groups),
        groups,
        in_blocks=True,
        energy=reference.potential_energy,
        temperature=None if temperature is None else float(temperature),
        residues=reference.residues,
    )


def of_trajectory(name: str, trajectory: md.Trajectory, weights: np.ndarray | None = None) -> Member:
    """A trajectory in order of time, with normalised weights (n,) or without; its errors are those of blocks."""
    n = trajectory.n_frames
    w = np.full(n, 1.0 / n) if weights is None else weights
    found = blocks_of(_slow_series(trajectory) * (n * w)[:, None])
    cautions = []
    if not found.long_enough:
        cautions.append(
            f"{name} is too short for its slowest torsion: block averages over {n:,} frames do not come to rest, and "
            "its errors are understated."
        )
    effective = max(1.0, effective_frames(w) / found.inefficiency)
    return Member(
        name, "trajectory", trajectory, w, effective, found.index(n), in_blocks=True, cautions=tuple(cautions)
    )


def _slow_series(trajectory: md.Trajectory) -> np.ndarray:
    """(n, 2k) cosines and sines of the shown torsions, which block lengths are chosen by."""
    angles = torsion_angles(trajectory, shown_torsions(trajectory.topology))
    return np.concatenate([np.cos(angles), np.sin(angles)], 1)


def _inefficiency(trajectory: md.Trajectory, groups: np.ndarray) -> float:
    """Frames worth one independent one, by the scatter of means between groups: the median over torsions, for the
    scatter of few groups scatters itself."""
    series = _slow_series(trajectory)
    n = len(series)
    ratios = []
    for values in series.T:
        error = estimates.grouped_mean(values, groups).stderr
        if np.ptp(values) > 0 and np.isfinite(error):
            ratios.append(n * error**2 / values.var(ddof=1))
    return min(max(float(np.median(ratios)), 1.0), float(n)) if ratios else 1.0


def load_trajectory(path: Path, top: Path | md.Topology | None) -> md.Trajectory:
    """Any trajectory that mdtraj opens, molecules that a periodic box has cut made whole. InputError, in a sentence,
    where it does not open."""
    if not path.is_file():
        raise InputError(f"'{path}' is neither a run directory, nor a stored reference, nor a file.")
    from molsampler.store.atomic import quiet_c_library

    try:
        with quiet_c_library():
            try:
                loaded = md.load(str(path))  # brings its own topology
            except (ValueError, TypeError, OSError) as alone:
                if top is None:
                    raise InputError(
                        f"'{path}' holds no topology: name a file that does, such as a PDB, with --top."
                    ) from alone
                loaded = md.load(str(path), top=str(top) if isinstance(top, Path) else top)
    except InputError:
        raise
    except Exception as error:
        first = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise InputError(f"'{path}' cannot be opened as a trajectory ({first})") from error
    if loaded.n_frames < 2:
        raise InputError(f"'{path}' holds {loaded.n_frames} frame: a comparison needs at least two.")
    return _whole(loaded)


def _whole(loaded: md.Trajectory) -> md.Trajectory:
    """The trajectory with every molecule in one place: torsions are measured as the atoms lie, without images."""
    if loaded.unitcell_lengths is None or not loaded.topology.n_bonds or not (loaded.unitcell_lengths > 0.0).all():
        return loaded
    return loaded.make_molecules_whole()


def load_weights(path: Path, n: int, whose: str) -> np.ndarray:
    """(n,) normalised weights from a file: `log_weights` or `weights` of an .npz, an .npy, or numbers in text.

    InputError where there are not n, or one is no weight.
    """
    try:
        if path.suffix == ".npz":
            with np.load(path, allow_pickle=False) as archive:
                name = next((k for k in ("log_weights", "weights") if k in archive.files), None)
                if name is None:
                    raise InputError(f"'{path}' has neither an array 'weights' nor 'log_weights'.")
                values, logs = archive[name], name == "log_weights"
        else:
            values = np.load(path, allow_pickle=False) if path.suffix == ".npy" else np.loadtxt(path, ndmin=1)
            logs = False
    except InputError:
        raise
    except Exception as error:
        raise InputError(f"The weights '{path}' cannot be read ({error}): give an .npz, .npy or text file.") from error
    values = np.asarray(values, dtype=np.float64)
    if values.shape != (n,):
        shape = f"{len(values):,}" if values.ndim == 1 else f"an array of shape {values.shape} for"
        raise InputError(f"'{path}' holds {shape} weights and '{whose}' {n:,} frames: give one weight a frame.")
    if np.isnan(values).any() or np.isposinf(values).any():
        raise InputError(f"'{path}' holds NaN or infinity: neither is a weight.")
    if not logs and (values < 0).any():
        raise InputError(
            f"'{path}' holds negative weights: store logarithms in an .npz file, in an array named log_weights."
        )
    w = normalised(values) if logs else (values / values.sum() if values.sum() > 0 else None)
    if w is None:
        raise InputError(f"Every weight in '{path}' is zero.")
    return w


def check_same_molecule(members: Sequence[Member]) -> list[str]:
    """InputError where members are not the same molecule, atom for atom; returns cautions on names that differ."""
    first = members[0]
    known = _atoms(first.trajectory.topology)
    said = []
    for other in members[1:]:
        atoms = _atoms(other.trajectory.topology)
        if len(atoms) != len(known):
            raise InputError(
                f"'{first.name}' has {len(known)} atoms and '{other.name}' {len(atoms)}: they are different molecules, "
                "or one holds solvent that has to be taken out first."
            )
        for k, (a, b) in enumerate(zip(known, atoms, strict=True)):
            if a[0] != b[0]:
                raise InputError(
                    f"Atom {k + 1} is {a[1]} in '{first.name}' and {b[1]} in '{other.name}': they are different "
                    "molecules, or their atoms are in another order, which has to be the same."
                )
        bonds, theirs = (
            {frozenset((a.index, b.index)) for a, b in m.trajectory.topology.bonds} for m in (first, other)
        )
        if bonds and theirs and bonds != theirs and len(bonds) == len(theirs):
            i, j = sorted(next(iter(bonds - theirs)))
            raise InputError(
                f"Atoms {i + 1} and {j + 1} are bonded in '{first.name}' and not in '{other.name}': they are different "
                "molecules, or their atoms are in another order, which has to be the same."
            )
        differing = sum(a[2] != b[2] for a, b in zip(known, atoms, strict=True))
        if differing:
            said.append(
                f"{differing} of {len(known)} atoms are named otherwise in {other.name} than in {first.name}; elements "
                "agree in order, and the names are those of the first."
            )
    return said


def _atoms(topology: md.Topology) -> list[tuple[str, str, str]]:
    """Element, full label and name of every atom."""
    return [("?" if a.element is None else a.element.symbol, str(a), a.name) for a in topology.atoms]
