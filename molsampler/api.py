"""What a script needs, in a few functions that `import molsampler` offers; docs/PYTHON_API.md shows them at work."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from molsampler.basis.errors import InputError
from molsampler.molecules.loading.load import Say, load_molecule
from molsampler.molecules.loading.new_system import Request, make_system
from molsampler.molecules.molecule import Molecule
from molsampler.preparation.check import Understanding
from molsampler.preparation.check import understand as check
from molsampler.runs import molecule as jobs
from molsampler.runs.molecule import Job, RunConfig
from molsampler.runs.presets import preset
from molsampler.runs.sampling import check_samples
from molsampler.store.run_directory import RunDirectory, Samples

__all__ = [
    "InputError",
    "Molecule",
    "Run",
    "RunConfig",
    "Samples",
    "Understanding",
    "check",
    "load_molecule",
    "load_samples",
    "new",
    "preset",
    "resume",
    "start",
]


class Run:
    """A run directory that this process holds, with the molecule and the sampler in it; closes as a context manager.

    path : of the directory; molecule : what is sampled; job : everything else
    """

    def __init__(self, job: Job, progress: bool) -> None:
        self.job = job
        self.path: Path = job.run.path
        self.molecule: Molecule = job.molecule
        self._progress = progress

    def train(self) -> bool:
        """Train to the end of the budget; False where Ctrl-C stopped it, with a checkpoint for `resume`."""
        return self.job.train(self._progress)

    def sample(self, n: int | None = None, sampler: str | None = None) -> Samples:
        """Draw n weighted samples by "policy" or "smc", replacing those in the directory.

        Both are the configuration's where they are not given.
        """
        config = self.job.config
        check_samples(config.samples if n is None else n, sampler or config.sampler)
        jobs.sample(self.job, n, sampler, self._progress)
        return self.job.run.load_samples()

    def analyse(self) -> dict[str, Any]:
        """Draw the pictures, write report.html and metrics.json; returns the metrics, {"ess": {"value": ...}, ...}."""
        return jobs.conclude(self.job)

    def close(self) -> None:
        """Let go of the directory and of the energy's workers. Safe to call twice."""
        self.job.energy.close()
        self.job.run.release()

    def __enter__(self) -> Run:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()


def new(
    name: str, *, shelf: str | Path = "systems", overwrite: bool = False, say: Say = print, **source: Any
) -> tuple[Path, Molecule]:
    """`molsampler new`: makes shelf/name and returns it with the molecule. `source` is what `Request` takes.

    new("mine", pdb="mine.pdb", forcefield=["amber14-all.xml", "implicit/obc2.xml"], fix=True)
    Raises InputError, and leaves nothing behind, where the molecule cannot be sampled.
    """
    known = [field.name for field in dataclasses.fields(Request)]
    for key, value in source.items():
        if key not in known:
            raise InputError(f"a new system takes no '{key}'; it takes {', '.join(known)}")
        if key in ("pdb", "prmtop", "inpcrd", "system_xml") and value is not None:
            source[key] = Path(value)
        elif isinstance(value, Sequence) and not isinstance(value, str):
            source[key] = tuple(value)
    return make_system(name, Request(**source), shelf, overwrite, say)


def start(
    system: str,
    out: str | Path | None = None,
    config: RunConfig | None = None,
    *,
    minutes: float | None = None,
    overwrite: bool = False,
    progress: bool = True,
    say: Say = print,
) -> Run:
    """A new run of `system` in the directory `out` (by default runs/ and its name), set up and ready to train.

    config : every option, by default preset("cpu"); minutes : of training, in place of the configuration's budget
    Raises InputError for bad input, and where the directory holds a run and `overwrite` is not given.
    """
    config = dataclasses.replace(config or preset("cpu"), system=str(system))
    if minutes is not None:
        if not 0.0 < minutes < float("inf"):
            raise InputError(f"minutes = {minutes} is not usable: give a positive number of minutes")
        train = dataclasses.replace(config.train, minutes=float(minutes), warm_updates=0, updates=0)
        config = dataclasses.replace(config, train=train)
    check_samples(config.samples, config.sampler)
    load_molecule(config.system, say=lambda text: None)  # before an old run is removed
    run = RunDirectory.claim(out or Path("runs") / Path(system).name, overwrite=overwrite)
    try:
        return Run(jobs.start(config, run, say), progress)
    except BaseException:
        run.release()
        raise


def resume(out: str | Path, *, progress: bool = True, say: Say = print) -> Run:
    """The run in the directory `out` from its last checkpoint: to train on, or to sample again."""
    run = RunDirectory.claim(out, resume=True)
    try:
        return Run(jobs.resume(run, say), progress)
    except BaseException:
        run.release()
        raise


def load_samples(out: str | Path) -> Samples:
    """The samples of a run directory: `trajectory` (mdtraj), `weights`, `log_weights`, `potential_energy` (kJ/mol)."""
    return RunDirectory(out).load_samples()
