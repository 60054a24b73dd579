"""The files of a run: round trips, rows that survive a kill, and what is refused."""

from __future__ import annotations

import errno
import json
import os
import subprocess
import sys
from pathlib import Path

import mdtraj as md
import numpy as np
import pytest

from molsampler.basis.errors import InputError
from molsampler.store.atomic import atomic_path, plain, write_json
from molsampler.store.run_directory import RUN_FILES, RunDirectory, resample


@pytest.fixture
def sampled(peptide, mixture, tmp_path) -> tuple[RunDirectory, np.ndarray, np.ndarray]:
    """A run of 200 frames: run, angles (200, 2) and log-weights (200,), a tenth of them -inf."""
    rng = np.random.default_rng(0)
    angles, _ = mixture(rng, 200, [0.4, 0.3, 0.2, 0.1])
    log_w = rng.normal(size=200) - 60.0
    log_w[::10] = -np.inf
    run = RunDirectory.claim(tmp_path / "run")
    energy = rng.normal(size=200)
    energy[::10] = np.inf
    run.write_samples(peptide.frames(angles), peptide.openmm_topology, log_w, energy, log_w + 1.0)
    yield run, angles, log_w
    run.release()


def test_samples_open_in_mdtraj_and_come_back(sampled, peptide) -> None:
    run, angles, log_w = sampled
    frames = md.load(str(run / "samples.dcd"), top=str(run / "topology.pdb"))
    assert np.abs(frames.xyz - peptide.frames(angles)).max() < 1e-6
    assert [str(a) for a in frames.topology.atoms] == [str(a) for a in peptide.topology.atoms]
    gap = md.compute_psi(frames)[1][:, 0] - angles[:, 1]
    assert np.abs((gap + np.pi) % (2 * np.pi) - np.pi).max() < 1e-3
    samples = run.load_samples()
    assert np.array_equal(samples.log_weights, log_w)
    assert np.array_equal(samples.log_prob, log_w + 1.0)
    assert np.isinf(samples.potential_energy).sum() == 20
    assert samples.weights.sum() == pytest.approx(1.0) and samples.group is None
    with np.load(run / "weights.npz") as archive:
        assert sorted(archive.files) == ["log_prob", "log_weights", "potential_energy"]


def test_resampled_frames_are_samples_with_weight_as_many_as_the_ess_allows(sampled, peptide) -> None:
    run, angles, log_w = sampled
    weights = run.load_samples().weights
    frames = md.load(str(run / "resampled.dcd"), top=str(run / "topology.pdb"))
    assert frames.n_frames == int(1 / np.square(weights).sum()) < 180
    allowed = peptide.frames(angles)[np.isfinite(log_w)]
    nearest = np.abs(frames.xyz[:, None] - allowed[None]).max((-1, -2)).min(1)
    assert nearest.max() < 1e-6


def test_resampling_follows_the_weights_and_never_picks_zero() -> None:
    rng = np.random.default_rng(1)
    weights = rng.random(50) * (rng.random(50) > 0.3)
    weights[[0, -1]] = 0.0
    weights /= weights.sum()
    counts = np.zeros(50)
    offsets = (np.arange(1000) + 0.5) / 1000
    for offset in [0.0, *offsets, 1 - 1e-12]:
        picked = resample(weights, offset)
        assert (weights[picked] > 0).all()
        if offset in offsets:
            counts += np.bincount(picked, minlength=50) / len(picked) / 1000
    assert np.abs(counts - weights).max() < 1e-4


def test_no_sample_on_the_support_leaves_no_resampled_frames(peptide, tmp_path) -> None:
    run = RunDirectory(tmp_path)
    args = (np.repeat(peptide.positions[None], 3, 0), peptide.openmm_topology)
    run.write_samples(*args, np.zeros(3), np.zeros(3), np.zeros(3))
    assert (run / "resampled.dcd").exists()
    run.write_samples(*args, np.full(3, -np.inf), np.full(3, np.inf), np.full(3, -np.inf))
    assert not (run / "resampled.dcd").exists()
    assert run.load_samples().weights is None


def test_samples_that_are_not_finite_or_do_not_fit_are_refused(peptide, tmp_path) -> None:
    run, zeros = RunDirectory(tmp_path), np.zeros(2)
    positions = np.repeat(peptide.positions[None], 2, 0)
    broken = positions.copy()
    broken[1, 3, 0] = np.nan
    with pytest.raises(ValueError, match="finite"):
        run.write_samples(broken, peptide.openmm_topology, zeros, zeros, zeros)
    with pytest.raises(ValueError, match="log_prob"):
        run.write_samples(positions, peptide.openmm_topology, zeros, zeros, np.zeros(3))
    with pytest.raises(ValueError, match="log_weights"):
        run.write_samples(positions, peptide.openmm_topology, np.array([0.0, np.nan]), zeros, zeros)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("damage", ["missing", "torn", "fewer"])
def test_damaged_samples_are_refused_in_one_sentence(sampled, damage) -> None:
    run, _, log_w = sampled
    if damage == "missing":
        (run / "weights.npz").unlink()
    elif damage == "torn":
        (run / "weights.npz").write_bytes((run / "weights.npz").read_bytes()[:100])
    else:
        np.savez(run / "weights.npz", log_weights=log_w[1:], potential_energy=log_w[1:], log_prob=log_w[1:])
    with pytest.raises(InputError, match="molsampler sample"):
        run.load_samples()


