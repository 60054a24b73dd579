"""Going on with a run: with what it had, for longer, and with a sentence where that cannot be."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

import molsampler
from molsampler.cli import main as cli
from molsampler.molecules.loading.load import find_system_folder
from molsampler.runs import molecule
from molsampler.runs.molecule import RunConfig
from molsampler.store.checkpoint import FORMAT
from molsampler.store.config_file import read_toml
from molsampler.store.run_directory import RunDirectory
from tests.folders import contents


def silent(text: str) -> None:
    pass


def resumed(folder: Path, *flags: str, system: str = "gly") -> int:
    return cli.main(["train", system, "--resume", "--out", str(folder), "--quiet", *flags])


@pytest.mark.parametrize(
    ("system", "flags", "words"),
    [
        ("aldp", [], ("a run of 'gly', not of 'aldp'", "--out")),
        ("gly", ["--seed", "5"], ("seed 0, not 5",)),
        ("gly", ["--config", "x.toml"], ("leave out --config",)),
        ("gly", ["--preset", "smoke"], ("leave out --preset",)),
        ("gly", ["--overwrite"], ("leave out --overwrite",)),
        ("gly", ["--minutes", "0.0001"], ("minutes = 0.0001 adds nothing", "already")),
        ("gly", ["--minutes", "nan"], ("minutes = nan",)),
        ("gly", ["--device", "toaster"], ("'toaster'",)),
        ("gly", ["--platform", "Foo"], ("'Foo'",)),
        ("gly", ["--threads", "-1"], ("threads = -1",)),
        ("gly", ["--samples", "0"], ("samples = 0",)),
        ("gly", ["--samples", "100", "--sampler", "smc"], ("100 samples are too few for SMC",)),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_what_does_not_belong_to_the_run_is_refused_and_nothing_touched(system, flags, words, finished, capsys):
    before = contents(finished)
    assert resumed(finished, *flags, system=system) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert all(word in line for word in words), line
    assert contents(finished) == before
    RunDirectory.claim(finished, resume=True).release()  # and it was set free


def test_the_system_may_be_named_in_any_way(finished, monkeypatch):
    monkeypatch.setattr(molecule, "resume", lambda *arguments: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):  # it came to the resuming itself
        molecule.go_on(finished, system=str(find_system_folder("gly") / "system.toml"), say=silent)


@pytest.mark.usefixtures("plain_analysis")
@pytest.mark.usefixtures("plain_analysis")
def test_threads_device_samples_and_sampler_are_honoured_and_kept(finished):
    assert resumed(finished, "--threads", "2", "--device", "cpu", "--samples", "130", "--sampler", "smc") == 0
    assert torch.get_num_threads() == 2
    samples = molsampler.load_samples(finished)
    assert len(samples.log_weights) == 192 and samples.group is not None
    config = read_toml(finished / "config.toml", RunConfig())
    assert (config.threads, config.samples, config.sampler) == (2, 130, "smc")


@pytest.mark.usefixtures("plain_analysis")
def test_more_minutes_train_a_finished_run_on(finished):
    """What it has stays; updates, rows and report are of the longer run."""
    run = RunDirectory(finished)
    rows, report, spent = run.read_metrics_rows(), (run / "report.html").read_bytes(), run.load_metrics()
    assert [int(row["update"]) for row in rows] == [4, 8, 12, 16]
    minutes = 5.0 * spent["training_seconds"]["value"] / 60.0
    assert resumed(finished, "--minutes", str(minutes)) == 0
    after, metrics = run.read_metrics_rows(), run.load_metrics()
    assert after[: len(rows)] == rows and len(after) > len(rows)
    config = read_toml(run / "config.toml", RunConfig())
    total = config.train.warm_updates + config.train.updates
    assert int(after[-1]["update"]) == metrics["updates"]["value"] == total > 24
    assert config.train.minutes == minutes and config.train.warm_updates == 8
    assert metrics["evaluations"]["value"] > spent["evaluations"]["value"]
    assert (run / "report.html").read_bytes() != report


def test_more_minutes_from_python(finished):
    with molsampler.resume(finished, minutes=0.05, progress=False, say=silent) as run:
        planned = run.job.trainer.total
        assert planned > 16 and run.train() and run.job.trainer.done == planned
        longer = run.job.trainer.seconds / 60.0 + 0.03
        with pytest.raises(molsampler.InputError, match="minutes = 0.001 adds nothing"):
            run.train(minutes=0.001)
        assert run.train(minutes=longer) and run.job.trainer.done > planned
    config = read_toml(finished / "config.toml", RunConfig())
    assert config.train.updates + config.train.warm_updates == run.job.trainer.done


def changed_checkpoint(folder: Path, **changes) -> None:
    state = torch.load(folder / "checkpoint.pt", weights_only=True)
    torch.save({**state, **changes}, folder / "checkpoint.pt")


def own_system(finished: Path, folder: Path) -> Path:
    """The run's system as a folder of its own, which its checkpoint names."""
    shutil.copytree(find_system_folder("gly"), folder)
    config = torch.load(finished / "checkpoint.pt", weights_only=True)["config"]
    changed_checkpoint(finished, config={**config, "system": str(folder)})
    return folder


