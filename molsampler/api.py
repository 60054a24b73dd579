"""What a script needs, in a few functions that `import molsampler` offers; docs/PYTHON_API.md shows them at work.

A script that torchrun starts several times trains in all of these processes together: each calls the same functions.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from molsampler.basis import ranks
from molsampler.basis.errors import InputError
from molsampler.basis.settings import change
from molsampler.molecules.loading.load import Say, load_molecule
from molsampler.molecules.loading.new_system import Request, make_system
from molsampler.molecules.molecule import Molecule
from molsampler.preparation.check import Understanding
from molsampler.preparation.check import understand as check
from molsampler.runs import density, molecule, results
from molsampler.runs.density import DensityConfig, DensitySamples
from molsampler.runs.loop import with_minutes
from molsampler.runs.molecule import RunConfig
from molsampler.runs.presets import preset
from molsampler.store.run_directory import RunDirectory, Samples
from molsampler.targets.density import Density
from molsampler.targets.target import Target

__all__ = [
    "Density",
    "DensityConfig",
    "DensitySamples",
    "InputError",
    "Molecule",
    "Run",
    "RunConfig",
    "Samples",
    "Target",
    "Understanding",
    "change",
    "check",
    "load_molecule",
    "load_samples",
    "new",
    "preset",
    "resume",
    "start",
]


class Run:
    """A run directory that this process holds, with the molecule or density and the sampler in it; closes as a context
    manager.

    path : of the directory; molecule : what is sampled, None for a density; job : everything else
    """

    def __init__(self, job: molecule.Job | density.DensityRun, progress: bool) -> None:
        self.job = job
        self.path: Path = job.run.path
        self.molecule: Molecule | None = getattr(job, "molecule", None)
        self._progress = progress

    def train(self, minutes: float | None = None) -> bool:
        """Train to the end of the budget; False where Ctrl-C stopped it, with a checkpoint for `resume`.

        minutes : of training in all, more than the run had, to train on
        """
        if minutes is not None:
            self.job.extend(minutes)
        return self.job.train(self._progress)

    def sample(
        self,
        n: int | None = None,
        sampler: str | None = None,
        seed: int | None = None,
        *,
        temperature: float | None = None,
    ) -> Any:
        """Draw n weighted samples by "policy" or "smc", replacing those in the directory: `Samples` of a molecule,
        `DensitySamples` of a density. At any time: training goes on afterwards as if nothing had happened.

        All are the configuration's where they are not given.
        temperature : in kelvin, of a run for a range of them; by default the system's own
        """
        if isinstance(self.job, density.DensityRun):
            if temperature is not None:
                raise InputError(f"temperature = {temperature:g}: a density of one's own has no temperature")
            return density.sample(self.job, n, sampler, seed)
        results.sample(self.job, n, sampler, seed=seed, temperature=temperature, progress=self._progress)
        return self.job.run.load_samples()

    def analyse(self) -> dict[str, Any]:
        """Draw the pictures, write metrics.json (and report.html); returns the metrics, {"ess": {"value": ...},
        ...}."""
        return density.analyse(self.job) if isinstance(self.job, density.DensityRun) else results.conclude(self.job)

    def close(self) -> None:
        """Let go of the directory and of the energy's workers. Safe to call twice."""
        self.job.close()

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
    system: str | None = None,
    out: str | Path | None = None,
    config: RunConfig | DensityConfig | None = None,
    *,
    target: Any = None,
    minutes: float | None = None,
    overwrite: bool = False,
    progress: bool = True,
    say: Say = print,
) -> Run:
    """A new run in the directory `out` (by default runs/ and a name), set up and ready to train.

    system : name, folder or file of a molecule; or target : a density of one's own, a `Density` or any object with
        log_prob(x), (B, dim) -> (B,), and dim (docs/DENSITIES.md)
    config : every option, by default preset("cpu"), or DensityConfig() for a density; minutes : of training, in place
        of the configuration's budget
    Raises InputError for bad input, and where the directory holds a run and `overwrite` is not given; an old run is
    removed only once everything has been checked.
    """
    ranks.join()
    if (system is None) == (target is None):
        raise InputError("start takes a system or a target: give one of the two")
    kind = RunConfig if target is None else DensityConfig
    if config is not None and not isinstance(config, kind):
        raise InputError(f"the configuration is a {type(config).__name__}: a run of this kind takes a {kind.__name__}")
    if target is not None:
        chosen = _with_budget(config or DensityConfig(), minutes)
        return Run(density.begin(target, chosen, out, overwrite=overwrite, say=say), progress)
    chosen = dataclasses.replace(_with_budget(config or preset("cpu"), minutes), system=str(system))
    return Run(molecule.begin(chosen, out, overwrite=overwrite, say=say), progress)


def _with_budget(config: Any, minutes: float | None) -> Any:
    return config if minutes is None else with_minutes(config, minutes)


def resume(
    out: str | Path,
    *,
    target: Any = None,
    minutes: float | None = None,
    device: str | None = None,
    platform: str | None = None,
    progress: bool = True,
    say: Say = print,
) -> Run:
    """The run in the directory `out` from its last checkpoint: to train on, or to sample again.

    target : the density, for a run on one; minutes : of training in all, more than the run had
    device, platform : of a molecule's run, in place of those that it had
    """
    ranks.join()
    if target is not None:
        return Run(density.go_on(target, out, minutes=minutes, say=say), progress)
    return Run(molecule.go_on(out, minutes=minutes, say=say, device=device, platform=platform), progress)


def load_samples(out: str | Path) -> Any:
    """The samples of a run directory. Of a molecule `Samples`: `trajectory` (mdtraj), `weights`, `log_weights`,
    `potential_energy` (kJ/mol); of a density `DensitySamples`: `x`, `weights`, `log_weights`, and of a target with
    conditions `condition`, within each of which the weights sum to 1."""
    if (Path(out) / "samples.npz").is_file():
        return density.load_samples(out)
    return RunDirectory(out).load_samples()
