"""The stored references against OpenMM's own Langevin dynamics."""

from __future__ import annotations

import math

import mdtraj as md
import numpy as np
import openmm
import pytest
from openmm import unit

from molsampler.analysis.observables.torsions import backbone_pairs, phi_psi
from molsampler.analysis.reference_ensemble import load_reference
from molsampler.molecules.loading.load import find_system_folder, load_molecule

BOUND = 4.5
RUNS, STEPS, INTERVAL, FORGOTTEN = 12, 5_000, 50, 1_000  # of 1 fs


@pytest.mark.slow
@pytest.mark.parametrize("name", ["aldp", "ala2"])
def test_openmm_finds_the_energies_and_torsions_of_the_reference(name: str) -> None:
    """12 runs of 5 ps at 300 K from frames of the reference, the first picosecond forgotten; errors between runs."""
    molecule, reference = load_molecule(name), load_reference(find_system_folder(name) / "reference")
    integrator = openmm.LangevinMiddleIntegrator(300.0 * unit.kelvin, 5.0 / unit.picosecond, 1.0 * unit.femtosecond)
    integrator.setRandomNumberSeed(1)
    platform = openmm.Platform.getPlatformByName("CPU")
    context = openmm.Context(molecule.system, integrator, platform, {"Threads": "1"})
    starts = np.random.default_rng(0).choice(reference.trajectory.n_frames, RUNS, replace=False)
    energies, frames = [], []
    for seed, frame in enumerate(starts, start=1):
        context.setPositions(reference.trajectory.xyz[frame].astype(np.float64))
        context.setVelocitiesToTemperature(300.0 * unit.kelvin, seed)
        integrator.step(FORGOTTEN)
        for _ in range((STEPS - FORGOTTEN) // INTERVAL):
            integrator.step(INTERVAL)
            state = context.getState(getEnergy=True, getPositions=True)
            energies.append(state.getPotentialEnergy().value_in_unit(unit.kilojoule_per_mole))
            frames.append(state.getPositions(asNumpy=True).value_in_unit(unit.nanometer))
    by_run = np.array(energies).reshape(RUNS, -1).mean(1)
    error = by_run.std(ddof=1) / math.sqrt(RUNS)
    known = reference.summary["mean_potential_energy"][0], reference.summary["mean_potential_energy_stderr"][0]
    assert error < 2.0  # kJ/mol; the energy itself scatters by 13 to 17
    assert abs(by_run.mean() - known[0]) < BOUND * math.hypot(error, known[1])

    trajectory = md.Trajectory(np.array(frames), reference.trajectory.topology)
    for pair in backbone_pairs(trajectory.topology):
        found = phi_psi(trajectory, pair).reshape(RUNS, -1, 2)
        expected = phi_psi(reference.trajectory, pair)
        for axis in range(2):
            check_sextants(found[..., axis], expected[:, axis])


def check_sextants(found: np.ndarray, expected: np.ndarray) -> None:
    """Shares of sextants of 60 degrees among angles (RUNS, n), with errors between runs, against angles (m,)."""
    edges = np.linspace(-np.pi, np.pi, 7)
    share = np.stack([np.histogram(run, edges)[0] for run in found]) / found.shape[1]
    truth = np.histogram(expected, edges)[0] / len(expected)
    # between runs, but no less than that of 12 independent draws: all runs may agree by chance
    errors = np.maximum(share.std(0, ddof=1) / math.sqrt(RUNS), np.sqrt(truth * (1 - truth) / RUNS) / 3)
    assert (np.abs(share.mean(0) - truth) < BOUND * errors + 1e-3).all()
    assert share.mean(0).max() < 0.9
