"""The references that come with the package: complete, converged, and as precise as promised."""

from __future__ import annotations

import math

import numpy as np
import pytest

from molsampler.analysis.observables.basins import indicators
from molsampler.analysis.observables.stereochemistry import cis, inverted
from molsampler.analysis.observables.torsions import backbone_pairs, phi_psi
from molsampler.analysis.reference_ensemble import Reference, load_reference
from molsampler.molecules.loading.folders import find_system_folder
from molsampler.molecules.loading.load import load_molecule


@pytest.fixture(scope="module")
def aldp() -> Reference:
    return load_reference(find_system_folder("aldp") / "reference")


def test_every_population_is_known_to_three_per_cent_or_2e_4(aldp) -> None:
    found = aldp.residues["ALA2"].populations
    assert len(found) == 7
    for name, (value, stderr) in found.items():
        assert 0 < stderr < max(0.03 * value, 2e-4), name
    assert sum(found[name].value for name in aldp.residues["ALA2"].basins.names) == pytest.approx(1.0)


def test_it_has_converged(aldp) -> None:
    """Halves of the simulation differ by less than four standard errors in each of seven populations; R-hat is 1."""
    summary = aldp.summary
    for name, said in summary["convergence"]["ALA2"].items():
        first, second = said["first_half"], said["second_half"]
        error = math.hypot(first["stderr"], second["stderr"])
        assert abs(first["value"] - second["value"]) < 4 * error, name
        assert abs(said["split_rhat"] - 1.0) < 0.005, name
        assert 1.0 <= said["statistical_inefficiency"] < 20, name
    assert all(0.3 <= rate <= 0.5 for rate in summary["acceptance"])
    assert min(summary["round_trips_by_ladder"]) > 50
    assert summary["fraction_dropped"] < 0.01


def test_its_frames_belong_to_its_populations(aldp) -> None:
    """10,000 of the frames, counted, against MBAR over all temperatures; errors between 32 ladders."""
    pair = backbone_pairs(aldp.trajectory.topology)[0]
    residue = aldp.residues["ALA2"]
    inside = indicators(residue.basins, phi_psi(aldp.trajectory, pair)).astype(float)
    means = np.stack([inside[aldp.ladder == k].mean(0) for k in np.unique(aldp.ladder)])
    assert len(means) == 32
    errors = means.std(0, ddof=1) / np.sqrt(32)
    for k, (name, (value, stderr)) in enumerate(residue.populations.items()):
        assert abs(means[:, k].mean() - value) < 4.5 * math.hypot(errors[k], stderr), name


def test_its_frames_have_the_stereochemistry_of_the_input(aldp) -> None:
    assert not inverted(aldp.trajectory, load_molecule("aldp").positions).any()
    assert not cis(aldp.trajectory).any()
