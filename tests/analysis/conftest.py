"""A run directory as a trained sampler would leave it, analysed beside the stored reference."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from molsampler.analysis.analyse import Subject, analyse
from molsampler.analysis.observables.torsions import backbone_pairs, phi_psi
from molsampler.analysis.reference_ensemble import Reference, load_reference
from molsampler.molecules.loading.folders import find_system_folder
from molsampler.store.run_directory import RunDirectory
from tests import oscillators


def write_samples_of_a_simulation(path: Path, reference: Reference, n: int = 3000) -> RunDirectory:
    """A run directory as a trained sampler would leave it: `n` frames of a long simulation drawn with a bias on psi and
    noise, and the weights that correct for both."""
    rng = np.random.default_rng(0)
    psi = phi_psi(reference.trajectory, backbone_pairs(reference.trajectory.topology)[0])[:, 1]
    bias = 0.5 * np.cos(psi)
    chosen = rng.choice(len(psi), size=n, p=np.exp(bias) / np.exp(bias).sum())
    log_weights = -bias[chosen] + 0.4 * rng.normal(size=n) - 178.0
    log_weights[rng.random(n) < 0.01] = -np.inf
    run = RunDirectory(path)
    path.mkdir(parents=True, exist_ok=True)
    frames, energy = reference.trajectory.xyz[chosen], reference.potential_energy[chosen]
    run.write_samples(frames, reference.trajectory.topology, log_weights, energy, log_weights)
    for k in range(20):
        run.append_metrics_row(
            {
                "update": 100 * k,
                "seconds": 30.0 * k,
                "loss": 4.0 / (k + 1),
                "ess": 0.7 * (1 - np.exp(-k / 5)),
                "elbo": -180.0 + k / 20,
            }
        )
    (path / "config.toml").write_text('system = "aldp"\nsamples = 3000\n')
    return run


@pytest.fixture(scope="session")
def stored_reference() -> Reference:
    return load_reference(find_system_folder("aldp") / "reference")


@pytest.fixture(scope="session")
def analysed_run(stored_reference, peptide, tmp_path_factory) -> tuple[RunDirectory, dict]:
    """The run directory of above in runs/aldp of some folder, analysed beside the reference, and its metrics."""
    run = write_samples_of_a_simulation(tmp_path_factory.mktemp("analysed") / "runs" / "aldp", stored_reference)
    subject = Subject("aldp", 300.0, peptide.positions, command="make aldp", temperatures=oscillators.rows())
    return run, analyse(run, subject, stored_reference)
