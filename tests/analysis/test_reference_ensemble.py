"""The stored reference: round trip, populations from the whole simulation, refusals."""

from __future__ import annotations

import json

import numpy as np
import pytest

from molsampler.analysis.observables.basins import counted_basins
from molsampler.analysis.reference_ensemble import load_reference, save_reference
from molsampler.basis.errors import InputError


@pytest.fixture(scope="module")
def simulation(peptide, mixture):
    """Angles (6000, 2) and ladders (6000,) of a simulation of 12 ladders whose ladders differ, and 300 frames of it."""
    rng = np.random.default_rng(0)
    ladder = np.repeat(np.arange(12), 500)
    parts = [mixture(rng, 500, [0.5 + s, 0.3 - s, 0.15, 0.05])[0] for s in np.linspace(-0.1, 0.1, 12)]
    angles = np.concatenate(parts)
    return angles, ladder, peptide.frames(angles[::20])


def test_a_reference_comes_back(simulation, peptide, tmp_path) -> None:
    angles, ladder, frames = simulation
    energy = np.random.default_rng(1).normal(-50.0, 8.0, len(frames))
    saved = save_reference(
        tmp_path,
        positions=frames,
        topology=peptide.openmm_topology,
        potential_energy=energy,
        ladder=ladder[::20],
        temperature=300.0,
        summary={"command": "molsampler reference aldp", "temperatures": np.array([300.0, 400.0]), "acceptance": [0.4]},
        residues=[counted_basins("ALA2", angles, ladder, 300.0)],
    )
    found = load_reference(tmp_path)
    assert np.abs(found.trajectory.xyz - frames).max() < 1e-6
    assert np.array_equal(found.potential_energy, energy) and np.array_equal(found.ladder, ladder[::20])
    assert found.summary["temperatures"] == [300.0, 400.0] and found.summary["temperature"] == 300.0
    basins = found.residues["ALA2"].basins
    assert basins.names == saved.residues["ALA2"].basins.names
    assert np.array_equal(basins.labels, saved.residues["ALA2"].basins.labels)
    assert found.populations == saved.populations
    assert set(found.populations) == {f"ALA2 {name}" for name in ("C7eq", "C5", "alphaR", "alphaL", "phi > 0")}
    known = found.populations["ALA2 C7eq"]
    free = found.residues["ALA2"].free_energies
    assert free["C7eq"] == (0.0, 0.0) and all(e.value > 0 and e.stderr > 0 for n, e in free.items() if n != "C7eq")
    label = basins.assign(angles) == basins.names.index("C7eq")
    per_ladder = label.reshape(12, 500).mean(1)
    assert known.value == pytest.approx(per_ladder.mean())
    assert known.stderr == pytest.approx(per_ladder.std(ddof=1) / np.sqrt(12))


def save_flat(simulation, peptide, folder) -> None:
    """The frames of the simulation as a reference whose energies are all zero."""
    _, ladder, frames = simulation
    save_reference(
        folder,
        positions=frames,
        topology=peptide.topology,
        potential_energy=np.zeros(300),
        ladder=ladder[::20],
        temperature=300.0,
        summary={},
    )


def test_frames_in_single_precision_stay_small(simulation, peptide, tmp_path) -> None:
    save_flat(simulation, peptide, tmp_path)
    assert (tmp_path / "reference.dcd").stat().st_size < 300 * 22 * 12 * 1.15 + 1000


def test_frames_that_are_not_finite_or_do_not_fit_are_refused(simulation, peptide, tmp_path) -> None:
    _, ladder, frames = simulation
    broken = frames.copy()
    broken[0, 0, 0] = np.inf
    common = {"topology": peptide.topology, "ladder": ladder[::20], "temperature": 300.0, "summary": {}}
    with pytest.raises(ValueError, match="finite"):
        save_reference(tmp_path, positions=broken, potential_energy=np.zeros(300), **common)
    with pytest.raises(ValueError, match="one a frame"):
        save_reference(tmp_path, positions=frames, potential_energy=np.zeros(299), **common)


@pytest.mark.parametrize("name", ["reference.pdb", "reference.dcd", "reference.npz", "reference.json"])
@pytest.mark.parametrize("how", ["missing", "torn"])
def test_a_damaged_reference_is_refused_in_one_sentence(simulation, peptide, tmp_path, name, how) -> None:
    save_flat(simulation, peptide, tmp_path)
    data = (tmp_path / name).read_bytes()
    (tmp_path / name).unlink()
    if how == "torn":
        (tmp_path / name).write_bytes(data[: len(data) // 2])
    with pytest.raises(InputError, match="molsampler reference"):
        load_reference(tmp_path)


def test_a_reference_of_a_simulation_with_a_summary_that_is_no_number_is_strict_json(
    simulation, peptide, tmp_path
) -> None:
    _, ladder, frames = simulation
    save_reference(
        tmp_path,
        positions=frames[:50],
        topology=peptide.topology,
        potential_energy=np.zeros(50),
        ladder=ladder[::20][:50],
        temperature=300.0,
        summary={"round_trips": np.nan},
    )
    text = (tmp_path / "reference.json").read_text()
    assert "NaN" not in text and json.loads(text)["round_trips"] is None
