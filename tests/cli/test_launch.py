"""Commands that several processes carry out: killed, stopped, resumed with another number, refused. Real processes."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import torch

from molsampler.cli import main as cli
from molsampler.cli import synthetic
from molsampler.cli.launch import GRACE
from molsampler.runs import synthetic as runs
from molsampler.runs.density import DensityRunDirectory, load_samples
from molsampler.runs.synthetic_config import SyntheticConfig
from molsampler.store.config_file import read_toml
from molsampler.store.run_directory import RESULTS, TEMPERATURES, RunDirectory
from tests import tiny
from tests.folders import contents

ROOT = Path(__file__).resolve().parents[2]
UPDATES = 900
LONG = tiny.merged(
    tiny.SYNTHETIC,
    {"samples": 2000, "threads": 1, "train": {"warm_updates": 450, "updates": 450, "evaluations": 90}},
)
linux = pytest.mark.skipif(not Path("/proc/self/task").is_dir(), reason="finds the ranks in /proc")


@pytest.fixture
def configured(tmp_path) -> Path:
    (tmp_path / "long.toml").write_text(tiny.toml(LONG))
    return tmp_path


@contextmanager
def running(*command: str) -> Iterator[subprocess.Popen]:
    """A command in a session of its own, of which nothing is left afterwards."""
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    with subprocess.Popen(
        [sys.executable, *command],
        env=environment, cwd=ROOT, start_new_session=True, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    ) as process:  # fmt: skip
        try:
            yield process
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)


def started(folder: Path, *flags: str):
    """A long run on gmm25 by two processes."""
    return running("scripts/run_synthetic.py", "gmm25", "--out", str(folder / "run"), "--quiet", *flags)


def new_run(folder: Path):
    return started(folder, "--config", str(folder / "long.toml"), "--processes", "2")


def ranks_of(process: subprocess.Popen) -> list[int]:
    """Process ids of the ranks, in their order."""
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    return [int(pid) for pid in children if b"spawn_main" in Path(f"/proc/{pid}/cmdline").read_bytes()]


def wait_for_rows(process: subprocess.Popen, run: RunDirectory, n: int) -> None:
    end = time.monotonic() + 120.0
    while len(run.read_metrics_rows()) < n or not (run / "checkpoint.pt").is_file():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < end, "no rows"
        time.sleep(0.05)


def ended(process: subprocess.Popen) -> tuple[int, list[str]]:
    """Exit status, and lines on standard error."""
    _, told = process.communicate(timeout=60.0)
    return process.returncode, told.splitlines()


def checkpoint(run: RunDirectory) -> dict:
    return torch.load(run / "checkpoint.pt", weights_only=True)["trainer"]


def none_left(process: subprocess.Popen) -> bool:
    """Whether all processes of its session have ended, or do within seconds: one that only watches is the last."""
    end = time.monotonic() + 5.0
    while time.monotonic() < end:
        try:
            os.killpg(process.pid, 0)
        except ProcessLookupError:
            return True
        time.sleep(0.05)
    return False


@linux
@pytest.mark.parametrize("victim", [0, 1], ids=["the one that writes", "another"])
def test_a_killed_rank_ends_the_run_in_seconds_and_one_process_goes_on(victim, configured):
    run = DensityRunDirectory(configured / "run")
    with new_run(configured) as process:
        wait_for_rows(process, run, 3)
        killed = ranks_of(process)[victim]
        begun = time.monotonic()
        os.kill(killed, signal.SIGKILL)
        status, told = ended(process)
        assert time.monotonic() - begun < GRACE + 5.0
        assert status == 1 and len(told) == 1, told
        assert f"process {victim + 1} of 2 was killed (SIGKILL)" in told[0] and "--resume" in told[0]
        assert none_left(process)
    done = checkpoint(run)["done"]
    assert 0 < done < UPDATES and not (run / "metrics.json").exists()
    with runs.resume(DensityRunDirectory.claim(run.path, resume=True), say=lambda text: None) as made:
        trainer = made.trainer
        assert trainer.done == done and made.config.processes == 1
        for _ in range(3):
            trainer.update()
        assert trainer.done == done + 3 and not trainer.learner.skipped


@linux
@pytest.mark.slow
def test_a_signal_stops_all_ranks_after_the_same_update(configured):
    """Ctrl-C, which reaches every process of the terminal, then SIGTERM to the command alone: status 130, a checkpoint
    of both ranks each time, and the run goes on from it with two processes, as its configuration says."""
    run = DensityRunDirectory(configured / "run")
    done = [0]
    for start, stop, number in (
        (new_run, lambda process: os.killpg(process.pid, signal.SIGINT), 3),
        (lambda folder: started(folder, "--resume"), lambda process: process.terminate(), None),
    ):
        with start(configured) as process:
            wait_for_rows(process, run, number or len(run.read_metrics_rows()) + 3)
            stop(process)
            status, told = ended(process)
            assert status == 130 and not told
            assert none_left(process)
        state = checkpoint(run)
        assert len(state["others"]) == 1 and done[-1] < state["done"] < UPDATES
        rows = [int(row["update"]) for row in run.read_metrics_rows()]
        assert rows == sorted(set(rows)) and rows[-1] <= state["done"]
        done.append(state["done"])
        assert read_toml(run / "config.toml", SyntheticConfig()).processes == 2


def test_what_all_ranks_refuse_is_said_once(configured, capfd):
    """A directory that holds a run is found by the ranks themselves; nothing in it is touched."""
    out = configured / "held"
    out.mkdir()
    (out / "metrics.json").write_text("{}")
    before = contents(out)
    arguments = ["gmm25", "--config", str(configured / "long.toml"), "--out", str(out), "--processes", "2", "--quiet"]
    assert synthetic.main(arguments) == 2
    (line,) = capfd.readouterr().err.splitlines()
    assert line.startswith("run_synthetic.py: ") and "already holds a run" in line
    assert {name: text for name, text in contents(out).items() if name != ".lock"} == before


@pytest.mark.parametrize("arguments", [["--processes", "-1"], ["--resume", "--processes", "2"]])
def test_bad_numbers_and_missing_runs_are_refused(arguments, configured, capfd):
    assert cli.run_aldp([*arguments, "--out", str(configured / "none"), "--quiet"]) == 2
    (line,) = capfd.readouterr().err.splitlines()
    assert "processes = -1" in line or "has no checkpoint.pt" in line


@pytest.mark.slow
def test_a_molecule_from_end_to_end_by_two_processes(tmp_path, capfd):
    """Trained and sampled by two, sampled again by SMC by two, resumed to be trained on by three."""
    (tmp_path / "brief.toml").write_text(tiny.toml(tiny.BRIEF))
    run = RunDirectory(tmp_path / "run")
    common = ["--out", str(run.path), "--quiet"]
    assert cli.main(["train", "gly", "--config", str(tmp_path / "brief.toml"), "--processes", "2", *common]) == 0
    said = capfd.readouterr().out
    assert said.count("ESS") == 1 and said.count("results:") == 1
    assert all((run / name).is_file() for name in RESULTS)
    samples = run.load_samples()
    assert len(samples.log_weights) == 160 and len(np.unique(samples.potential_energy)) > 150
    rows, metrics = run.read_metrics_rows(), run.load_metrics()
    assert [int(row["update"]) for row in rows] == [4, 8, 12, 16]
    assert metrics["evaluations"]["value"] == float(rows[-1]["energy_evaluations"])
    assert len(checkpoint(run)["others"]) == 1
    assert cli.main(["sample", str(run.path), "-n", "130", "--sampler", "smc", "--quiet"]) == 0
    again = run.load_samples()
    assert np.array_equal(again.group, np.repeat(np.arange(64), 3))
    assert cli.main(["train", "gly", "--resume", "--processes", "3", "--minutes", "0.1", *common]) == 0
    assert len(checkpoint(run)["others"]) == 2 and checkpoint(run)["done"] > 16
    assert run.load_metrics()["updates"]["value"] == checkpoint(run)["done"]


@pytest.mark.slow
def test_several_temperatures_by_two_processes(tmp_path, capfd):
    """Trained by two, sampled at another temperature by two, gone on with by one: every rank has the same guess of
    log Z(T), and its part of the samples of every temperature is there."""
    ladder = {"hottest": 500.0, "states": 128, "moves": 2, "looked_at": 3, "samples": 40}
    (tmp_path / "brief.toml").write_text(tiny.toml(tiny.merged(tiny.BRIEF, {"ladder": ladder})))
    run = RunDirectory(tmp_path / "run")
    common = ["--out", str(run.path), "--quiet"]
    assert cli.main(["train", "gly", "--config", str(tmp_path / "brief.toml"), "--processes", "2", *common]) == 0
    with np.load(run / TEMPERATURES, allow_pickle=False) as archive:
        assert np.array_equal(np.unique(archive["temperature"], return_counts=True)[1], [40, 40, 40])
        assert len(np.unique(archive["potential_energy"])) > 110
    coordinates = torch.load(run / "checkpoint.pt", weights_only=True)["coordinates"]
    assert float(coordinates["guess"].abs().max()) > 1.0
    assert cli.main(["sample", str(run.path), "-n", "130", "--temperature", "400", "--quiet"]) == 0
    samples = run.load_samples()
    assert samples.temperature == 400.0 and len(np.unique(samples.potential_energy)) > 120
    assert cli.main(["train", "gly", "--resume", "--processes", "1", "--minutes", "0.1", *common]) == 0
    assert "others" not in checkpoint(run) and checkpoint(run)["done"] > 16


@pytest.mark.slow
def test_conditions_by_two_processes(tmp_path, capfd):
    """SMC passes of one condition on each rank, replay by w / Z(c) over both shards; gone on with by one."""
    values = tiny.merged(tiny.SYNTHETIC, {"train": {"updates": 40}})
    (tmp_path / "tiny.toml").write_text(tiny.toml(values))
    out = tmp_path / "run"
    common = ["linear-gaussian", "--arms", "tb+smc+iw", "--out", str(out), "--quiet", "--threads", "1"]
    assert synthetic.main([*common, "--config", str(tmp_path / "tiny.toml"), "--processes", "2"]) == 0
    run = DensityRunDirectory(out)
    state = torch.load(out / "checkpoint.pt", weights_only=True)["trainer"]
    assert len(state["others"]) == 1 and sum(int(row["smc_runs"]) for row in run.read_metrics_rows()) > 0
    for held in (state["behaviours"]["buffer"], state["others"][0]["behaviours"]["buffer"]):
        assert held["size"] == len(held["offset"]) > 0 and float(held["offset"].std()) > 0.0
    assert run.load_metrics()["conditions"]["value"] == 64.0
    minutes = run.load_metrics()["training_seconds"]["value"] / 60.0 + 0.05
    assert synthetic.main([*common, "--resume", "--processes", "1", "--minutes", str(minutes)]) == 0
    assert "others" not in checkpoint(run) and checkpoint(run)["done"] > state["done"]


SCRIPT = """
import sys
import torch
import molsampler
from tests import tiny

