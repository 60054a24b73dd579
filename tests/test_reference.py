"""From the simulation to the stored reference, on a few femtoseconds of alanine dipeptide."""

from __future__ import annotations

import json
from pathlib import Path

import mdtraj as md
import numpy as np
import torch

from molsampler.analysis.ramachandran import POSITIVE_PHI
from molsampler.molecules.reference_run import STATE_FILE, ReferenceSettings
from molsampler.molecules.system import load_molecule
from molsampler.molecules.torch_energy import TorchEnergy
from molsampler.reference import store_reference

SETTINGS = ReferenceSettings(
    temperatures=2,
    hottest=350.0,
    ladders=3,
    exchange_interval=4,
    pivot_interval=2,
    burn_in_ps=0.008,
    production_ps=0.12,
    frames=25,
    frame_interval=2,
)


def test_the_reference_of_a_short_run_is_complete(tmp_path: Path) -> None:
    molecule = load_molecule("aldp")
    energy = TorchEnergy(molecule, compile=False)
    double = TorchEnergy(molecule, dtype=torch.float64, compile=False)
    reference = store_reference(
        molecule, energy, SETTINGS, tmp_path, rescore=double, command="make it so", progress=False
    )
    assert not (tmp_path / STATE_FILE).exists()
    loaded = md.load(str(tmp_path / "reference.dcd"), top=str(tmp_path / "reference.pdb"))
    assert loaded.n_frames == reference.trajectory.n_frames == 25
    positions = torch.from_numpy(loaded.xyz.astype(np.float64))
    assert np.allclose(reference.potential_energy, double.energy(positions).numpy(), atol=0.01)  # dcd holds angstroms

    summary = json.loads((tmp_path / "reference.json").read_text())
    assert summary["command"] == "make it so" and summary["settings"]["ladders"] == 3
    assert len(summary["acceptance"]) == 1 and summary["fraction_dropped"] == 0.0
    assert summary["evaluations"] == energy.counter.by_purpose["md"]
    assert set(summary["populations"]) == set(summary["populations_counted"]) == {*reference.basins.names, POSITIVE_PHI}
    for kind in ("populations", "populations_counted"):
        basins = [summary[kind][name]["value"] for name in reference.basins.names]
        assert abs(sum(basins) - 1.0) < 1e-9
    assert reference.populations[POSITIVE_PHI].value == summary["populations"][POSITIVE_PHI]["value"]
    assert set(summary["positive_phi_by_half"]) == {"first_half", "second_half"}
