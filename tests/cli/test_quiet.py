"""--quiet and say= have the last word: what loading, the energy and the compiler have to tell goes where they say."""

from __future__ import annotations

import os
import re
import subprocess
import sys

import pytest
import torch

import molsampler
from molsampler.basis import compilation
from molsampler.cli import main as cli
from molsampler.cli.output import NOT_READ, guarded
from molsampler.runs import results
from molsampler.store.config_file import to_toml
from tests import tiny
from tests.runs.systems import own_gly

NOTES = ("input.pdb: 2 models", "OpenMM (Reference) instead of torch", "torch.compile does not work here")
RESULTS = r"(ESS|log Z|energy evaluations|training|results:) .*"


@pytest.fixture(scope="module")
def system(tmp_path_factory):
    """gly with two models in its PDB file and a force that the torch kernels do not cover."""
    return own_gly(tmp_path_factory.mktemp("quiet") / "mine", uncovered=True, models=2)


@pytest.fixture
def config(monkeypatch):
    """Compiled where it can be, by a compiler that fails; energies by OpenMM's Reference platform."""

    def failing(function, **options):
        def compiled(*arguments):
            raise torch._dynamo.exc.TorchDynamoException("no compiler")

        return compiled

    threads = torch.get_num_threads()
    monkeypatch.setattr(torch, "compile", failing)
    monkeypatch.setattr(compilation, "_told", False)
    monkeypatch.setattr(results, "_MINIMISATION", 5)
    small = {"compile": True, "anneal": {"particles": 64, "moves": 1, "last_moves": 1}, "prefill": {"frames": 1}}
    yield tiny.molecule_config(backend="auto", platform="Reference", samples=32, train=small)
    torch.set_num_threads(threads)


def test_say_gets_every_note_and_stdout_none(system, config, tmp_path, capfd):
    said: list[str] = []
    with molsampler.start(str(system), tmp_path / "run", config, progress=False, say=said.append) as run:
        run.train()
        run.sample(32)
        run.analyse()
    with molsampler.resume(tmp_path / "run", progress=False, say=said.append) as run:
        run.sample(32)
    assert capfd.readouterr().out == ""
    for note in NOTES:
        assert any(note in line for line in said), note
    assert sum("2 models" in line for line in said) == 2  # once for each time that the run was set up


def test_quiet_leaves_the_results(system, config, tmp_path, capfd):
    (tmp_path / "tiny.toml").write_text(to_toml(config))
    out = str(tmp_path / "run")
    flags = ["train", str(system), "--config", str(tmp_path / "tiny.toml"), "--out", out, "--quiet"]
    for arguments in (flags, ["sample", out, "-n", "16", "--quiet"], ["analyse", out, "--quiet"]):
        compilation._told = False
        assert cli.main(arguments) == 0
        printed = capfd.readouterr()
        lines = printed.out.splitlines()
        assert len(lines) == 5 and all(re.fullmatch(RESULTS, line) for line in lines), printed.out
        assert "it/s" not in printed.err and "update" not in printed.err


def test_a_quiet_reference_prints_its_populations(system, tmp_path, capfd, monkeypatch):
    monkeypatch.setattr("molsampler.runs.reference.store_reference", lambda *arguments, **more: Stored)
    assert cli.main(["reference", str(system), "--out", str(tmp_path / "reference"), "--quiet"]) == 0
    assert capfd.readouterr().out.splitlines() == [f"reference: {tmp_path / 'reference'}"]


class Stored:
    populations: dict = {}


def test_check_tells_its_notes_in_place(system, capfd):
    assert cli.main(["check", str(system)]) == 0
    lines = capfd.readouterr().out.splitlines()
    assert [line for line in lines if "2 models" in line][0].startswith("note: ")
    assert [line for line in lines if "instead of torch" in line][0].startswith("note: ")


@pytest.mark.parametrize("buffered", ["", "1"], ids=["buffered", "unbuffered"])
@pytest.mark.parametrize("words", [["check", "gly"], ["--help"]], ids=["check", "help"])
def test_output_that_nobody_reads_ends_without_a_traceback(words, buffered):
    """As by `molsampler check gly | head -1`: the pipe's other end is closed before anything is said."""
    program = f"import sys, time; from molsampler.cli.main import main; time.sleep(0.2); sys.exit(main({words}))"
    command = [sys.executable, "-c", program]
    environment = {**os.environ, "PYTHONUNBUFFERED": buffered}
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment)
    process.stdout.close()
    told = process.stderr.read().decode()
    assert process.wait() == NOT_READ and "Traceback" not in told and "BrokenPipe" not in told


def test_a_broken_pipe_of_another_is_no_matter_of_output(capfd):
    """A worker that has died is told, whoever reads."""

    def lost():
        raise BrokenPipeError("of a worker")

    with pytest.raises(BrokenPipeError, match="of a worker"):
        guarded("molsampler", lost)
