"""The command line: `molsampler new | check | train | sample | analyse | reference`, and `scripts/run_aldp.py`."""

from __future__ import annotations

import dataclasses
import math
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Literal

import tyro

from molsampler.basis.errors import InputError
from molsampler.cli.commands import check, new, reference
from molsampler.molecules.energy.choice import check_device
from molsampler.molecules.energy.openmm_energy import check_platform
from molsampler.molecules.loading.load import load_molecule
from molsampler.runs import molecule as jobs
from molsampler.runs.molecule import RunConfig
from molsampler.runs.presets import preset
from molsampler.runs.sampling import check_samples
from molsampler.store.config_file import read_toml
from molsampler.store.run_directory import RunDirectory

PresetName = Literal["smoke", "cpu", "long", "paper"]


@dataclasses.dataclass(frozen=True)
class Options:
    """Train on a molecule, draw weighted samples and analyse them; the results are in the run directory."""

    preset: PresetName = "cpu"
    """smoke (a minute), cpu (15 minutes of training on two cores), long (60 minutes), paper (for a large GPU)."""
    config: Path | None = None
    """A TOML file whose values replace the preset's; the config.toml of any run is one."""
    out: Path | None = None
    """The run directory; by default runs/ and the system's name."""
    seed: int | None = None
    """Of everything random."""
    minutes: float | None = None
    """Training time, warm start included; set-up and sampling come on top."""
    samples: int | None = None
    """Number of samples drawn at the end."""
    sampler: Literal["policy", "smc"] | None = None
    """Plain importance sampling with the policy, or sequential Monte Carlo with the twist."""
    device: str | None = None
    """Where networks and torch energy live: cpu, cuda."""
    platform: str | None = None
    """OpenMM platform for the energy in training; naming one takes OpenMM instead of the torch kernels."""
    threads: int | None = None
    """Threads of torch on the CPU, 0 for all cores."""
    resume: bool = False
    """Go on from the checkpoint in the run directory, with its configuration."""
    overwrite: bool = False
    """Replace the run that the directory holds."""
    quiet: bool = False
    """No progress bars."""

    def resolve(self, system: str) -> RunConfig:
        """The run's configuration: preset, then file, then flags."""
        config = dataclasses.replace(preset(self.preset), system=system)
        if self.config is not None:
            config = read_toml(self.config, config)
        train = config.train
        if self.seed is not None:
            train = dataclasses.replace(train, seed=self.seed)
        if self.minutes is not None:
            if not (math.isfinite(self.minutes) and self.minutes > 0):
                raise InputError(f"--minutes {self.minutes} is not usable: give a positive number of minutes")
            train = dataclasses.replace(train, minutes=self.minutes, warm_updates=0, updates=0)
        named = {
            name: value
            for name in ("samples", "sampler", "device", "platform", "threads")
            if (value := getattr(self, name)) is not None
        }
        if self.platform is not None:
            named["backend"] = "openmm"
        config = dataclasses.replace(config, train=train, **named)
        _check(config)
        return config


def _check(config: RunConfig) -> None:
    """Refuse what would only fail once the training is over, or after --overwrite has removed the old run."""
    minutes = config.train.minutes
    if not (config.train.warm_updates or config.train.updates or minutes > 0):
        raise InputError(f"minutes = {minutes} is not usable: give a positive number of minutes")
    if config.threads < 0:
        raise InputError(f"threads = {config.threads} is not usable: give a positive number, or 0 for all cores")
    check_samples(config.samples, config.sampler)
    check_device(config.device)
    check_platform(config.platform)
    load_molecule(config.system, say=lambda text: None)  # the job tells its notes


def train(system: Annotated[str, tyro.conf.Positional], options: Annotated[Options, tyro.conf.arg(name="")]) -> None:
    """Train on a system, sample and analyse; the results are in the run directory.

    Args:
        system: A name in systems/, a folder that holds a system.toml, or the file itself.
    """
    _run(system, options)


