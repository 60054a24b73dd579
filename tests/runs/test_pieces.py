"""A run on a molecule in pieces, from end to end at a size where nothing is learnt: gly with both amides free."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from molsampler.analysis.observables.stereochemistry import cis
from molsampler.basis.errors import InputError
from molsampler.basis.settings import change
from molsampler.molecules.coordinates.atlas import Atlas
from molsampler.molecules.coordinates.chart import Chart
from molsampler.molecules.coordinates.modes import ModeChart
from molsampler.runs import molecule, results
from molsampler.runs.molecule import RunConfig
from molsampler.training import emulator
from tests import tiny
from tests.runs.systems import own_gly
from tests.stochastic import seeded

HASTY = {"chains": 4, "length": 0.01, "quenched": 1, "window": 60.0}


def silent(text: str) -> None:
    pass


def free_gly(folder: Path, **pieces) -> RunConfig:
    """Gly in a folder of its own, its amides free, and a search that takes no time: it starts from all four forms."""
    if not folder.exists():
        own_gly(folder)
        path = folder / "system.toml"
        path.write_text(path.read_text() + 'amides = "free"\n')
    return tiny.molecule_config(system=str(folder), pieces=HASTY | pieces, coverage=128)


@pytest.fixture
def config(tmp_path, threads, plain_analysis) -> RunConfig:
    return free_gly(tmp_path / "free")


def emulated_in_every_piece(job, monkeypatch) -> None:
    """The emulator that chooses in sampling by SMC knows which piece a state lies in: what it gets wrong there is no
    more than what it says of itself, though log R of a state in the wrong piece is off by many nats."""
    monkeypatch.setattr(emulator, "LEAST", 100)
    monkeypatch.setattr(emulator, "UPDATES", 20)
    known, buffer = job.emulator(seeded(0)), job.trainer.behaviours.buffer
    x, log_r = buffer.x[: len(buffer)], buffer.log_r[: len(buffer)]
    usual = job.trainer.surrogate.always_finite(log_r) == log_r  # without clashes, where both are bounded
    x, log_r = x[usual], log_r[usual]
    off, label = known(x) - log_r, x[:, -1].long()
    medians = torch.stack([off[label == k].median() for k in range(4)])
    assert float(medians.abs().max()) < 3.0 * known.error
    moved = x.clone()
    moved[:, -1] = (label + 1) % 4
    assert float((known(moved) - log_r).median().abs()) > 3.0 * known.error
    drawn = job.smc_sampler(seeded(1)).smc(64, seeded(2))
    assert bool(torch.isfinite(drawn.log_w).any()) and drawn.group is not None


def test_a_run_goes_over_all_pieces_and_tells_them(config, tmp_path, monkeypatch):
    said: list[str] = []
    job = molecule.begin(config, tmp_path / "out", say=said.append)
    try:
        coordinates = job.target.coordinates
        assert isinstance(coordinates, Atlas) and len(coordinates.charts) == 4
        assert any(line.startswith("pieces: 4 minima, at 0.0, ") for line in said)
        assert job.train(progress=False)
        results.sample(job, progress=False)
        metrics = results.conclude(job)
        kept = job.target.coordinates.state_dict()
        log_z = job.trainer.learner.log_z.item()
    finally:
        job.close()
    shares = [metrics[f"population_pieces_piece_{k}"]["value"] for k in (1, 2, 3, 4)]
    assert sum(shares) == pytest.approx(1.0)
    assert sum(metrics[f"population_pieces_piece_{k}_raw"]["value"] for k in (1, 2, 3, 4)) == pytest.approx(1.0)
    assert "coverage_z_pieces_piece_1" in metrics and "pieces" in (tmp_path / "out" / "report.html").read_text()
    samples = job.run.load_samples()
    # of a policy that has learnt next to nothing each form has a share, of which the input's trans-trans is one
    assert 0.2 < cis(samples.trajectory).mean() < 0.95
    assert np.isfinite(samples.log_weights).mean() > 0.9

    again = molecule.go_on(tmp_path / "out", say=silent)
    try:
        assert torch.equal(again.target.coordinates.state_dict()["centres"], kept["centres"])
        x = job.target.space.sample_prior(8, torch.Generator().manual_seed(0))
        assert torch.equal(again.target.log_prob(x), job.target.log_prob(x))
        assert again.trainer.learner.log_z.item() == log_z
        emulated_in_every_piece(again, monkeypatch)
    finally:
        again.close()


def test_free_amides_without_a_search_are_refused(config):
    """Their density would have both forms, and the only chart one."""
    with pytest.raises(InputError, match="'free' has free amides, .*: give it some chains, or leave out amides"):
        molecule.check(change(config, pieces={"chains": 0}))


def test_without_a_search_the_input_conformer_is_all_there_is(config, tmp_path, threads):
    """A ring's, here of a run that is set up and no further."""
    alone = change(config, system="cyclohexanol", pieces={"chains": 0})
    job = molecule.begin(alone, tmp_path / "out", say=silent)
    try:
        assert isinstance(job.target.coordinates, Chart)
    finally:
        job.close()


def test_a_ring_with_modes_trains_and_goes_on(config, tmp_path, threads):
    """Cyclohexanol, a search that finds little, at a size where nothing is learnt: modes among the circle's
    coordinates, in training, in a run that goes on, and in its samples; the report says how many."""
    ring = change(config, system="cyclohexanol", modes={"most": 3, "least": 1e-6})
    said: list[str] = []
    job = molecule.begin(ring, tmp_path / "out", say=said.append)
    try:
        coordinates = job.target.coordinates
        assert isinstance(coordinates, ModeChart) and coordinates.n_modes == 3
        assert any(line.startswith("short MD: standardised") and ", 3 of them modes (" in line for line in said)
        assert job.train(progress=False)
    finally:
        job.close()
    again = molecule.go_on(tmp_path / "out", say=silent)
    try:
        x = again.target.space.sample_prior(8, seeded(0))
        assert torch.equal(again.target.log_prob(x), job.target.log_prob(x))
        results.sample(again, progress=False)
        results.conclude(again)
    finally:
        again.close()
    assert "circular torsions, 3 modes" in (tmp_path / "out" / "report.html").read_text()
    assert np.isfinite(again.run.load_samples().log_weights).any()


def test_an_objective_through_the_samples_has_no_derivative_by_a_label(config, tmp_path):
    with pytest.raises(
        InputError, match="'free' may be in several pieces, .*: use another objective, or pieces.chains"
    ):
        molecule.check(change(config, train={"objective": "reverse_kl", "schedule": {"torsions": "joint"}}))


def test_more_forms_of_amides_than_pieces_are_refused(config):
    with pytest.raises(
        InputError, match="'free' has 2 free amides, whose 4 forms are more than pieces.most = 3: raise"
    ):
        molecule.check(change(config, pieces={"most": 3}))
