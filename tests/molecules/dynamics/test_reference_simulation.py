"""The reference producer: what it keeps, what it drops, and that a killed run goes on to the same frames."""

from __future__ import annotations

import math
import os
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import openmm
import pytest
import torch
from openmm import app
from torch import Tensor

from molsampler.basis.errors import InputError
from molsampler.molecules.dynamics.reference_simulation import (
    STATE_FILE,
    ReferenceRun,
    ReferenceSettings,
    make_reference,
    repartitioned_masses,
)
from molsampler.molecules.dynamics.replica_exchange import ladder_size
from molsampler.molecules.energy.contract import Energy
from molsampler.molecules.loading.load import load_molecule
from molsampler.molecules.molecule import Molecule
from molsampler.store.lock import FolderLock

SETTINGS = ReferenceSettings(
    temperatures=3,
    hottest=500.0,
    ladders=4,
    exchange_interval=5,
    burn_in_ps=0.05,
    production_ps=0.3,
    frames=1000,
    frame_interval=2,
    save_interval=8,
    seed=7,
)


class Chain(Energy):
    """Three atoms on two springs of 0.1 nm; kills its own process at evaluation `fatal`, counted in calls."""

    def __init__(self, fatal: int | None = None) -> None:
        super().__init__(3)
        self.fatal, self.calls = fatal, 0

    def _evaluate(self, positions: Tensor, forces: bool) -> tuple[Tensor, Tensor | None]:
        self.calls += 1
        if self.calls == self.fatal:
            os.kill(os.getpid(), signal.SIGKILL)
        bond = positions[:, 1:] - positions[:, :-1]  # (B, 2, 3)
        length = bond.norm(dim=-1, keepdim=True)
        pull = 1e5 * (length - 0.1) * bond / length
        force = torch.zeros_like(positions)
        force[:, :-1] += pull
        force[:, 1:] -= pull
        return 0.5e5 * (length - 0.1).square().sum((1, 2)), force


def chain() -> Molecule:
    system, topology = openmm.System(), app.Topology()
    residue = topology.addResidue("CHN", topology.addChain())
    for k in range(3):
        system.addParticle(12.0)
        topology.addAtom(f"C{k}", app.Element.getBySymbol("C"), residue)
    positions = np.array([[0.0, 0.0, 0.0], [0.1, 0.0, 0.0], [0.15, 0.09, 0.0]])
    return Molecule("chain", topology, system, positions, 300.0)


def observe(positions: Tensor) -> Tensor:
    return (positions[:, 2] - positions[:, 0]).norm(dim=-1, keepdim=True)


def wide(positions: Tensor) -> Tensor:
    """(B,) bool: a support that leaves out folded chains."""
    return observe(positions)[:, 0] > 0.12


def run(folder: Path, energy: Energy | None = None, settings: ReferenceSettings = SETTINGS) -> ReferenceRun:
    return make_reference(
        chain(), energy or Chain(), settings, folder, observe=observe, inside_support=wide, progress=False
    )


def assert_same(a: ReferenceRun, b: ReferenceRun) -> None:
    for name in ("positions", "potential_energy", "ladder", "energies", "observables", "inside"):
        assert np.array_equal(getattr(a, name), getattr(b, name)), name
    assert a.summary == b.summary


def test_shapes_support_and_thinning(tmp_path: Path) -> None:
    found = run(tmp_path)
    rounds, burnt = 60, 10
    assert SETTINGS.rounds == rounds + burnt and SETTINGS.burn_in_rounds == burnt
    assert found.energies.shape == found.inside.shape == (rounds, 4, 3)
    assert found.observables.shape == (rounds, 4, 3, 1)
    assert np.array_equal(found.inside, found.observables[..., 0] > np.float32(0.12))
    dropped = 1.0 - found.inside[:, :, 0].mean()
    assert 0.05 < dropped < 0.95 and found.summary["fraction_dropped"] == pytest.approx(dropped)
    kept = found.inside[1::2, :, 0]  # every second round
    assert len(found.positions) == kept.sum()
    assert np.array_equal(found.ladder, np.repeat(np.arange(4), kept.sum(0)))
    frames = torch.from_numpy(found.positions)
    assert wide(frames).all()
    expected = np.concatenate([found.observables[1::2, k, 0, 0][kept[:, k]] for k in range(4)])
    assert np.allclose(observe(frames)[:, 0].numpy(), expected, atol=1e-6)  # frames and records belong together
    assert np.allclose(found.potential_energy, Chain().energy(frames.double()).numpy())
    assert found.summary["evaluations"] == 12 * (70 * 5 + 1) + 101  # dynamics, and the quench of the input structure
    fewer = run(tmp_path, settings=replace(SETTINGS, frames=17))
    assert len(fewer.positions) == 17 and len(np.unique(fewer.ladder)) == 4


def test_a_killed_run_goes_on_to_the_same_frames(tmp_path: Path) -> None:
    child = subprocess.run([sys.executable, __file__, str(tmp_path / "killed")], timeout=120, check=False)
    assert child.returncode == -signal.SIGKILL
    stored = torch.load(tmp_path / "killed" / STATE_FILE, weights_only=True)
    assert 0 < stored["exchange"]["rounds"] < SETTINGS.rounds
    energy = Chain()
    resumed = run(tmp_path / "killed", energy)
    assert energy.calls < 70 * 5  # it did not begin anew
    assert_same(resumed, run(tmp_path / "whole"))


