"""Whole runs on alanine dipeptide at sizes where nothing is learnt but every part has to do its work."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import mdtraj as md
import numpy as np
import openmm
import pytest
import torch

from molsampler.analysis import steps
from molsampler.cli import main as cli
from molsampler.molecules.dynamics.quench import quench
from molsampler.molecules.loading.load import load_molecule
from molsampler.runs import results
from molsampler.runs.molecule import RunConfig
from molsampler.runs.results import EUBO_FRAMES
from molsampler.smc.trained import SMC_PASSES
from molsampler.store.config_file import read_toml
from molsampler.store.run_directory import OF_SOME, RESULTS, RUN_FILES, RunDirectory
from tests import tiny


@pytest.fixture(scope="module", autouse=True)
def short_analyses():
    """20 steps to the minima of the basins in place of 1,000, and pictures in one width in place of two: most of what
    an analysis takes, and no test here looks at it. torch's threads are put back."""

    def draw(study, name, draw, *arguments) -> None:
        draw(*arguments, study.run / name)
        study.narrow[name] = (study.run / name).read_bytes()

    threads = torch.get_num_threads()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(results, "quench", lambda energy, positions, steps: quench(energy, positions, 20))
        patch.setattr(steps, "_draw", draw)
        yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("job")
    (folder / "tiny.toml").write_text(tiny.toml(tiny.MOLECULE))
    return folder


@pytest.fixture(scope="module")
def run(folder) -> RunDirectory:
    """A run from end to end, with what it says."""
    assert cli.run_aldp(["--config", str(folder / "tiny.toml"), "--out", str(folder / "whole"), "--quiet"]) == 0
    return RunDirectory(folder / "whole")


def reference_energies(positions: np.ndarray) -> np.ndarray:
    """kJ/mol of positions (M, N, 3) nm, by a context of its own on OpenMM's Reference platform."""
    integrator = openmm.VerletIntegrator(0.001)
    system = load_molecule("aldp").system
    context = openmm.Context(system, integrator, openmm.Platform.getPlatformByName("Reference"))
    energies = []
    for frame in positions:
        context.setPositions(frame.astype(np.float64))
        energies.append(context.getState(getEnergy=True).getPotentialEnergy()._value)
    return np.array(energies)


def assert_samples(run: RunDirectory, n: int) -> None:
    trajectory = md.load(str(run / "samples.dcd"), top=str(run / "topology.pdb"))
    assert trajectory.n_frames == n and trajectory.n_atoms == 22
    with np.load(run / "weights.npz") as stored:
        log_weights, energy, log_prob = (stored[k] for k in ("log_weights", "potential_energy", "log_prob"))
    assert log_weights.shape == energy.shape == log_prob.shape == (n,)
    assert not np.isnan(log_weights).any() and np.isfinite(log_weights).any()
    assert np.array_equal(np.isfinite(log_weights), np.isfinite(log_prob))
    # the file rounds positions to float32, of which a clash makes a large difference: compare calm frames absolutely
    again = reference_energies(trajectory.xyz)
    calm = np.isfinite(again) & (again < 2e3)
    assert calm.sum() >= 1
    np.testing.assert_allclose(energy[calm], again[calm], atol=0.05, rtol=1e-4)


def test_a_run_leaves_everything_it_promises(run):
    for name in set(RUN_FILES) - set(OF_SOME):  # these are there where coverage is judged, or temperatures are several
        assert (run / name).is_file() and (run / name).stat().st_size > 0, name
    assert_samples(run, 192)
    assert not [path for path in run.path.iterdir() if path.name.startswith(".") and path.name != ".lock"]
    config = read_toml(run / "config.toml", RunConfig())
    assert (config.samples, config.train.warm_updates, config.train.updates) == (192, 200, 100)
    rows = run.read_metrics_rows()
    assert [int(row["update"]) for row in rows] == list(range(10, 301, 10))
    assert {row["phase"] for row in rows} == {"denoising", "trajectory balance"}


def test_md_is_at_most_half_of_the_evaluations(run):
    metrics = run.load_metrics()
    total, of_md = metrics["evaluations"]["value"], metrics["evaluations_md"]["value"]
    assert 0 < of_md <= 0.5 * total
    purposes = [name for name in metrics if name.startswith("evaluations_")]
    assert sum(metrics[name]["value"] for name in purposes) == total


