"""From the simulation to the stored reference, on a few femtoseconds of alanine dipeptide."""

from __future__ import annotations

import json
import runpy
import shutil
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import mdtraj as md
import numpy as np
import pytest
import torch

from molsampler.analysis.observables.basins import POSITIVE_PHI
from molsampler.basis.errors import InputError
from molsampler.basis.units import thermal_energy
from molsampler.cli import main as cli
from molsampler.molecules.dynamics.reference_simulation import STATE_FILE, ReferenceSettings
from molsampler.molecules.energy.torch_energy import TorchEnergy
from molsampler.molecules.loading import folders
from molsampler.molecules.loading.folders import find_system_folder
from molsampler.molecules.loading.load import load_molecule
from molsampler.runs.reference import store_reference
from molsampler.runs.results import find_reference

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
    found = summary["residues"]["ALA2"]
    basins = reference.residues["ALA2"].basins
    assert set(found["populations"]) == {*basins.names, POSITIVE_PHI} and set(found["free_energies"]) == {*basins.names}
    assert abs(sum(found["populations"][name]["value"] for name in basins.names) - 1.0) < 1e-9
    zero = max(basins.names, key=lambda name: found["populations"][name]["value"])
    for name in basins.names:
        ratio = found["populations"][name]["value"] / found["populations"][zero]["value"]
        free = found["free_energies"][name]["value"]
        assert free is None if ratio == 0 else abs(free + thermal_energy(300.0) * np.log(ratio)) < 1e-9
    assert reference.populations[f"ALA2 {POSITIVE_PHI}"].value == found["populations"][POSITIVE_PHI]["value"]
    assert set(summary["convergence"]) == {"potential_energy", "ALA2"}
    for name in (*basins.names, POSITIVE_PHI):
        said = summary["convergence"]["ALA2"][name]
        assert set(said) == {"counted", "first_half", "second_half", "split_rhat", "statistical_inefficiency"}
    assert summary["convergence"]["potential_energy"]["statistical_inefficiency"] >= 1.0


def test_the_script_is_the_command(monkeypatch) -> None:
    seen = []
    monkeypatch.setattr(cli, "main", lambda arguments: seen.append(arguments) or 3)
    script = Path(__file__).parents[2] / "scripts" / "make_reference.py"
    monkeypatch.setattr(sys, "argv", [str(script), "aldp", "--ladders", "4"])
    with pytest.raises(SystemExit, match="3"):
        runpy.run_path(str(script), run_name="__main__")
    assert seen == [["reference", "aldp", "--ladders", "4"]]


def test_the_reference_of_a_system_in_the_package_is_stored_and_looked_for_here(monkeypatch, tmp_path, capsys) -> None:
    """An installed package is not written to; one that lies in it is found where there is none here."""
    packaged, here = tmp_path / "package" / "aldp", tmp_path / "here"
    shutil.copytree(find_system_folder("aldp"), packaged, ignore=shutil.ignore_patterns("reference"))
    here.mkdir()
    monkeypatch.chdir(here)
    monkeypatch.setattr(folders, "PACKAGED", packaged.parent)

    def stored(molecule, energy, settings, folder, **options):
        Path(folder).mkdir(parents=True, exist_ok=True)
        (folder / "reference.npz").touch()
        return SimpleNamespace(populations={})

    monkeypatch.setattr("molsampler.runs.reference.store_reference", stored)
    monkeypatch.setattr("molsampler.runs.results.load_reference", lambda folder: folder)
    assert find_reference("aldp") is None
    stored(None, None, None, packaged / "reference")
    assert find_reference("aldp") == packaged / "reference"
    assert cli.main(["reference", "aldp", "--quiet"]) == 0
    expected = here / "systems" / "aldp" / "reference"
    assert capsys.readouterr().out == f"reference: {expected}\n" and find_reference("aldp") == expected


def test_the_state_stays_where_it_is_asked_for(tmp_path: Path) -> None:
    molecule = load_molecule("aldp")
    energy = TorchEnergy(molecule, compile=False)
    short = replace(SETTINGS, production_ps=0.024, keep_state=True, frames=5, ladders=2)
    first = store_reference(molecule, energy, short, tmp_path, progress=False)
    spent = energy.counter.by_purpose["md"]
    again = store_reference(molecule, energy, replace(short, keep_state=False), tmp_path, progress=False)
    assert np.array_equal(first.trajectory.xyz, again.trajectory.xyz)
    assert energy.counter.by_purpose["md"] == spent and not (tmp_path / STATE_FILE).exists()
    with pytest.raises(InputError, match="holds a reference already: replace it with --overwrite"):
        store_reference(molecule, energy, short, tmp_path, progress=False)
    shorter = replace(short, keep_state=False, production_ps=0.016)
    replaced = store_reference(molecule, energy, shorter, tmp_path, progress=False, overwrite=True)
    assert replaced.trajectory.n_frames != first.trajectory.n_frames or energy.counter.by_purpose["md"] > spent