def sample(
    run: Annotated[Path, tyro.conf.Positional],
    n: Annotated[int, tyro.conf.arg(aliases=["-n"])] = 10_000,
    sampler: Literal["policy", "smc"] = "policy",
    seed: int | None = None,
    quiet: bool = False,
) -> None:
    """Draw new samples from a trained run and analyse them, replacing the samples that it holds.

    Args:
        run: The run directory.
        n: Number of samples.
        sampler: Plain importance sampling with the policy, or sequential Monte Carlo with the twist.
        seed: Of everything random; by default that of the training.
        quiet: No progress bars.
    """
    check_samples(n, sampler)
    with _resumed(run, quiet) as job:
        if seed is not None:
            job.config = dataclasses.replace(job.config, train=dataclasses.replace(job.config.train, seed=seed))
        jobs.sample(job, n, sampler, progress=not quiet)
        _print_verdict(job, jobs.conclude(job))


def analyse(run: Annotated[Path, tyro.conf.Positional], quiet: bool = False) -> None:
    """Draw the pictures and write metrics.json and report.html again from the samples of a run.

    Args:
        run: The run directory.
        quiet: Print results only.
    """
    with _resumed(run, quiet) as job:
        _print_verdict(job, jobs.conclude(job))


@contextmanager
def _resumed(run: Path, quiet: bool) -> Iterator[jobs.Job]:
    """The job of a run directory, which is held for as long."""
    directory = RunDirectory.claim(run, resume=True)
    try:
        job = jobs.resume(directory, _printer(quiet))
        try:
            yield job
        finally:
            job.energy.close()
    finally:
        directory.release()


def run_aldp(arguments: Sequence[str] | None = None) -> int:
    """`scripts/run_aldp.py`: the same as `molsampler train aldp`; returns the exit status."""
    return _guarded("run_aldp.py", lambda: _run("aldp", tyro.cli(Options, args=arguments, prog="run_aldp.py")))


def main(arguments: Sequence[str] | None = None) -> int:
    """The `molsampler` command; returns the exit status."""
    commands = {
        "new": new,
        "check": check,
        "train": train,
        "sample": sample,
        "analyse": analyse,
        "reference": reference,
    }
    return _guarded(
        "molsampler", lambda: tyro.extras.subcommand_cli_from_dict(commands, args=arguments, prog="molsampler")
    )


def _guarded(program: str, act: Callable[[], object]) -> int:
    """Run; an InputError becomes its sentence on standard error and status 2."""
    try:
        act()
    except InputError as error:
        print(f"{program}: {error}", file=sys.stderr)
        return 2
    except _Stopped:
        return 130
    return 0


class _Stopped(Exception):
    """Training was interrupted and saved."""


def _run(system: str, options: Options) -> None:
    say = _printer(options.quiet)
    config = options.resolve(system)  # on --resume too, so that a flag that cannot be met is told at once
    out = options.out or Path("runs") / Path(system).name
    run = RunDirectory.claim(out, overwrite=options.overwrite, resume=options.resume)
    try:
        job = jobs.resume(run, say, options.device) if options.resume else jobs.start(config, run, say)
        try:
            if not job.train(progress=not options.quiet):
                raise _Stopped
            jobs.sample(job, options.samples, options.sampler, progress=not options.quiet)
            _print_verdict(job, jobs.conclude(job))
        finally:
            job.energy.close()
    finally:
        run.release()


def _printer(quiet: bool) -> Callable[[str], None]:
    return (lambda text: None) if quiet else (lambda text: print(text, flush=True))


def _print_verdict(job: jobs.Job, metrics: dict) -> None:
    """The few figures that a user wants to see at once, and where the rest is."""

    def figure(name: str, scale: float = 1.0) -> str:
        entry = metrics.get(name) or {}
        if entry.get("value") is None:
            return "unknown"
        error = f" +- {scale * entry['stderr']:.2g}" if entry.get("stderr") is not None else ""
        return f"{scale * entry['value']:.4g}{error}"

    print(f"ESS {figure('ess', 100.0)} % of {figure('samples')} samples")
    print(f"log Z {figure('log_z_estimate')} by importance weights, {figure('log_z_learnt')} learnt")
    print(f"energy evaluations {figure('evaluations')}, of MD {figure('evaluations_md')}")
    print(
        f"training {job.trainer.seconds:.0f} s; "
        + ", ".join(f"{k} {v:.0f} s" for k, v in job.timings.items() if "smc" not in k)
    )
    print(f"results: {job.run.path}/report.html, samples.dcd with topology.pdb, weights.npz, metrics.json")
