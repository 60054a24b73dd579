"""The stored reference ensemble of a molecule: equilibrium frames from a long simulation, with basins and populations.

A folder holds

    reference.pdb      the topology
    reference.dcd      the frames, float32
    reference.npz      potential_energy (M,) kJ/mol, ladder (M,) int: the independent ladder that each frame comes from;
                       basin_labels_RESIDUE (g, g) and basin_centres_RESIDUE (k, 2) radians for every residue with phi
                       and psi
    reference.json     temperature; by residue the names of basins, their populations and free energies with standard
                       errors; and all that the producer has to say: command, temperatures, acceptance, round trips,
                       convergence, the fraction dropped as out of support ...
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import mdtraj as md
import numpy as np
from openmm import app

from molsampler.analysis.observables.basins import ResidueBasins, counted_basins
from molsampler.analysis.observables.ramachandran import Basins
from molsampler.analysis.observables.torsions import backbone_pairs, phi_psi
from molsampler.analysis.statistics.estimates import Estimate
from molsampler.basis.errors import InputError
from molsampler.store.atomic import atomic_path, quiet_c_library, write_json, write_npz
from molsampler.store.pdb import write_pdb

FILES = ("reference.pdb", "reference.dcd", "reference.npz", "reference.json")


@dataclass(frozen=True)
class Reference:
    """Equally weighted equilibrium frames.

    trajectory : M frames, nm
    potential_energy : (M,) float64 kJ/mol
    ladder : (M,) int64
    residues : basins by residue, found from the whole simulation; empty for a molecule without phi and psi
    summary : reference.json as it stands
    """

    trajectory: md.Trajectory
    potential_energy: np.ndarray
    ladder: np.ndarray
    residues: dict[str, ResidueBasins]
    summary: dict

    @property
    def populations(self) -> dict[str, Estimate]:
        """Every basin's population, by "residue basin"."""
        return {
            f"{label} {name}": estimate
            for label, residue in self.residues.items()
            for name, estimate in residue.populations.items()
        }


def save_reference(
    folder: str | Path,
    *,
    positions: np.ndarray,
    topology: app.Topology | md.Topology,
    potential_energy: np.ndarray,
    ladder: np.ndarray,
    temperature: float,
    summary: dict,
    residues: Sequence[ResidueBasins] | None = None,
) -> Reference:
    """Writes the folder and returns what `load_reference` would give.

    positions : (M, N, 3) nm, the frames to be stored (a thinned choice, if the simulation was longer)
    potential_energy : (M,) kJ/mol;  ladder : (M,) int, which independent ladder each frame comes from
    temperature : K, of the frames
    summary : plain values for reference.json (command, temperatures, acceptance, round_trips, ...)
    residues : basins and populations from the whole simulation; from the stored frames where left out
    """
    folder = Path(folder)
    mdtop = topology if isinstance(topology, md.Topology) else md.Topology.from_openmm(topology)
    positions = np.asarray(positions, dtype=np.float32)
    frames = len(positions)
    if positions.shape != (frames, mdtop.n_atoms, 3) or not np.isfinite(positions).all():
        raise ValueError(f"positions must be finite and (M, {mdtop.n_atoms}, 3) nm; their shape is {positions.shape}")
    potential_energy = np.asarray(potential_energy, dtype=np.float64)
    ladder = np.asarray(ladder, dtype=np.int64)
    if potential_energy.shape != (frames,) or ladder.shape != (frames,):
        raise ValueError(
            f"energies {potential_energy.shape} and ladders {ladder.shape} must be one a frame ({frames},)"
        )
    trajectory = md.Trajectory(positions, mdtop)
    if residues is None:
        pairs = backbone_pairs(mdtop)
        residues = [counted_basins(pair.residue, phi_psi(trajectory, pair), ladder, temperature) for pair in pairs]
    arrays = {"potential_energy": potential_energy, "ladder": ladder}
    for item in residues:
        arrays[f"basin_labels_{item.residue}"] = item.basins.labels
        arrays[f"basin_centres_{item.residue}"] = item.basins.centres
    summary = {
        **summary,
        "temperature": temperature,
        "frames": frames,
        "residues": {item.residue: _entry(item) for item in residues},
    }
    write_pdb(folder / "reference.pdb", mdtop, positions[0])
    with atomic_path(folder / "reference.dcd") as path:
        trajectory.save_dcd(str(path))
    write_npz(folder / "reference.npz", **arrays)
    write_json(folder / "reference.json", summary)
    return load_reference(folder)


def _entry(item: ResidueBasins) -> dict:
    return {
        "basins": list(item.basins.names),
        "populations": {name: estimate.as_dict() for name, estimate in item.populations.items()},
        "free_energies": {name: estimate.as_dict() for name, estimate in item.free_energies.items()},
    }


def load_reference(folder: str | Path) -> Reference:
    """The reference stored in `folder`. Raises InputError where a file is missing, damaged or fits not the others."""
    folder = Path(folder)
    for name in FILES:
        if not (folder / name).is_file():
            raise InputError(
                f"There is no reference in '{folder}' ({name} is missing): make it with `molsampler reference`."
            )
    try:
        with quiet_c_library():
            trajectory = md.load(str(folder / "reference.dcd"), top=str(folder / "reference.pdb"))
        with np.load(folder / "reference.npz", allow_pickle=False) as archive:
            arrays = {name: archive[name] for name in archive.files}
        summary = json.loads((folder / "reference.json").read_text(encoding="utf-8"))
        energy, ladder = arrays["potential_energy"], arrays["ladder"]
        residues = {label: _residue(label, entry, arrays) for label, entry in summary["residues"].items()}
    except Exception as error:
        raise InputError(
            f"The reference in '{folder}' cannot be read ({error}): make it again with `molsampler reference`."
        ) from error
    if energy.shape != (trajectory.n_frames,) or ladder.shape != (trajectory.n_frames,):
        raise InputError(
            f"The reference in '{folder}' has {trajectory.n_frames} frames and {len(energy)} energies: "
            "make it again with `molsampler reference`."
        )
    return Reference(trajectory, energy, ladder, residues, summary)


def _residue(label: str, entry: dict, arrays: dict[str, np.ndarray]) -> ResidueBasins:
    basins = Basins(arrays[f"basin_labels_{label}"], tuple(entry["basins"]), arrays[f"basin_centres_{label}"])
    populations, free_energies = (
        {
            name: Estimate(*(np.nan if item[key] is None else item[key] for key in ("value", "stderr")))
            for name, item in entry[kind].items()
        }
        for kind in ("populations", "free_energies")
    )
    return ResidueBasins(label, basins, populations, free_energies)