def test_scores_of_the_guide_are_counted_apart(run):
    """Of every state of denoising at a late step and of every late step of a trajectory, drawn or scored; none is among
    the evaluations of the energy."""
    metrics, config = run.load_metrics(), read_toml(run.path / "config.toml", RunConfig())
    train, n = config.train, config.train.schedule.n_steps
    late, updates = n - n // 3, train.warm_updates + train.updates
    drawn = metrics["evaluations_rollout"]["value"] + metrics["evaluations_smc"]["value"]
    denoised = train.batch.denoising // n * late * updates
    assert train.policy.guide
    assert metrics["guide_scores"]["value"] == late * (drawn + train.batch.balance * train.updates) + denoised
    assert metrics["guide_scores"]["value"] == float(run.read_metrics_rows()[-1]["guide_scores"])


def test_the_bounds_hold_log_z_between_them(run):
    """ELBO < log Z < EUBO; the first over the policy's samples, the second over frames of the reference."""
    metrics = run.load_metrics()
    assert metrics["elbo"]["value"] < -178.7 < metrics["eubo"]["value"] < 1e4
    assert 900 < metrics["eubo_trajectories"]["value"] <= EUBO_FRAMES


def checkpoint(run: RunDirectory) -> dict:
    return torch.load(run / "checkpoint.pt", weights_only=True)


TWICE = """
import os, sys
import torch._dynamo  # Adam asks for it
from molsampler.cli.main import run_aldp
from molsampler.molecules.loading.quiet_import import import_testsystems
import_testsystems()
config, others = sys.argv[1:3], sys.argv[3:]
for flags in (config, ["--resume"]):
    child = os.fork()
    if child == 0:
        sys.exit(run_aldp([*flags, *others]))
    print(child, flush=True)
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
"""


def wait_for_rows(child: int, run: RunDirectory, n: int) -> None:
    """Until metrics.csv has n rows."""
    end = time.monotonic() + 120.0
    while len(run.read_metrics_rows()) < n or not (run / "checkpoint.pt").is_file():
        os.kill(child, 0)  # it must still be at work
        assert time.monotonic() < end, "no rows"
        time.sleep(0.02)


def test_a_killed_run_goes_on_as_if_nothing_had_happened(run, folder):
    """kill -9 in denoising, --resume, SIGTERM in trajectory balance (status 130), --resume: the same figures and the
    same parameters as the run that was left alone. Both processes are forked from one, which has done the imports."""
    broken = RunDirectory(folder / "broken")
    command = [sys.executable, "-c", TWICE, "--config", str(folder / "tiny.toml"), "--out", str(broken.path), "--quiet"]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True, start_new_session=True) as both:
        try:
            child = int(both.stdout.readline())
            wait_for_rows(child, broken, 4)
            os.kill(child, signal.SIGKILL)
            assert int(both.stdout.readline()) == -signal.SIGKILL
            assert not (broken / "report.html").exists() and checkpoint(broken)["trainer"]["done"] < 300
            child = int(both.stdout.readline())
            wait_for_rows(child, broken, 22)
            os.kill(child, signal.SIGTERM)
            assert int(both.stdout.readline()) == 130
            done = checkpoint(broken)["trainer"]["done"]
            assert 220 <= done < 300 and not (broken / "report.html").exists()
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(both.pid, signal.SIGKILL)
    assert cli.run_aldp(["--out", str(broken.path), "--resume", "--quiet"]) == 0
    for one, two in zip(run.read_metrics_rows(), broken.read_metrics_rows(), strict=True):
        assert {**one, "seconds": ""} == {**two, "seconds": ""}
    whole, mended = (checkpoint(r)["trainer"]["learner"] for r in (run, broken))
    for part in ("policy", "averaged", "twist"):
        assert all(torch.equal(whole[part][name], mended[part][name]) for name in whole[part])
    assert torch.equal(whole["log_z"], mended["log_z"])
    with np.load(run / "weights.npz") as one, np.load(broken / "weights.npz") as two:
        assert all(np.array_equal(one[name], two[name]) for name in one.files)
    assert all((broken / name).is_file() for name in RESULTS)


def test_new_samples_by_smc_replace_the_old_ones(run, tmp_path, monkeypatch):
    """In a copy, and without the pictures."""
    monkeypatch.setattr(steps, "_draw", lambda *arguments: None)
    copy = RunDirectory(shutil.copytree(run.path, tmp_path / "copy"))
    assert cli.main(["sample", str(copy.path), "--n", "130", "--sampler", "smc", "--quiet"]) == 0
    assert_samples(copy, 3 * SMC_PASSES)
    with np.load(copy / "weights.npz") as stored:
        assert np.array_equal(stored["group"], np.repeat(np.arange(SMC_PASSES), 3))
    assert copy.load_metrics()["samples"]["value"] == 3 * SMC_PASSES
