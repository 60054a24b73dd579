"""`molsampler reference <system>`: runs the replica exchange of a molecule and stores its reference ensemble."""

from __future__ import annotations

import sys
from pathlib import Path

import mdtraj as md
import numpy as np
import torch
from torch import Tensor

from molsampler.analysis.estimates import Estimate
from molsampler.analysis.multistate import coldest_means
from molsampler.analysis.ramachandran import POSITIVE_PHI, Basins
from molsampler.analysis.reference import Reference, load_reference, save_reference
from molsampler.analysis.torsions import backbone_pairs
from molsampler.files import write_json
from molsampler.molecules.energy import Energy
from molsampler.molecules.internal import dihedral
from molsampler.molecules.molecule import Molecule
from molsampler.molecules.reference_run import STATE_FILE, ReferenceRun, ReferenceSettings, make_reference
from molsampler.molecules.stereo import Stereochemistry

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
    keep_state: bool = False,
) -> Reference:
    """Runs (or resumes) the simulation in `folder`, stores the reference there and returns it as loaded back.

    energy : what the dynamics run on;  rescore : what the stored energies come from, usually in double
    command : how to make it again, for reference.json; by default the command line of this process
    keep_state : leave the state file (tens of megabytes), so that a longer run can go on from it

    Populations come from the states at all temperatures (see `analysis.multistate`), with jackknife errors over the
    ladders; those counted in the coldest replicas alone stand beside them as `populations_counted`.
    """
    topology = md.Topology.from_openmm(molecule.topology)
    pairs = backbone_pairs(topology)
    device = getattr(energy, "device", torch.device("cpu"))
    inside = Stereochemistry.from_molecule(molecule).to(device).matches

    def observe(positions: Tensor) -> Tensor:
        """(B, 2) phi and psi of the first residue, (B, 0) for a molecule that is no peptide."""
        quadruples = [pairs[0].phi, pairs[0].psi] if pairs else []
        angles = [dihedral(*(positions[:, i] for i in quadruple)) for quadruple in quadruples]
        return torch.stack(angles, -1) if angles else positions.new_zeros(len(positions), 0)

    run = make_reference(
        molecule,
        energy,
        settings,
        folder,
        observe=observe,
        inside_support=inside,
        rescore=rescore,
        progress=progress,
        device=str(device),
    )
    cold = np.swapaxes(run.inside[:, :, 0], 0, 1)  # (L, R): in order of time within each ladder
    reference = save_reference(
        folder,
        positions=run.positions,
        topology=molecule.topology,
        potential_energy=run.potential_energy,
        ladder=run.ladder,
        summary={"command": command or " ".join(sys.argv), **run.summary, **_halves(run)},
        all_phi_psi=np.swapaxes(run.observables[:, :, 0], 0, 1)[cold] if pairs else None,
        all_ladder=np.nonzero(cold)[0] if pairs else None,
    )
    if reference.basins is not None and settings.ladders > 1:
        better = _populations(run, reference.basins)
        _store_populations(Path(folder), reference, better)
    if not keep_state:
        (Path(folder) / STATE_FILE).unlink(missing_ok=True)
    return load_reference(folder)


def _populations(run: ReferenceRun, basins: Basins) -> dict[str, Estimate]:
    every = -(-run.energies.size // _MBAR_STATES)
    angles, inside = run.observables[::every], run.inside[::every]
    label = basins.assign(angles.reshape(-1, 2)).reshape(inside.shape)
    indicators = [label == k for k in range(len(basins.names))] + [angles[..., 0] > 0]
    means = coldest_means(np.stack(indicators, -1), run.energies[::every], inside, run.temperatures)
    return dict(zip((*basins.names, POSITIVE_PHI), means, strict=True))


def _store_populations(folder: Path, reference: Reference, better: dict[str, Estimate]) -> None:
    summary = dict(reference.summary)
    summary["populations_counted"] = summary["populations"]
    summary["populations"] = {name: estimate.as_dict() for name, estimate in better.items()}
    write_json(folder / "reference.json", summary)


def _halves(run: ReferenceRun) -> dict[str, dict[str, float]]:
    """Convergence: phi > 0 in the first and the second half, from all temperatures; empty for no peptide."""
    if run.observables.shape[-1] == 0 or run.energies.shape[1] < 2:
        return {}
    found = {}
    half = len(run.energies) // 2
    every = -(-run.energies.size // (2 * _MBAR_STATES))
    for name, part in (("first_half", slice(0, half, every)), ("second_half", slice(half, None, every))):
        positive = run.observables[part][..., :1] > 0
        (mean,) = coldest_means(positive, run.energies[part], run.inside[part], run.temperatures)
        found[name] = mean.as_dict()
    return {"positive_phi_by_half": found}
