"""Bad input on the command line: status 2 and one line on standard error that quotes the value; nothing is begun."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from molsampler.cli import main as cli
from molsampler.molecules.coordinates.chart import Chart
from molsampler.molecules.loading.load import load_molecule
from molsampler.store.run_directory import RunDirectory


@pytest.fixture(autouse=True)
def no_work(monkeypatch, tmp_path):
    """Nothing here may reach the set-up of a run."""

    def reached(*args, **kwargs):
        raise AssertionError("bad input reached the set-up")

    monkeypatch.setattr("molsampler.runs.molecule._foundations", reached)


def refused(capsys, status: int, *quoted: str) -> str:
    """The one line on standard error."""
    printed = capsys.readouterr()
    assert status == 2
    lines = printed.err.splitlines()
    assert len(lines) == 1, printed.err
    assert "Traceback" not in printed.err and all(value in lines[0] for value in quoted), lines[0]
    return lines[0]


@pytest.mark.parametrize(
    ("flags", "quoted"),
    [
        (["--minutes", "-1"], "-1"),
        (["--minutes", "0"], "0"),
        (["--minutes", "nan"], "nan"),
        (["--samples", "0"], "0"),
        (["--samples", "-5"], "-5"),
        (["--samples", "100", "--sampler", "smc"], "100"),
        (["--device", "cuda:7"], "cuda:7"),
        (["--device", "toaster"], "toaster"),
        (["--platform", "Foo"], "Foo"),
        (["--threads", "-2"], "-2"),
        (["--config", "nowhere.toml"], "nowhere.toml"),
        (["--resume"], "run"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_a_bad_flag_is_refused_in_one_line(flags, quoted, tmp_path, capsys):
    out = tmp_path / "run"
    refused(capsys, cli.run_aldp([*flags, "--out", str(out), "--quiet"]), quoted)
    assert not (out / "config.toml").exists() and not (out / "checkpoint.pt").exists()
    refused(capsys, cli.main(["train", "aldp", *flags, "--out", str(out), "--quiet"]), quoted)


@pytest.mark.parametrize(
    ("text", "quoted"),
    [
        ("samples = 0", "0"),
        ("sampels = 5", "sampels"),
        ('device = "cuda:7"', "cuda:7"),
        ('backend = "gromacs"', "gromacs"),
        ("[train]\nminutes = nan", "nan"),
        ("[train]\nminutes = -3", "-3"),
        ("not toml", "line 1"),
    ],
)
def test_a_bad_configuration_file_is_refused_in_one_line(text, quoted, tmp_path, capsys):
    path = tmp_path / "bad.toml"
    path.write_text(text)
    refused(capsys, cli.run_aldp(["--config", str(path), "--out", str(tmp_path / "run"), "--quiet"]), quoted)


def test_an_unknown_system_is_refused(tmp_path, capsys):
    line = refused(capsys, cli.main(["train", "unobtainium", "--out", str(tmp_path / "run")]), "'unobtainium'")
    assert "aldp" in line  # and says what there is
    refused(capsys, cli.main(["check", "unobtainium"]), "'unobtainium'")


def test_an_unknown_force_field_is_refused(tmp_path, capsys):
    folder = tmp_path / "mine"
    peptide = next((Path(__file__).parents[1] / "data" / "peptide").glob("*.pdb"))
    folder.mkdir()
    shutil.copy(peptide, folder / "in.pdb")
    (folder / "system.toml").write_text('temperature = 300.0\npdb = "in.pdb"\nforcefield = ["amber99x.xml"]\n')
    refused(capsys, cli.main(["train", str(folder), "--out", str(tmp_path / "run")]), "'amber99x.xml'")


def test_a_directory_in_use_is_refused(tmp_path, capsys):
    out = tmp_path / "run"
    held = RunDirectory.claim(out)
    try:
        refused(capsys, cli.run_aldp(["--out", str(out), "--preset", "smoke"]), str(out), "in use")
    finally:
        held.release()


def test_a_directory_that_holds_a_run_is_refused_and_kept(tmp_path, capsys):
    (tmp_path / "metrics.json").write_text("{}")
    refused(capsys, cli.run_aldp(["--out", str(tmp_path), "--preset", "smoke"]), str(tmp_path), "--overwrite")
    assert (tmp_path / "metrics.json").read_text() == "{}"


@pytest.mark.parametrize("content", [b"garbage \x00\xff" * 50, b"", b"PK\x03\x04 torn"], ids=["bytes", "empty", "torn"])
def test_an_unreadable_checkpoint_is_refused_and_the_directory_set_free(content, tmp_path, capsys):
    (tmp_path / "checkpoint.pt").write_bytes(content)
    for _ in range(2):  # the second time it is not "in use"
        refused(capsys, cli.run_aldp(["--out", str(tmp_path), "--resume"]), "checkpoint.pt", "cannot be read")
        refused(capsys, cli.main(["sample", str(tmp_path)]), "checkpoint.pt", "cannot be read")
        refused(capsys, cli.main(["analyse", str(tmp_path)]), "checkpoint.pt", "cannot be read")
    assert (tmp_path / "checkpoint.pt").read_bytes() == content


def test_a_run_that_is_not_there_is_refused_and_leaves_nothing_behind(tmp_path, capsys):
    never = tmp_path / "never"
    refused(capsys, cli.main(["sample", str(never), "-n", "10"]), "never", "train first")
    refused(capsys, cli.main(["analyse", str(never)]), "never", "train first")
    refused(capsys, cli.main(["sample", str(never), "--n", "0"]), "0")
    refused(capsys, cli.run_aldp(["--out", str(never), "--resume"]), "never", "train first")
    assert not never.exists()


def test_check_tells_the_soft_torsions(capsys):
    assert cli.main(["check", "aldp"]) == 0
    printed = capsys.readouterr().out
    molecule = load_molecule("aldp")
    chart = Chart(molecule)
    assert len(chart.soft_atoms) == 5 and "5 soft torsions" in printed
    for atoms in chart.soft_atoms.tolist():
        assert " ".join(molecule.atom_labels[i] for i in atoms) in printed
    assert "22 atoms" in printed and "kJ/mol" in printed and "energies with forces a second" in printed


@pytest.mark.parametrize(("flags", "quoted"), [(["--platform", "Foo"], "Foo"), (["--device", "cuda:7"], "cuda:7")])
def test_check_refuses_what_is_not_there(flags, quoted, capsys):
    refused(capsys, cli.main(["check", "aldp", *flags]), quoted)


def test_new_refuses_in_one_line_and_makes_nothing(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    refused(capsys, cli.main(["new", "mine"]), "--pdb with --forcefield")
    refused(capsys, cli.main(["new", "../mine", "--openmmtools", "TolueneVacuum"]), "'../mine'")
    assert list(tmp_path.iterdir()) == []


def test_seed_and_flags_stand_above_file_and_preset(tmp_path):
    path = tmp_path / "few.toml"
    path.write_text('samples = 33\nsystem = "gly"\n[train]\nseed = 5\nupdates = 7\nwarm_updates = 8\n')
    options = cli.Options(preset="smoke", config=path, seed=9)
    config = options.resolve("aldp")
    assert (config.samples, config.train.seed, config.train.updates, config.system) == (33, 9, 7, "aldp")
    timed = cli.Options(preset="smoke", config=path, minutes=2.5, platform="Reference", samples=4).resolve("aldp")
    assert (timed.train.minutes, timed.train.updates, timed.train.warm_updates) == (2.5, None, None)
    assert (timed.backend, timed.platform, timed.samples) == ("openmm", "Reference", 4)
    path.write_text("[train]\nminutes = 4\n")  # the preset's numbers of updates do not stand against it
    timed = cli.Options(preset="smoke", config=path).resolve("aldp")
    assert (timed.train.minutes, timed.train.updates, timed.train.warm_updates) == (4.0, None, None)
    path.write_text("[train]\nminutes = 4\nupdates = 7\n")
    timed = cli.Options(preset="smoke", config=path).resolve("aldp")
    assert (timed.train.minutes, timed.train.updates, timed.train.warm_updates) == (4.0, 7, None)


def test_the_package_runs_as_a_module(tmp_path):
    """`python -m molsampler`, for those whose PATH does not hold the environment's commands."""
    command = [sys.executable, "-m", "molsampler", "check", "nosuch"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 2 and "nosuch" in done.stderr and "Traceback" not in done.stderr


@pytest.mark.parametrize("command", ["new", "check", "train", "sample", "analyse", "reference"])
def test_every_option_is_explained(command, capsys):
    """In words of its own, not by its name and default alone."""
    with pytest.raises(SystemExit) as stopped:
        cli.main([command, "--help"])
    assert stopped.value.code == 0
    lines = [re.sub("^[|\u2502 ] | *[|\u2502]$", "", line) for line in capsys.readouterr().out.splitlines()]
    text = "\n".join(
        line for line in lines if not re.search("-----|\u2500\u2500\u2500|^ ?options$", line.rstrip())
    )  # without the frames
    entries = re.split(r"\n(?=-|STR|PATH)", text)[1:]
    assert len(entries) >= 3
    for entry in entries:
        words = re.sub(r"\((default: .*?|required)\)|-[-\w]+(, )?|\{.*?\}|\b[A-Z]+\b|[|\[\]]|\.\.\.", " ", entry)
        assert len(words.split()) >= 2, entry


def test_a_reference_needs_a_folder_that_can_be_written(tmp_path, capsys):
    (tmp_path / "file").write_text("")
    place = str(tmp_path / "file" / "reference")
    refused(capsys, cli.main(["reference", "gly", "--out", place, "--quiet"]), place, "--out")
