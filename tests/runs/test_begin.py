"""A new run in a directory that holds one: whatever is wrong with it is found before anything is lost or computed."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pytest

import molsampler
from molsampler.basis.settings import change
from molsampler.cli import main as cli
from molsampler.runs import molecule
from molsampler.runs.presets import preset
from tests import tiny
from tests.folders import contents
from tests.runs.systems import own_gly

SECONDS = 10.0  # of the processor: to read a system and its force field, and no more

BAD: dict[str, tuple[dict[str, Any], str]] = {
    "device": ({"device": "cuda:7"}, "'cuda:7'"),
    "platform": ({"platform": "Foo"}, "'Foo'"),
    "threads": ({"threads": -2}, "threads = -2"),
    "samples": ({"samples": 0}, "samples = 0"),
    "samples of SMC": ({"samples": 100, "sampler": "smc"}, "100 samples are too few for SMC"),
    "sampler": ({"sampler": "gibbs"}, "'gibbs'"),
    "sampler without a twist": ({"sampler": "smc", "train": {"objective": "reverse_kl"}}, "reverse_kl"),
    "backend": ({"backend": "gromacs"}, "'gromacs'"),
    "backend that does not cover a force": ({"system": "uncovered", "backend": "torch"}, "CustomCompoundBondForce"),
    "system": ({"system": "unobtainium"}, "'unobtainium'"),
    "minutes": ({"train": {"minutes": -1.0}}, "minutes = -1.0"),
    "no minutes": ({"train": {"minutes": float("nan")}}, "minutes = nan"),
    "nothing to train": ({"train": {"warm_updates": 0, "updates": 0}}, "train nothing"),
    "moved angles": ({"train": {"smc": {"moves": 2}}}, "not drawn yet"),
    "moved by energy": (
        {"train": {"smc": {"moves": 2}, "twist": {"partial_energy": True}, "schedule": {"torsions": "joint"}}},
        "partial_energy = true puts the energy into it",
    ),
    "chunk": ({"train": {"smc": {"chunk": 5}}}, "chunk of 5 steps does not divide the 12"),
    "kernel": ({"train": {"anneal": {"kernel": "gibbs"}}}, "'gibbs'"),
    "process": ({"train": {"schedule": {"process": "brownian", "torsions": "joint"}}}, "brownian"),
    "batch": ({"train": {"batch": {"replay_updates": -1}}}, "replay_updates = -1"),
    "moves": ({"train": {"moves": {"kind": "walk"}}}, "'walk'"),
    "replay": ({"train": {"replay": {"draw": "oldest"}}}, "'oldest'"),
    "width": ({"train": {"policy": {"width": 0}}}, "width = 0"),
    "time step": ({"setup": {"timestep": 0.0}}, "timestep = 0"),
    "particles": ({"train": {"anneal": {"particles": 40}}}, "anneal.particles = 40 states"),
    "frames": ({"setup": {"chains": 1}}, "25 states cannot standardise the 47 stiff coordinates of 'gly'"),
    "type": ({"train": {"seed": 1.5}}, "seed = 1.5"),
}


@pytest.fixture
def old(tmp_path, monkeypatch) -> Path:
    """A directory with the files of an old run; what follows its checks is not reached."""

    def reached(*arguments, **more):
        raise AssertionError("the set-up was reached")

    for name in ("make_energy", "short_md"):
        monkeypatch.setattr(molecule, name, reached)
    monkeypatch.chdir(tmp_path)
    own_gly(tmp_path / "systems" / "uncovered", uncovered=True)
    folder = tmp_path / "old"
    folder.mkdir()
    for name in ("config.toml", "metrics.csv", "checkpoint.pt", "samples.dcd", "metrics.json", "notes.txt"):
        (folder / name).write_text(f"old {name}")
    return folder


@pytest.mark.parametrize("case", BAD)
def test_python_refuses_before_anything_is_removed(case, old):
    changes, words = BAD[case]
    config, before, begun = change(preset("cpu"), **changes), contents(old), time.process_time()
    with pytest.raises(molsampler.InputError) as refused:
        molsampler.start(changes.get("system", "gly"), old, config, overwrite=True, say=lambda text: None)
    assert words in str(refused.value) and "\n" not in str(refused.value)
    assert contents(old) == before and time.process_time() - begun < SECONDS


@pytest.mark.parametrize("case", BAD)
def test_the_command_line_refuses_before_anything_is_removed(case, old, capsys):
    changes, words = BAD[case]
    settings = {name: value for name, value in changes.items() if name != "system"}
    Path("bad.toml").write_text(tiny.toml(settings))
    before, begun = contents(old), time.process_time()
    flags = ["--config", "bad.toml", "--out", str(old), "--overwrite"]
    assert cli.main(["train", changes.get("system", "gly"), *flags]) == 2
    printed = capsys.readouterr()
    (line,) = printed.err.splitlines()
    assert words in line and printed.out == ""
    assert contents(old) == before and time.process_time() - begun < SECONDS


def test_an_old_run_is_kept_until_the_new_one_is_set_up(old, monkeypatch):
    """Even where the set-up itself fails or is interrupted; then the directory is free again."""
    before = contents(old)
    for error in (KeyboardInterrupt, molsampler.InputError("clashes")):

        def broken(*arguments, error=error):
            raise error

        monkeypatch.setattr(molecule, "_foundations", lambda config, say: (None, Energy()))
        monkeypatch.setattr(molecule, "_set_up", broken)
        closed.clear()
        with pytest.raises(type(error) if isinstance(error, Exception) else error):
            molsampler.start("gly", old, overwrite=True, say=lambda text: None)
        assert contents(old) == before and closed == ["energy"]
        molecule.RunDirectory.claim(old, overwrite=True).release()


closed: list[str] = []


class Energy:
    """One that tells that it was closed."""

    def close(self) -> None:
        closed.append("energy")


def test_a_run_is_named_by_the_folder_of_its_system(tmp_path, monkeypatch):
    folder = own_gly(tmp_path / "systems" / "mine")
    for given in ("mine", folder, folder / "system.toml", Path(".")):
        monkeypatch.chdir(folder if given == Path(".") else tmp_path)
        assert molecule.default_folder(str(given)) == Path("runs/mine"), given
