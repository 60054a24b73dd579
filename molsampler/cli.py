"""The command line: `molsampler train | sample | analyse | reference | check`, and `scripts/run_aldp.py`."""

from __future__ import annotations

import dataclasses
import math
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, Literal

import tyro

from molsampler import job as jobs
from molsampler.analysis.run_directory import RunDirectory
from molsampler.config_file import read_toml
from molsampler.errors import InputError
from molsampler.job import RunConfig
from molsampler.molecules.backend import check_device
from molsampler.presets import PRESETS, preset

PresetName = Literal["smoke", "cpu", "long", "paper"]


@dataclasses.dataclass(frozen=True)
class Options:
    """What every training run takes.

    preset: smoke, cpu (15 minutes on two cores), long (60 minutes) or paper (for a large GPU).
    config: a TOML file whose values replace the preset's; see config.toml of any run.
    out: run directory; by default runs/ and the system's name.
    seed: of everything random.
    minutes: training time, warm start included; set-up and sampling come on top.
    samples: number of samples drawn at the end.
    sampler: plain importance sampling with the policy, or SMC with the twist.
    device: where networks and torch energy live, such as cpu or cuda.
    platform: OpenMM's platform for the energy in training; naming one takes the OpenMM bridge instead of torch kernels.
    threads: of torch on the CPU, 0 for all cores.
    resume: go on from the checkpoint in the run directory, with its configuration.
    overwrite: replace the run that the directory holds.
    quiet: no progress bars.
    """

    preset: PresetName = "cpu"
    config: Path | None = None
    out: Path | None = None
    seed: int | None = None
    minutes: float | None = None
    samples: int | None = None
    sampler: Literal["policy", "smc"] | None = None
    device: str | None = None
    platform: str | None = None
    threads: int | None = None
    resume: bool = False
    overwrite: bool = False
    quiet: bool = False

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
        if self.samples is not None and self.samples < 1:
            raise InputError(f"--samples {self.samples} is not usable: give a positive number")
        if self.platform is not None:
            named["backend"] = "openmm"
        config = dataclasses.replace(config, train=train, **named)
        check_device(config.device)
        return config


def train(system: Annotated[str, tyro.conf.Positional], options: Annotated[Options, tyro.conf.arg(name="")]) -> None:
    """Train on a system, sample and analyse; the results are in the run directory."""
    _run(system, options)


def sample(
    run: Annotated[Path, tyro.conf.Positional],
    n: int = 10_000,
    sampler: Literal["policy", "smc"] = "policy",
    seed: int | None = None,
    quiet: bool = False,
) -> None:
    """Draw n new samples from a trained run and analyse them, replacing the samples that it holds."""
    directory = RunDirectory.claim(run, resume=True)
    job = jobs.resume(directory, _printer(quiet))
    if seed is not None:
        job.config = dataclasses.replace(job.config, train=dataclasses.replace(job.config.train, seed=seed))
    jobs.sample(job, n, sampler, progress=not quiet)
    _print_verdict(job, jobs.conclude(job))


def analyse(run: Annotated[Path, tyro.conf.Positional], quiet: bool = False) -> None:
    """Draw the pictures and write metrics.json and report.html again from the samples of a run."""
    job = jobs.resume(RunDirectory.claim(run, resume=True), _printer(quiet))
    _print_verdict(job, jobs.conclude(job))


def run_aldp(arguments: Sequence[str] | None = None) -> int:
    """`scripts/run_aldp.py`: the same as `molsampler train aldp`."""
    return _guarded(lambda options: _run("aldp", options), Options, arguments, "run_aldp.py")


def main(arguments: Sequence[str] | None = None) -> int:
    """The `molsampler` command; returns the exit status."""
    from molsampler.commands import check, reference

    commands = {"train": train, "sample": sample, "analyse": analyse, "reference": reference, "check": check}
    return _guarded(
        lambda call: call(), tyro.extras.subcommand_type_from_defaults, arguments, "molsampler", commands=commands
    )


def _guarded(
    act: Callable, kind, arguments: Sequence[str] | None, program: str, commands: dict[str, Callable] | None = None
) -> int:
    """Parse and act; InputError becomes its sentence on standard error and status 2."""
    try:
        if commands is not None:
            tyro.extras.subcommand_cli_from_dict(commands, args=arguments, prog=program)
        else:
            act(tyro.cli(kind, args=arguments, prog=program))
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
    if options.resume:
        out = options.out or Path("runs") / Path(system).name
        run = RunDirectory.claim(out, resume=True)
        job = jobs.resume(run, say, options.device)
    else:
        config = options.resolve(system)
        out = options.out or Path("runs") / Path(system).name
        run = RunDirectory.claim(out, overwrite=options.overwrite)
        job = jobs.start(config, run, say)
    try:
        if not jobs.train(job, progress=not options.quiet):
            raise _Stopped
        jobs.sample(job, options.samples, options.sampler, progress=not options.quiet)
        _print_verdict(job, jobs.conclude(job))
    finally:
        job.energy.close()
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


assert set(PRESETS) == set(PresetName.__args__)