def test_a_state_that_does_not_fit_is_called_so(finished):
    state = torch.load(finished / "checkpoint.pt", weights_only=True)["trainer"]
    del state["learner"]["twist"]
    changed_checkpoint(finished, trainer=state)
    for _ in range(2):
        with pytest.raises(molsampler.InputError, match="does not fit this version of molsampler.*twist"):
            molsampler.resume(finished, say=silent)


@pytest.mark.parametrize("error", [RuntimeError("a worker of OpenMM died"), ValueError("no context")])
def test_an_error_of_the_energy_keeps_its_own_words(error, finished, monkeypatch):
    def broken(*arguments, **more):
        raise error

    monkeypatch.setattr(molecule, "make_energy", broken)
    with pytest.raises(type(error), match=str(error)):
        molsampler.resume(finished, say=silent)


def test_an_error_of_the_system_keeps_its_own_words(finished, tmp_path):
    folder = own_system(finished, tmp_path / "mine")
    text = (folder / "system.toml").read_text()
    (folder / "system.toml").write_text(text.replace("amber14-all.xml", "amber99x.xml"))
    with pytest.raises(molsampler.InputError, match="no force field 'amber99x.xml'"):
        molsampler.resume(finished, say=silent)
    shutil.rmtree(folder)
    with pytest.raises(molsampler.InputError, match="no system.toml found for molecule '.*mine'"):
        molsampler.resume(finished, say=silent)
    assert len(molsampler.load_samples(finished).log_weights) == 160


def test_another_molecule_in_the_folder_does_not_fit(finished, tmp_path):
    folder = own_system(finished, tmp_path / "mine")
    shutil.rmtree(folder)
    shutil.copytree(find_system_folder("ala2"), folder)
    with pytest.raises(molsampler.InputError, match="another molecule or other soft torsions"):
        molsampler.resume(finished, say=silent)


@pytest.mark.usefixtures("plain_analysis")
def test_a_run_of_an_older_format_is_refused_in_one_sentence_and_its_samples_read(finished, capsys):
    """As version 0.1.0 wrote them: a checkpoint without a format, and weights.npz without ancestors."""
    samples = molsampler.load_samples(finished)
    state = torch.load(finished / "checkpoint.pt", weights_only=True)
    del state["format"], state["kind"]
    torch.save({**state, "version": "0.1.0"}, finished / "checkpoint.pt")
    before = contents(finished)
    for arguments in (["sample", str(finished)], ["analyse", str(finished)]):
        assert cli.main([*arguments, "--quiet"]) == 2
        (line,) = capsys.readouterr().err.splitlines()
        assert "format 1, written by molsampler 0.1.0" in line and f"format {FORMAT} only" in line
    assert resumed(finished) == 2
    with pytest.raises(molsampler.InputError, match="the samples beside it can be read"):
        molsampler.resume(finished, say=silent)
    assert contents(finished) == before
    again = molsampler.load_samples(finished)
    np.testing.assert_array_equal(again.log_weights, samples.log_weights)
    assert again.distinct_ancestors is None and again.trajectory.n_frames == 160


def test_a_run_of_another_kind_says_how_to_go_on(finished, capsys):
    changed_checkpoint(finished, kind="density")
    assert cli.main(["sample", str(finished), "--quiet"]) == 2
    assert "a run on a density of one's own" in capsys.readouterr().err
    with pytest.raises(molsampler.InputError, match="molsampler.resume\\(out, target=...\\)"):
        molsampler.resume(finished, say=silent)
