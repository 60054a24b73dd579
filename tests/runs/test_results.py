"""What a run on a molecule leaves belongs to the samples that are there, and looking changes nothing that learns."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import molsampler
from molsampler.analysis.report.metric_names import find
from molsampler.basis.settings import change
from molsampler.cli import main as cli
from molsampler.runs import molecule, results
from molsampler.smc.trained import SMC_PASSES
from molsampler.store.run_directory import PICTURES, RunDirectory
from molsampler.training import emulator
from tests import tiny
from tests.training.test_trainer import assert_same

OF_THE_POLICY = {"elbo", "pareto_k", "pareto_k_threshold"}
OF_SMC = {"runs", "smc_distinct_ancestors"}


def silent(text: str) -> None:
    pass


@pytest.mark.usefixtures("plain_analysis")
def test_samples_of_another_sampler_leave_none_of_the_old_figures(finished):
    """SMC has no ELBO and no tail of independent weights; the policy has no passes. Without options, the number and
    the sampler are those of the run."""
    run = RunDirectory(finished)
    assert run.load_metrics().keys() >= OF_THE_POLICY and not OF_SMC & run.load_metrics().keys()
    assert "Pareto" in (run / "report.html").read_text()
    assert cli.main(["sample", str(finished), "-n", "130", "--sampler", "smc", "--quiet"]) == 0
    metrics = run.load_metrics()
    assert metrics.keys() >= OF_SMC and not OF_THE_POLICY & metrics.keys()
    assert metrics["samples"]["value"] == 3 * SMC_PASSES and metrics["runs"]["value"] == SMC_PASSES
    assert 1.0 <= metrics["smc_distinct_ancestors"]["value"] <= 3.0
    assert "Pareto" not in (run / "report.html").read_text()
    assert cli.main(["analyse", str(finished), "--quiet"]) == 0
    assert run.load_metrics().keys() >= OF_SMC
    assert cli.main(["sample", str(finished), "--quiet"]) == 0
    metrics = run.load_metrics()
    assert metrics.keys() >= OF_THE_POLICY and not OF_SMC & metrics.keys()
    assert metrics["samples"]["value"] == 160 and run.load_samples().group is None


def test_smc_of_a_molecule_asks_an_emulator_which_energies_are_worth_while(finished, monkeypatch):
    """Its base is the force field with frozen radii; a quarter of what is walked has its energy evaluated."""
    monkeypatch.setattr(emulator, "LEAST", 200)
    monkeypatch.setattr(emulator, "UPDATES", 30)
    said: list[str] = []
    with molsampler.resume(finished, progress=False, say=said.append) as run:
        run.job.trainer.config = change(run.job.trainer.config, smc={"proposals": 4})
        counter, seen = run.job.target.counter, []
        stand_in = run.job.target.stand_in()
        monkeypatch.setattr(run.job.target, "stand_in", lambda: lambda x: (seen.append(len(x)), stand_in(x))[1])
        before = counter.total
        samples = run.sample(2 * SMC_PASSES, "smc")
        assert counter.total - before == 2 * 2 * SMC_PASSES  # in torch, and again by the Reference platform
    assert any("fitted to nine tenths of" in line for line in said)
    assert seen[0] == len(run.job.trainer.behaviours.buffer) and seen[1:] == [8] * SMC_PASSES
    assert len(samples.weights) == 2 * SMC_PASSES and bool(np.isfinite(samples.log_weights).all())


@pytest.mark.parametrize("seed", [-1, 10**30])
def test_a_seed_that_no_generator_takes_is_refused(finished, seed):
    with (
        molsampler.resume(finished, progress=False, say=silent) as run,
        pytest.raises(molsampler.InputError, match=f"train.seed = {seed} is not usable: give at"),
    ):
        run.sample(7, seed=seed)


def test_new_samples_take_old_figures_and_pictures_away_at_once(finished):
    """Before anything is analysed: an interruption there leaves no figures of samples that are gone."""
    before = {name for name in ("metrics.json", "report.html", *PICTURES) if (finished / name).is_file()}
    assert len(before) > 5
    with molsampler.resume(finished, progress=False, say=silent) as run:
        samples = run.sample(7, seed=5)
    assert len(samples.weights) == 7
    assert not any((finished / name).exists() for name in before)


def test_the_learnt_and_the_running_log_z_have_their_names(finished):
    metrics = RunDirectory(finished).load_metrics()
    state = torch.load(finished / "checkpoint.pt", weights_only=True)["trainer"]
    assert metrics["log_z_learnt"]["value"] == pytest.approx(float(state["learner"]["log_z"]))
    running = state["behaviours"]["log_z"]
    assert metrics["log_z_running"]["value"] == pytest.approx(running["log_sum"] - np.log(running["particles"]))
    assert metrics["updates"]["value"] == 16
    spent = {name: metrics[name]["value"] for name in metrics if name.startswith("evaluations_")}
    assert metrics["evaluations"]["value"] == sum(spent.values()) and "evaluations_analysis" not in spent
    assert [name for name in metrics if find(name) is None] == []  # docs/METRICS.md has them all


def learnt(run: molsampler.Run) -> dict:
    """All that goes on learning: the counter of what was only looked at, and the seconds, left out."""
    state = run.job.trainer.state_dict()
    state["counter"]["by_purpose"].pop("analysis", None)
    return {name: value for name, value in state.items() if name != "phase_seconds"}


@pytest.mark.usefixtures("threads", "plain_analysis")
def test_sampling_in_the_middle_of_training_changes_nothing_that_is_learnt(tmp_path):
    """By both samplers, and an analysis: the rest of the training is bit for bit what it would have been."""
    config, ends = tiny.molecule_config(train={"moves": {"every": 3}}), []
    for looks in (False, True):
        with molsampler.start("gly", tmp_path / str(looks), config, progress=False, say=silent) as run:
            for _ in range(11):  # in the midst of balance, between two rows of metrics.csv
                run.job.trainer.update()
            if looks:
                run.sample(64)
                run.sample(128, "smc")
                run.analyse()
            assert run.train()
            ends.append((learnt(run), run.job.run.read_metrics_rows()[-1]))
    assert_same(ends[0][0], ends[1][0])
    for name in ("loss", "elbo", "ess", "log_z", "log_z_running", "energy_evaluations"):
        assert ends[0][1][name] == ends[1][1][name], name


@pytest.mark.usefixtures("threads")
def test_a_start_from_scratch_does_not_anneal(tmp_path):
    config = tiny.molecule_config(train={"start": "scratch", "warm_updates": 0, "updates": 3})
    said: list[str] = []
    job = molecule.begin(config, tmp_path / "run", say=said.append)
    try:
        counted = job.target.counter.by_purpose
        assert counted["prefill"] == 0 < counted["rollout"] and not any("annealing" in line for line in said)
        assert job.train(progress=False)
        assert "evaluations_prefill" not in results.training_figures(job)
    finally:
        job.close()


@pytest.mark.usefixtures("threads")
def test_reverse_kl_has_no_twist_to_sample_with(tmp_path):
    """SMC is refused, in one sentence, by a configuration and at the time of sampling; nothing is written."""
    config = tiny.molecule_config(
        train={"objective": "reverse_kl", "schedule": {"torsions": "joint"}, "warm_updates": 0, "updates": 2}
    )
    out = tmp_path / "run"
    with molsampler.start("gly", out, config, progress=False, say=silent) as run:
        assert run.train()
        first = run.sample(64)
        with pytest.raises(molsampler.InputError, match="reverse_kl.*sampler = policy") as refused:
            run.sample(128, "smc")
        assert "\n" not in str(refused.value)
    assert np.array_equal(molsampler.load_samples(out).log_weights, first.log_weights)
    assert cli.main(["sample", str(out), "--sampler", "smc", "--quiet"]) == 2


@pytest.mark.usefixtures("plain_analysis")
def test_a_run_judges_its_own_coverage_and_training_does_not_notice(tmp_path, threads):
    """Fresh annealed states, made once: figures, a table and a verdict without a reference; what is learnt afterwards
    is bit for bit what it would have been. 16 updates cannot cover the molecule, and the verdict says so."""
    ends = []
    for coverage in (0, 256):
        config = tiny.molecule_config(coverage=coverage)
        with molsampler.start("gly", tmp_path / str(coverage), config, progress=False, say=silent) as run:
            for _ in range(11):
                run.job.trainer.update()
            run.sample(160)
            metrics = run.analyse()
            stored = (tmp_path / str(coverage) / "annealed.npz").is_file()
            assert stored == bool(coverage) == ("annealed_eubo" in metrics)
            assert run.train()
            ends.append(learnt(run))
    assert_same(*ends)
    assert [name for name in metrics if find(name) is None] == []
    states = np.load(tmp_path / "256" / "annealed.npz")
    assert states["weights"].sum() == pytest.approx(1.0) and len(states["x"]) > 256  # chains and explorers
    assert metrics["annealed_effective_samples"]["value"] <= len(np.unique(states["groups"]))
    assert metrics["annealed_eubo"]["value"] > metrics["elbo"]["value"]
    assert any(name.startswith("coverage_z_GLY") for name in metrics)
    assert "Coverage, without a reference" in (tmp_path / "256" / "report.html").read_text()
    before = states["x"]
    assert cli.main(["analyse", str(tmp_path / "256"), "--quiet"]) == 0  # the same states again
    assert np.array_equal(np.load(tmp_path / "256" / "annealed.npz")["x"], before)
