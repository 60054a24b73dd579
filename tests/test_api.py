"""The functions of `import molsampler`, and the example of docs/PYTHON_API.md as it stands there."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

import molsampler
from molsampler import api
from molsampler.basis.settings import change
from molsampler.runs import molecule
from molsampler.runs.molecule import RunConfig
from molsampler.store.config_file import read_toml
from molsampler.store.run_directory import RunDirectory
from tests import tiny
from tests.molecules.structures import dipeptide_atoms, written

DOC = Path(__file__).resolve().parents[1] / "docs" / "PYTHON_API.md"


@pytest.fixture
def here(tmp_path, monkeypatch) -> Path:
    """A directory with my_peptide.pdb, where presets are a run of seconds and one thread."""
    monkeypatch.chdir(tmp_path)
    written(tmp_path / "my_peptide.pdb", *dipeptide_atoms())
    (tmp_path / "tiny.toml").write_text(tiny.toml(tiny.MOLECULE))
    config = read_toml(tmp_path / "tiny.toml", RunConfig())
    config = change(config, train={"warm_updates": 20, "updates": 10, "evaluations": 3})
    monkeypatch.setattr(api, "preset", lambda name: config)
    threads = torch.get_num_threads()
    yield tmp_path
    torch.set_num_threads(threads)


@pytest.mark.slow
def test_the_example_in_the_documentation_runs(here, capsys):
    (example,) = re.findall(r"```python\n(.*?)```", DOC.read_text(encoding="utf-8"), re.DOTALL)
    names: dict = {}
    exec(compile(example, str(DOC), "exec"), names)
    printed = capsys.readouterr().out
    assert "ESS" in printed and "P(phi > 0) =" in printed
    assert (here / "runs" / "my_peptide" / "report.html").is_file() and (here / "systems" / "my_peptide").is_dir()
    samples = names["samples"]
    assert samples.trajectory.n_frames == 1000 and samples.trajectory.n_atoms == 22
    assert samples.weights.sum() == pytest.approx(1.0)
    assert names["metrics"]["ess"]["value"] == pytest.approx(1.0 / (samples.weights**2).sum() / 1000, rel=1e-6)


def test_every_name_is_documented_and_offered_in_both_places():
    assert sorted(molsampler.__all__) == sorted(api.__all__)
    assert set(molsampler.__all__) <= set(dir(molsampler))
    text = DOC.read_text(encoding="utf-8")
    for name in molsampler.__all__:
        assert getattr(molsampler, name) is getattr(api, name) and name in text, name
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        molsampler.nothing  # noqa: B018


def test_importing_the_package_is_quick():
    """Nothing heavy is imported before it is used."""
    code = "import sys, molsampler; print([m for m in ('torch', 'openmm', 'mdtraj', 'numpy') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert (done.stdout.strip(), done.stderr) == ("[]", "")


def test_a_run_is_resumed_and_sampled_again(here):
    out = here / "runs" / "again"
    with molsampler.start("aldp", out, progress=False, say=lambda text: None) as run:
        assert run.train()
        first = run.sample(150)
    assert run.path == out and run.molecule.n_atoms == 22 and first.trajectory.n_frames == 150
    with pytest.raises(molsampler.InputError, match="already holds a run"):
        molsampler.start("aldp", out, say=lambda text: None)
    with molsampler.resume(out, progress=False, say=lambda text: None) as run:
        again = run.sample(150)
    np.testing.assert_array_equal(again.log_weights, first.log_weights)


def test_bad_input_is_refused(here):
    with pytest.raises(molsampler.InputError, match="no 'forcefields'; it takes pdb, forcefield"):
        molsampler.new("mine", pdb="my_peptide.pdb", forcefields=["amber96.xml"])
    with pytest.raises(molsampler.InputError, match="a system or a target"):
        molsampler.start()
    with pytest.raises(molsampler.InputError, match="a DensityConfig: a run of this kind takes a RunConfig"):
        molsampler.start("aldp", here / "run", molsampler.DensityConfig())
    assert not (here / "run").exists()


def test_minutes_take_the_place_of_numbers_of_updates(here, monkeypatch):
    seen = []

    def stopped(config, run, say):
        seen.append(config)
        raise KeyboardInterrupt

    monkeypatch.setattr(molecule, "start", stopped)
    with pytest.raises(KeyboardInterrupt):
        molsampler.start("aldp", here / "run", minutes=2)
    assert (seen[0].train.minutes, seen[0].train.updates, seen[0].train.warm_updates) == (2, None, None)
    RunDirectory.claim(here / "run").release()  # the directory was set free
