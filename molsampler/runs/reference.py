"""`molsampler reference <system>`: runs the replica exchange of a molecule and stores its reference ensemble."""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import mdtraj as md
import numpy as np
import torch
from torch import Tensor

from molsampler.analysis.observables.basins import (
    POSITIVE_PHI,
    ResidueBasins,
    counted_basins,
    indicators,
    residue_basins,
)
from molsampler.analysis.observables.ramachandran import Basins
from molsampler.analysis.observables.torsions import BackbonePair, backbone_pairs
from molsampler.analysis.reference_ensemble import Reference, save_reference
from molsampler.analysis.statistics.convergence import split_rhat, statistical_inefficiency
from molsampler.analysis.statistics.multistate import coldest_means
from molsampler.basis.errors import InputError
from molsampler.molecules.coordinates.internal import dihedral
from molsampler.molecules.coordinates.stereo import Stereochemistry
from molsampler.molecules.dynamics.reference_simulation import (
    STATE_FILE,
    ReferenceRun,
    ReferenceSettings,
    make_reference,
)
from molsampler.molecules.energy.contract import Energy
from molsampler.molecules.molecule import Molecule

_MBAR_STATES = 2_000_000  # of all temperatures: every state, unless the simulation was so long that memory matters


def store_reference(
    molecule: Molecule,
    energy: Energy,
    settings: ReferenceSettings,
    folder: str | Path,
    *,
    rescore: Energy | None = None,
    command: str | None = None,
    progress: bool = True,
    overwrite: bool = False,
    say: Callable[[str], None] = print,
) -> Reference:
    """Runs (or resumes) the simulation in `folder`, stores the reference there and returns it as loaded back.

    energy : what the dynamics run on;  rescore : what the stored energies come from, usually in double
    command : how to make it again, for reference.json; by default the command line of this process
    overwrite : replace the reference that the folder holds; InputError where it holds one and no simulation to go on
        with
    say : where warnings go

    Populations and free energies come from the states at all temperatures (see `analysis.multistate`), with jackknife
    errors over the ladders. What reference.json says of convergence is described in docs/METRICS.md.
    """
    if (Path(folder) / "reference.npz").is_file() and not (Path(folder) / STATE_FILE).is_file() and not overwrite:
        raise InputError(
            f"'{folder}' holds a reference already: replace it with --overwrite, or name another folder with --out"
        )
    topology = md.Topology.from_openmm(molecule.topology)
    pairs = backbone_pairs(topology)
    device = getattr(energy, "device", torch.device("cpu"))
    inside = Stereochemistry.from_molecule(molecule).to(device).matches
    run = make_reference(
        molecule,
        energy,
        settings,
        folder,
        observe=functools.partial(_phi_and_psi, pairs),
        inside_support=inside,
        rescore=rescore,
        progress=progress,
        device=str(device),
        say=say,
    )
    residues, convergence = [], {}
    for k, pair in enumerate(pairs):
        residue, said = _residue(run, pair.residue, run.observables[..., 2 * k : 2 * k + 2])
        residues.append(residue)
        convergence[pair.residue] = said
    reference = save_reference(
        folder,
        positions=run.positions,
        topology=molecule.topology,
        potential_energy=run.potential_energy,
        ladder=run.ladder,
        temperature=molecule.temperature,
        summary={
            "command": command or " ".join(sys.argv),
            **run.summary,
            "convergence": {"potential_energy": _mixing(run.energies[:, :, 0].T, run.inside[:, :, 0].T), **convergence},
        },
        residues=residues,
    )
    if not settings.keep_state:
        (Path(folder) / STATE_FILE).unlink(missing_ok=True)
    return reference


def _phi_and_psi(pairs: Sequence[BackbonePair], positions: Tensor) -> Tensor:
    """(B, 2P) phi and psi of every residue that has both; (B, 0) for a molecule that is no peptide."""
    quadruples = [quadruple for pair in pairs for quadruple in (pair.phi, pair.psi)]
    angles = [dihedral(*(positions[:, i] for i in quadruple)) for quadruple in quadruples]
    return torch.stack(angles, -1) if angles else positions.new_zeros(len(positions), 0)


def _residue(run: ReferenceRun, label: str, angles: np.ndarray) -> tuple[ResidueBasins, dict]:
    """Basins of one residue, angles (R, L, T, 2), and by basin how well its population has converged."""
    cold = np.swapaxes(run.inside[:, :, 0], 0, 1)  # (L, R): in order of time within each ladder
    shown = np.swapaxes(angles[:, :, 0], 0, 1)
    counted = counted_basins(label, shown[cold], np.nonzero(cold)[0], float(run.temperatures[0]))
    basins = counted.basins
    if run.energies.shape[1] > 1:
        means, covariance = _multistate(run, basins, angles, slice(None))
        residue = residue_basins(label, basins, means, covariance, float(run.temperatures[0]))
    else:
        residue = counted
    inside = indicators(basins, shown)  # (L, R, k + 1)
    halves = _halves(run, basins, angles)
    said = {
        name: {
            "counted": counted.populations[name].as_dict(),
            **{half: found[k] for half, found in halves.items()},
            **_mixing(inside[..., k], cold),
        }
        for k, name in enumerate((*basins.names, POSITIVE_PHI))
    }
    return residue, said


def _multistate(run: ReferenceRun, basins: Basins, angles: np.ndarray, part: slice) -> tuple[np.ndarray, np.ndarray]:
    """Populations (k + 1,) at the coldest temperature from the rounds `part` at all, and their covariance."""
    rounds = range(len(run.energies))[part]
    every = -(-len(rounds) * run.energies[0].size // _MBAR_STATES)
    chosen = np.array(rounds[::every])
    inside = indicators(basins, angles[chosen])
    return coldest_means(inside, run.energies[chosen], run.inside[chosen], run.temperatures)


def _halves(run: ReferenceRun, basins: Basins, angles: np.ndarray) -> dict[str, list[dict[str, float]]]:
    """Populations from the first and from the second half of all ladders; empty for a single ladder."""
    half = len(run.energies) // 2
    if run.energies.shape[1] < 2 or half < 1:
        return {}
    found = {}
    for name, part in (("first_half", slice(0, half)), ("second_half", slice(half, None))):
        means, covariance = _multistate(run, basins, angles, part)
        errors = np.sqrt(np.diag(covariance))
        found[name] = [{"value": float(p), "stderr": float(e)} for p, e in zip(means, errors, strict=True)]
    return found


def _mixing(series: np.ndarray, inside: np.ndarray) -> dict[str, float]:
    """Split R-hat and statistical inefficiency (in rounds) of a series (L, R) of the coldest replicas; states outside
    the support, (L, R) bool False, count as the series' mean."""
    values = np.where(inside, series, series[inside].mean()) if inside.any() else series
    return {"split_rhat": split_rhat(values), "statistical_inefficiency": statistical_inefficiency(values)}
