"""A run at several temperatures, from end to end at a size where nothing is learnt: gly from 280 to 500 K."""

from __future__ import annotations

import re

import mdtraj as md
import numpy as np
import openmm
import pytest
import torch
from openmm import unit

from molsampler.basis.errors import InputError
from molsampler.basis.settings import change, without_effect
from molsampler.basis.units import thermal_energy
from molsampler.cli.main import Options
from molsampler.molecules.coordinates.temperatures import TemperatureChart
from molsampler.runs import molecule, results
from molsampler.runs.compare import stored_ensemble
from molsampler.runs.given import draw_given
from molsampler.runs.molecule import RunConfig
from molsampler.runs.temperatures import thermodynamics
from molsampler.targets.temperatures import TemperatureTarget
from tests import tiny
from tests.runs.systems import own_gly

LADDER = {"hottest": 500.0, "coldest": 280.0, "states": 128, "moves": 2, "looked_at": 3, "samples": 40}
BOUNDS = (280.0, 374.0, 500.0)  # 374.17, rounded


def silent(text: str) -> None:
    pass


@pytest.fixture
def config(threads, plain_analysis) -> RunConfig:
    return tiny.molecule_config(ladder=LADDER, coverage=128)


def test_a_run_samples_its_own_temperature_and_several_others(config, tmp_path):
    """Weights, energies and conformations belong together at each of them, against OpenMM's own energy."""
    told: list[str] = []
    with molecule.begin(config, tmp_path / "run", say=told.append) as job:
        assert any(line.startswith("ladder: ") for line in told)
        assert job.train(progress=False)
        results.sample(job, progress=False)
        metrics = results.conclude(job)
        rows = thermodynamics(job)
        job.trainer.done += 1
        assert thermodynamics(job) is None  # of a policy that has been trained on since
        chart = job.target.coordinates
        assert isinstance(job.target, TemperatureTarget) and isinstance(chart, TemperatureChart)
        own = chart.to_standard(torch.as_tensor(job.run.load_samples().trajectory.xyz))
        expected = job.target.single.log_prob(own[:, :-1])
    samples = job.run.load_samples()
    inside = np.isfinite(samples.log_prob)
    # a DCD rounds, and a clash is steep
    np.testing.assert_allclose(samples.log_prob[inside], expected.numpy()[inside], rtol=1e-4, atol=0.05)
    with np.load(tmp_path / "run" / "temperatures.npz") as archive:
        temperature, log_w, energy = (archive[name] for name in ("temperature", "log_weights", "potential_energy"))
    assert temperature.shape == log_w.shape == energy.shape == (120,)
    assert np.unique(temperature).tolist() == list(BOUNDS)
    assert [row.samples for row in rows] == [40] * 3
    trajectory = md.load(str(tmp_path / "run" / "temperatures.dcd"), top=str(tmp_path / "run" / "topology.pdb"))
    np.testing.assert_allclose(energy[::30], openmm_energies(job.molecule, trajectory.xyz[::30]), rtol=1e-3, atol=0.5)
    assert metrics["ess"]["value"] > 0.0
    assert any(re.search(r"\b500\b|_500", name) for name in metrics)


def test_samples_of_any_temperature_between_are_those_of_its_density(config, tmp_path):
    """At 400 K, which was no rung: what is kept, its report, and what a comparison takes them for."""
    with molecule.begin(config, tmp_path / "run", say=silent) as job:
        assert job.train(progress=False)
        results.sample(job, 80, temperature=400.0, progress=False)
        metrics, samples = results.conclude(job), job.run.load_samples()
        chart = job.target.coordinates
        x = chart.to_standard(torch.as_tensor(samples.trajectory.xyz), 400.0)
        positions, log_det = chart.to_natural(x)
        for wrong in (200.0, 501.0, float("nan")):
            with pytest.raises(InputError, match="choose one from 280 to 500 K"):
                results.sample(job, 80, temperature=wrong, progress=False)
        with pytest.raises(InputError, match='sampler = "smc" is not possible for a run at several temperatures'):
            results.sample(job, 200, "smc", progress=False)
    assert samples.temperature == 400.0 and len(samples.log_weights) == 80
    assert not (tmp_path / "run" / "temperatures.npz").exists()  # those come with samples of the molecule's own
    inside = np.isfinite(samples.log_prob)
    expected = -samples.potential_energy / thermal_energy(400.0) + log_det.numpy()
    np.testing.assert_allclose(samples.log_prob[inside], expected[inside], rtol=1e-4, atol=0.05)
    text = (tmp_path / "run" / "report.html").read_text(encoding="utf-8")
    assert "samples at 400 K" in text and "reference_ess" not in metrics
    assert stored_ensemble("run", tmp_path / "run").temperature == 400.0


def test_a_run_for_one_temperature_samples_no_other(finished):
    refused = pytest.raises(InputError, match="trained for 300 K alone; train one with --hottest")
    with molecule.go_on(finished, say=silent) as job, refused:
        results.sample(job, temperature=350.0, progress=False)


def openmm_energies(molecule, positions: np.ndarray) -> np.ndarray:
    """(n,) kJ/mol by a Context of its own."""
    context = openmm.Context(
        molecule.system, openmm.VerletIntegrator(0.001), openmm.Platform.getPlatformByName("Reference")
    )
    found = []
    for frame in positions:
        context.setPositions(frame.astype(float))
        energy = context.getState(getEnergy=True).getPotentialEnergy()
        found.append(energy.value_in_unit(unit.kilojoule_per_mole))
    return np.array(found)


