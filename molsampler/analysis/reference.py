"""The stored reference ensemble of a molecule: equilibrium frames from a long simulation, with basins and populations.

A folder holds

    reference.pdb      the topology
    reference.dcd      the frames, float32
    reference.npz      potential_energy (M,) kJ/mol, ladder (M,) int: the independent ladder that each frame comes from;
                       basin_labels (g, g) and basin_centres (k, 2) radians for a peptide
    reference.json     basin_names, populations with standard errors, and all that the producer has to say: command,
                       temperatures, acceptance, round trips, the fraction dropped as out of support ...
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import mdtraj as md
import numpy as np
from openmm import app

from molsampler.analysis.estimates import Estimate
from molsampler.analysis.ramachandran import Basins, find_basins, populations
from molsampler.analysis.torsions import backbone_pairs, phi_psi
from molsampler.errors import InputError
from molsampler.files import atomic_path, quiet_c_library, write_json, write_npz


@dataclass(frozen=True)
class Reference:
    """Equally weighted equilibrium frames.

    trajectory : M frames, nm
    potential_energy : (M,) float64 kJ/mol
    ladder : (M,) int64
    basins : of the first residue with phi and psi, found from the whole simulation; None for other molecules
    populations : by basin name, and "phi > 0", with errors from independent ladders of the whole simulation
    summary : reference.json as it stands
    """

    trajectory: md.Trajectory
    potential_energy: np.ndarray
    ladder: np.ndarray
    basins: Basins | None
    populations: dict[str, Estimate]
    summary: dict


def save_reference(
    folder: str | Path,
    *,
    positions: np.ndarray,
    topology: app.Topology | md.Topology,
    potential_energy: np.ndarray,
    ladder: np.ndarray,
    summary: dict,
    all_phi_psi: np.ndarray | None = None,
    all_ladder: np.ndarray | None = None,
) -> Reference:
    """Writes the folder and returns what `load_reference` would give.

    positions : (M, N, 3) nm, the frames to be stored (a thinned choice, if the simulation was longer)
    potential_energy : (M,) kJ/mol;  ladder : (M,) int, which independent ladder each frame comes from
    summary : plain values for reference.json (command, temperatures, acceptance, round_trips, ...)
    all_phi_psi : (T, 2) radians, phi and psi of the first residue in all frames of the simulation, in order of time
        within each ladder, and all_ladder (T,) int: basins and populations come from these; the stored frames where
        left out
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
    arrays = {"potential_energy": potential_energy, "ladder": ladder}
    summary = {**summary, "frames": frames}
    pairs = backbone_pairs(mdtop)
    if pairs:
        if all_phi_psi is None or all_ladder is None:
            all_phi_psi, all_ladder = phi_psi(trajectory, pairs[0]), ladder
        basins = find_basins(all_phi_psi)
        found = populations(basins, all_phi_psi, groups=all_ladder)
        arrays |= {"basin_labels": basins.labels, "basin_centres": basins.centres}
        summary["basin_names"] = list(basins.names)
        summary["populations"] = {name: estimate.as_dict() for name, estimate in found.items()}
        summary["population_frames"] = len(all_phi_psi)
    with atomic_path(folder / "reference.pdb") as path:
        trajectory[0].save_pdb(str(path))
    with atomic_path(folder / "reference.dcd") as path:
        trajectory.save_dcd(str(path))
    write_npz(folder / "reference.npz", **arrays)
    write_json(folder / "reference.json", summary)
    return load_reference(folder)


def load_reference(folder: str | Path) -> Reference:
    """The reference stored in `folder`. Raises InputError where a file is missing, damaged or fits not the others."""
    folder = Path(folder)
    for name in ("reference.pdb", "reference.dcd", "reference.npz", "reference.json"):
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
        basins = None
        if "basin_labels" in arrays:
            basins = Basins(arrays["basin_labels"], tuple(summary["basin_names"]), arrays["basin_centres"])
    except Exception as error:
        raise InputError(
            f"The reference in '{folder}' cannot be read ({error}): make it again with `molsampler reference`."
        ) from error
    if energy.shape != (trajectory.n_frames,) or ladder.shape != (trajectory.n_frames,):
        raise InputError(
            f"The reference in '{folder}' has {trajectory.n_frames} frames and {len(energy)} energies: "
            "make it again with `molsampler reference`."
        )
    found = {
        name: Estimate(item["value"], np.nan if item["stderr"] is None else item["stderr"])
        for name, item in summary.get("populations", {}).items()
    }
    return Reference(trajectory, energy, ladder, basins, found, summary)