def log_prob(x):
    return torch.logaddexp(-0.5 * (x - 2.0).square().sum(-1), -0.5 * (x + 2.0).square().sum(-1))

density = molsampler.Density(log_prob, 2, extent=3.0)
with molsampler.start(target=density, out=sys.argv[1], config=tiny.density_config(), progress=False) as run:
    assert run.train()
    samples = run.sample(501)
    metrics = run.analyse()
assert len(samples.log_weights) == 501
print("figures", len(metrics) > 0, flush=True)
"""


@pytest.mark.slow
def test_a_script_that_torchrun_starts_trains_in_all_its_processes(tmp_path):
    """A density of one's own from Python; log Z = log(4 pi) within 4.5 standard errors (7e-6 by chance)."""
    (tmp_path / "script.py").write_text(SCRIPT)
    torchrun = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    with running(*torchrun, str(tmp_path / "script.py"), str(tmp_path / "run")) as process:
        said, told = process.communicate(timeout=120.0)
    assert process.returncode == 0, told
    assert said.count("set-up took") == 1
    assert sorted(line for line in said.splitlines() if line.startswith("figures")) == ["figures False", "figures True"]
    assert len(load_samples(tmp_path / "run").x) == 501
    log_z = DensityRunDirectory(tmp_path / "run").load_metrics()["log_z_estimate"]
    assert log_z["stderr"] < 0.3 and abs(log_z["value"] - np.log(4.0 * np.pi)) < 4.5 * log_z["stderr"]
    assert len(checkpoint(DensityRunDirectory(tmp_path / "run"))["others"]) == 1