def test_weights_at_a_temperature_are_those_of_its_density(config, tmp_path):
    """log w + log (p_F p_0 / p_B), the density that drew the samples, is -U / kT + log |dx/dz|: no guess is left."""
    with molecule.begin(config, tmp_path / "run", say=silent) as job:
        chart, target = job.target.coordinates, job.target
        x = chart.to_standard(torch.as_tensor(job.molecule.positions, dtype=torch.float32)[None].expand(3, -1, -1))
        x[:, -1] = torch.tensor(BOUNDS)
        log_r = target.log_prob_and_score(x)[0] + chart.log_z_guess(x[:, -1])
        positions, log_det = chart.to_natural(x)
        energy = torch.as_tensor(openmm_energies(job.molecule, positions.numpy())).float()
        beta = 1.0 / torch.tensor([thermal_energy(t) for t in BOUNDS])
        torch.testing.assert_close(log_r, -beta * energy + log_det, rtol=1e-4, atol=1e-2)
        assert float(chart.log_z_guess(x[:, -1]).abs().max()) > 1.0


def test_rows_of_training_mean_what_the_figures_mean(config, tmp_path):
    """Means over temperatures of the ELBO and of log Z(T) itself, not of what is left of it over the guess."""
    with molecule.begin(config, tmp_path / "run", say=silent) as job:
        row, given, trainer = job.row(), job.temperatures(), job.trainer
        learnt = [results.training_figures(job, kelvin)["log_z_learnt"] for kelvin in BOUNDS]
        n = job.config.train.evaluation_samples // len(given)
        log_w = draw_given(trainer, given, n, trainer.evaluation_generator()).log_w.view(len(given), -1).double()
        guess = job.target.log_z_guess(given).double()
    assert row["log_z"] == pytest.approx(np.mean(learnt), abs=1e-3) and float(guess.abs().max()) > 1.0
    inside = torch.isfinite(log_w)
    elbo = [float((row_w[kept] + one).mean()) for row_w, kept, one in zip(log_w, inside, guess, strict=True)]
    assert row["elbo"] == pytest.approx(np.mean(elbo), abs=1e-3)


def test_a_stopped_run_goes_on_to_the_same_end(config, tmp_path, monkeypatch):
    row = molecule.Job.row

    def stop(job):
        job.stop = job.trainer.done >= 8
        return row(job)

    with molecule.begin(config, tmp_path / "whole", say=silent) as job:
        job.train(progress=False)
        whole = job.trainer.learner.fingerprint()
    monkeypatch.setattr(molecule.Job, "row", stop)
    with molecule.begin(config, tmp_path / "stopped", say=silent) as job:
        assert not job.train(progress=False)
    monkeypatch.undo()
    with molecule.go_on(tmp_path / "stopped", say=silent) as job:
        assert isinstance(job.target, TemperatureTarget) and job.trainer.done < job.trainer.total
        job.train(progress=False)
        assert job.trainer.learner.fingerprint() == whole
    rows = job.run.read_metrics_rows()
    assert (
        all(row["ess"] and not row["log_z_running"] for row in rows) and sum(int(row["smc_runs"]) for row in rows) > 0
    )


REFUSED = {
    "alone": ({"ladder": {"hottest": 300.0}}, "300 K alone"),
    "hottest": ({"ladder": {"hottest": 200.0, "coldest": 0.0}}, "do not hold the molecule's own, 300 K"),
    "sampler": ({"sampler": "smc", "samples": 200}, 'sampler = "smc"'),
    "moves": ({"train": {"moves": {"kind": "md"}}}, 'moves.kind = "md"'),
    "scratch": ({"train": {"start": "scratch"}}, 'train.start = "scratch"'),
    "objective": (
        {"train": {"objective": "log_variance", "batch": {"replay_updates": 0, "per_condition": 4}}},
        "log_v",
    ),
    "ring": ({"system": "cyclohexanol"}, "use pieces.chains = 0"),
}


@pytest.mark.parametrize("name", list(REFUSED))
def test_what_does_not_go_with_several_temperatures_is_refused(name):
    changes, words = REFUSED[name]
    config = change(tiny.molecule_config(ladder=LADDER), **changes)
    if name == "alone":
        config = change(config, ladder={"coldest": 0.0})
    with pytest.raises(InputError, match=re.escape(words)):
        molecule.check(config)


def test_molecules_with_free_amides_are_refused_by_what_helps(tmp_path):
    path = own_gly(tmp_path / "free") / "system.toml"
    path.write_text(path.read_text() + 'amides = "free"\n')
    config = tiny.molecule_config(system=str(tmp_path / "free"), ladder=LADDER)
    with pytest.raises(InputError, match='several temperatures: leave out amides = "free"'):
        molecule.check(config)


def test_settings_of_a_ladder_downwards_have_an_effect():
    assert not without_effect(change(RunConfig(), ladder={"coldest": 250.0, "ratio": 1.05, "samples": 50}))


def test_whole_kelvins_only_where_they_are_between_the_ends(config, tmp_path):
    with molecule.begin(config, tmp_path / "run", say=silent) as job:
        assert job.temperatures()[:, 0].tolist() == list(BOUNDS)
        chart = job.target.coordinates
        chart.coldest, chart.hottest = 300.0, 300.8
        found = job.temperatures()[:, 0]
        assert len(found.unique()) == 3 and 300.0 < float(found[1]) < 300.8


def test_the_range_is_an_option_of_the_command_line():
    assert Options(hottest=600.0).resolve("gly").ladder.bounds(300.0) == (300.0, 600.0)
    assert Options(coldest=250.0).resolve("gly").ladder.bounds(300.0) == (250.0, 300.0)
    assert not Options().resolve("gly").ladder.asked