def test_a_finished_run_is_read_back_and_can_be_made_longer(tmp_path: Path) -> None:
    short = run(tmp_path / "a", settings=replace(SETTINGS, production_ps=0.15, save_interval=7))
    energy = Chain()
    assert_same(short, run(tmp_path / "a", energy, replace(SETTINGS, production_ps=0.15, save_interval=7)))
    assert energy.calls == 1  # the energies of the frames
    longer, whole = run(tmp_path / "a"), run(tmp_path / "b")
    assert_same(longer, whole)
    with pytest.raises(InputError, match="more than the 40 asked for"):
        run(tmp_path / "a", settings=replace(SETTINGS, production_ps=0.15))


def test_a_simulation_that_was_begun_on_a_gpu_goes_on_without_one(tmp_path: Path, monkeypatch) -> None:
    """Its tensors are of a device that is not there, its generator's state is one that this one's cannot take."""
    short = run(tmp_path / "a", settings=replace(SETTINGS, production_ps=0.15))
    path = tmp_path / "a" / STATE_FILE
    content = torch.load(path, weights_only=True)
    content["generator"] = torch.zeros(16, dtype=torch.uint8)  # the size of CUDA's
    monkeypatch.setattr(torch.serialization, "location_tag", lambda storage: "cuda:0")
    torch.save(content, path)
    monkeypatch.undo()
    longer = run(tmp_path / "a")
    assert len(longer.energies) == SETTINGS.rounds - SETTINGS.burn_in_rounds
    assert np.array_equal(longer.energies[: len(short.energies)], short.energies)
    again = longer.energies[len(short.energies) :]
    assert np.isfinite(again).all() and len(np.unique(again)) == again.size


def test_a_state_file_of_another_run_or_a_broken_one_is_refused(tmp_path: Path) -> None:
    run(tmp_path)
    with pytest.raises(InputError, match="seed 7 there, 8 now"):
        run(tmp_path, settings=replace(SETTINGS, seed=8))
    content = (tmp_path / STATE_FILE).read_bytes()
    (tmp_path / STATE_FILE).write_bytes(content[: len(content) // 2])
    with pytest.raises(InputError, match="cannot be read"):
        run(tmp_path)


@pytest.mark.skipif(os.name == "nt", reason="no lock on Windows")
def test_a_second_process_in_the_folder_is_refused(tmp_path: Path) -> None:
    """Two would overwrite each other's state file."""
    with FolderLock(tmp_path), pytest.raises(InputError, match="in use by another"):
        run(tmp_path)
    run(tmp_path)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"production_ps": 0.005}, "0.005"),
        ({"frames": 0}, "frames 0"),
        ({"temperatures": -1}, "temperatures -1"),
        ({"timestep": 0.0}, "timestep 0.0 ps and exchange_interval"),
        ({"exchange_interval": 0}, "exchange_interval 0 steps must be"),
        ({"hydrogen_mass": 13.0}, "hydrogen_mass 13.0"),
        ({"hydrogen_mass": -1.0}, "hydrogen_mass -1.0"),
        ({"temperatures": 0, "hottest": math.inf}, "hottest = inf must be finite: give such as 1000.0"),
        ({"temperatures": 0, "hottest": math.nan}, "hottest = nan must be finite"),
        ({"hottest": 299.0}, "hottest 299 K is colder than the system, at 300 K"),
        ({"timestep": math.nan}, "timestep = nan must be finite"),
        ({"production_ps": math.inf}, "production_ps = inf must be finite"),
        ({"production_ps": math.nan}, "production_ps = nan must be finite"),
        ({"burn_in_ps": math.inf}, "burn_in_ps = inf must be finite"),
        ({"burn_in_ps": -1.0}, "burn_in_ps -1 must not be negative"),
        ({"hydrogen_mass": math.inf}, "hydrogen_mass = inf must be finite"),
        ({"ladders": 2.5}, "ladders = 2.5 should be of type int"),
        ({"seed": 10**30}, r"seed 1\d+ is not usable: give a number from 0 to 1e\+18"),
    ],
)
def test_settings_that_give_nothing_are_refused(tmp_path: Path, change: dict, said: str) -> None:
    with pytest.raises(InputError, match=said):
        run(tmp_path, settings=replace(SETTINGS, **change))


def test_mean_energies_carry_errors_between_ladders(tmp_path: Path) -> None:
    found = run(tmp_path)
    of_ladder = found.energies.mean(0)
    assert np.allclose(found.summary["mean_potential_energy"], found.energies.mean((0, 1)))
    expected = [math.sqrt(np.var(of_ladder[:, t], ddof=1) / 4) for t in range(3)]
    assert np.allclose(found.summary["mean_potential_energy_stderr"], expected)


def test_the_number_of_temperatures_follows_the_molecule(tmp_path: Path) -> None:
    settings = replace(SETTINGS, temperatures=0, hottest=450.0, production_ps=0.05)
    found = run(tmp_path, settings=settings)
    count = ladder_size(300.0, 450.0, 3)
    assert found.energies.shape[-1] == len(found.temperatures) == found.summary["settings"]["temperatures"] == count
    assert found.temperatures[-1] == pytest.approx(450.0)


def test_hydrogens_take_their_mass_from_their_neighbours() -> None:
    molecule = load_molecule("aldp")
    masses = repartitioned_masses(molecule, 3.0)
    hydrogens = molecule.atomic_numbers == 1
    assert np.allclose(masses[hydrogens], 3.0) and masses.sum() == pytest.approx(molecule.masses.sum())
    methyl = next(i for i, name in enumerate(molecule.atom_labels) if name.endswith("-CB"))
    assert masses[methyl] == pytest.approx(molecule.masses[methyl] - 3 * (3.0 - molecule.masses[hydrogens][0]))
    assert np.array_equal(repartitioned_masses(molecule, 0.0), molecule.masses)


if __name__ == "__main__":  # the process that the test of a killed run starts
    torch.set_num_threads(1)
    run(Path(sys.argv[1]), Chain(fatal=340))