def test_metrics_are_strict_json_with_null_for_what_is_undefined(tmp_path) -> None:
    run = RunDirectory(tmp_path)
    run.write_metrics(
        {"ess": (np.float64(0.25), np.nan), "log_z": np.inf, "samples": 10, "elbo": {"value": 1, "stderr": 2}}
    )

    def refuse(token: str) -> None:
        raise AssertionError(token)

    found = json.loads((run / "metrics.json").read_text(), parse_constant=refuse)
    assert found["ess"] == {"value": 0.25, "stderr": None}
    assert found["log_z"] == {"value": None, "stderr": None}
    assert found["samples"] == {"value": 10, "stderr": None}
    assert run.load_metrics() == found


def test_rows_after_the_checkpoint_are_dropped_and_new_columns_join(tmp_path) -> None:
    run = RunDirectory(tmp_path)
    assert run.metrics_columns() == {}
    for update in (0, 10, 20, 30):
        run.append_metrics_row({"update": update, "loss": 1 / (update + 3), "elbo": np.nan})
    run.truncate_metrics(10)
    run.append_metrics_row({"update": 20, "loss": 0.5, "ess": np.float32(0.25)})
    columns = run.metrics_columns()
    assert list(columns) == ["update", "loss", "elbo", "ess"]
    assert columns["update"].tolist() == [0, 10, 20]
    assert columns["loss"].tolist() == [1 / 3, 1 / 13, 0.5]  # read back to the last bit
    assert np.isnan(columns["elbo"]).all() and columns["ess"][2] == 0.25


def test_a_torn_last_line_is_left_out(tmp_path) -> None:
    run = RunDirectory(tmp_path)
    run.append_metrics_row({"update": 0, "loss": 2.0})
    with open(run / "metrics.csv", "a") as handle:
        handle.write("1")
    run.append_metrics_row({"update": 2, "loss": 1.0})
    assert run.metrics_columns()["update"].tolist() == [0, 2]


def test_a_directory_that_holds_a_run_is_refused_unless_told(tmp_path) -> None:
    path = tmp_path / "run"
    with pytest.raises(InputError, match="no checkpoint"):
        RunDirectory.claim(path, resume=True)
    run = RunDirectory.claim(path)
    run.append_metrics_row({"update": 0})
    (run / "notes.txt").write_text("mine")
    run.release()
    with pytest.raises(InputError, match=r"already holds a run \(metrics.csv is there\)"):
        RunDirectory.claim(path)
    (run / "checkpoint.pt").write_bytes(b"x")
    RunDirectory.claim(path, resume=True).release()
    assert (run / "metrics.csv").exists()
    run = RunDirectory.claim(path, overwrite=True)
    assert (run / "metrics.csv").exists()  # until the new run is ready
    run.clear()
    run.release()
    assert not any((run / name).exists() for name in RUN_FILES)
    assert (run / "notes.txt").read_text() == "mine"


def test_a_path_that_cannot_be_a_directory_is_refused(tmp_path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="cannot be written to"):
        RunDirectory.claim(tmp_path / "file")
    with pytest.raises(InputError, match="cannot be written to"):
        RunDirectory.claim(tmp_path / "file" / "below")


@pytest.mark.skipif(os.name == "nt", reason="no lock on Windows")
def test_a_directory_in_use_is_refused_until_the_other_process_dies(tmp_path) -> None:
    code = (
        "import sys, time; from molsampler.store.run_directory import RunDirectory; "
        "run = RunDirectory.claim(sys.argv[1]); print('held', flush=True); time.sleep(60)"
    )
    root = str(Path(__file__).parents[2])
    other = subprocess.Popen(
        [sys.executable, "-c", code, str(tmp_path)], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, cwd=root
    )
    try:
        assert other.stdout.readline() == b"held\n"
        with pytest.raises(InputError, match="in use by another"):
            RunDirectory.claim(tmp_path)
    finally:
        other.kill()
        other.wait()
    RunDirectory.claim(tmp_path).release()


@pytest.mark.skipif(os.name == "nt", reason="no lock on Windows")
@pytest.mark.parametrize("name", ["ENOTSUP", "ENOLCK", "ENOSYS"])
def test_a_file_system_without_locks_is_a_warning(name, tmp_path, monkeypatch) -> None:
    number = getattr(errno, name)

    def flock(handle: int, how: int) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr("molsampler.store.lock.fcntl.flock", flock)
    said: list[str] = []
    run = RunDirectory.claim(tmp_path, say=said.append)
    (words,) = said
    assert words.startswith(f"warning: '{tmp_path}' is on a file system without locks ({os.strerror(number)})")
    run.append_metrics_row({"update": 0})
    run.release()


@pytest.mark.skipif(os.name == "nt", reason="no lock on Windows")
def test_a_folder_that_cannot_be_locked_is_refused(tmp_path, monkeypatch) -> None:
    def flock(handle: int, how: int) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr("molsampler.store.lock.fcntl.flock", flock)
    with pytest.raises(InputError, match="cannot be locked"):
        RunDirectory.claim(tmp_path)


def test_a_write_that_fails_leaves_the_old_file(tmp_path) -> None:
    path = tmp_path / "a.json"
    write_json(path, {"x": 1})
    with pytest.raises(RuntimeError), atomic_path(path) as temporary:
        temporary.write_text("half")
        raise RuntimeError
    assert json.loads(path.read_text()) == {"x": 1}
    assert [p.name for p in tmp_path.iterdir()] == ["a.json"]


def test_plain_values_for_json() -> None:
    value = plain({"a": np.float32(np.nan), 1: (np.int64(3), np.array([1.0, np.inf])), "p": Path("x"), "b": np.True_})
    assert value == {"a": None, "1": [3, [1.0, None]], "p": "x", "b": True}
    with pytest.raises(TypeError, match="object"):
        plain({"x": object()})
