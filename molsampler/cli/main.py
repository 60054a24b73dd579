"""The command line, `molsampler new | check | train | sample | analyse | reference | compare`, and
`scripts/run_aldp.py`."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro

from molsampler.basis.settings import change
from molsampler.cli.commands import check, compare, new, reference
from molsampler.cli.launch import several
from molsampler.cli.output import Stopped, guarded, print_verdict, printer
from molsampler.cli.resuming import refuse_with_resume
from molsampler.runs import molecule as runs
from molsampler.runs import results
from molsampler.runs.loop import held_processes, with_file, with_minutes
from molsampler.runs.molecule import RunConfig
from molsampler.runs.presets import PresetName, preset
from molsampler.smc.trained import check_samples

_NAMED = ("samples", "sampler", "device", "platform", "processes", "threads")


def _given(**options: Any) -> dict[str, Any]:
    """The options that were given."""
    return {name: value for name, value in options.items() if value is not None}


@dataclasses.dataclass(frozen=True)
class Options:
    """Train on a molecule, draw weighted samples and analyse them; the results are in the run directory."""

    preset: PresetName | None = None
    """smoke (a minute), cpu (the default: 15 minutes of training on two cores), long (60 minutes), paper (for a large
    GPU)."""
    config: Path | None = None
    """A TOML file whose values replace the preset's; the config.toml of any run is one."""
    out: Path | None = None
    """The run directory; by default runs/ and the system's name."""
    seed: int | None = None
    """Of everything random."""
    minutes: float | None = None
    """Training time, warm start included; set-up and sampling come on top. With --resume, of the whole run: more than
    it had trains it on."""
    samples: int | None = None
    """Number of samples drawn at the end."""
    sampler: Literal["policy", "smc"] | None = None
    """Plain importance sampling with the policy, or sequential Monte Carlo with the twist."""
    hottest: float | None = None
    """One policy for all temperatures from the system's own up to this one, in kelvin."""
    coldest: float | None = None
    """And down to this one."""
    device: str | None = None
    """Where networks and torch energy live: cpu, cuda."""
    platform: str | None = None
    """OpenMM platform for the energy in training; naming one takes OpenMM instead of the torch kernels."""
    processes: int | None = None
    """Processes that train together on this machine, each with its share of every batch; 0 for one a core. With
    --resume another number than the run had will do."""
    threads: int | None = None
    """Threads of torch on the CPU, 0 for all cores; of each process, where there are several."""
    resume: bool = False
    """Go on from the checkpoint in the run directory, with its configuration."""
    overwrite: bool = False
    """Replace the run that the directory holds."""
    quiet: bool = False
    """Results only: no progress bars, no notes."""

    def resolve(self, system: str) -> RunConfig:
        """The configuration of a new run: preset, then file, then flags; the system is the one that was named."""
        config = preset(self.preset or "cpu")
        if self.config is not None:
            config = with_file(config, self.config)
        if self.seed is not None:
            config = change(config, train={"seed": self.seed})
        if self.minutes is not None:
            config = with_minutes(config, self.minutes)
        config = change(config, ladder=_given(hottest=self.hottest, coldest=self.coldest))
        named = self.named()
        if self.platform is not None:
            named["backend"] = "openmm"
        return dataclasses.replace(config, system=system, **named)

    def named(self) -> dict[str, Any]:
        """The flags given that are settings of the configuration by the same name."""
        return _given(**{name: getattr(self, name) for name in _NAMED})

    def held_processes(self, system: str) -> int:
        """How many processes the configuration of the run has."""
        if self.resume:
            return held_processes(self.out or runs.default_folder(system))
        return self.resolve(system).processes

    def open(self, system: str) -> runs.Job:
        """The run that is meant: a new one, or with --resume the one in the directory."""
        say, out = printer(self.quiet), self.out or runs.default_folder(system)
        if not self.resume:
            return runs.begin(self.resolve(system), out, overwrite=self.overwrite, say=say)
        refuse_with_resume(self, ("preset", "config", "overwrite", "hottest", "coldest"), out)
        return runs.go_on(
            out,
            system=system,
            minutes=self.minutes,
            seed=self.seed,
            say=say,
            **self.named(),
        )


def train(system: Annotated[str, tyro.conf.Positional], options: Annotated[Options, tyro.conf.arg(name="")]) -> None:
    """Train on a system, sample and analyse; the results are in the run directory.

    Args:
        system: A name in systems/, a folder that holds a system.toml, or the file itself.
    """
    several(options.processes, lambda: options.held_processes(system), train, system, options)
    with options.open(system) as job:
        if not job.train(progress=not options.quiet):
            raise Stopped
        results.sample(job, progress=not options.quiet)
        print_verdict(job, results.conclude(job))


def sample(
    run: Annotated[Path, tyro.conf.Positional],
    n: Annotated[int | None, tyro.conf.arg(aliases=["-n"])] = None,
    sampler: Literal["policy", "smc"] | None = None,
    seed: int | None = None,
    temperature: float | None = None,
    device: str | None = None,
    platform: str | None = None,
    processes: int | None = None,
    quiet: bool = False,
) -> None:
    """Draw new samples from a trained run and analyse them, replacing the samples that it holds.

    Args:
        run: The run directory.
        n: Number of samples; by default that of the run's configuration.
        sampler: Plain importance sampling with the policy, or sequential Monte Carlo with the twist; by default that of
            the run's configuration.
        seed: Of everything random; by default that of the training.
        temperature: In kelvin, of a run that was trained for a range (--hottest, --coldest); by default the system's
            own.
        device: Where networks and torch energy live, such as cpu for a run that was trained on a GPU; by default that
            of the run.
        platform: OpenMM platform for the energy; naming one takes OpenMM instead of the torch kernels.
        processes: That draw together on this machine, 0 for one a core; by default as many as trained.
        quiet: Results only: no progress bars, no notes.
    """
    if n is not None:
        check_samples(n, sampler or "policy")
    arguments = run, n, sampler, seed, temperature, device, platform, processes, quiet
    several(processes, lambda: held_processes(run), sample, *arguments)
    with runs.go_on(run, say=printer(quiet), record=False, device=device, platform=platform) as job:
        results.sample(job, n, sampler, seed=seed, temperature=temperature, progress=not quiet)
        print_verdict(job, results.conclude(job))


def analyse(
    run: Annotated[Path, tyro.conf.Positional],
    device: str | None = None,
    platform: str | None = None,
    quiet: bool = False,
) -> None:
    """Draw the pictures and write metrics.json and report.html again from the samples of a run.

    Args:
        run: The run directory.
        device: Where the torch energy lives, such as cpu for a run that was trained on a GPU; by default that of the
            run.
        platform: OpenMM platform for the energy; naming one takes OpenMM instead of the torch kernels.
        quiet: Results only: no notes.
    """
    with runs.go_on(run, say=printer(quiet), record=False, device=device, platform=platform) as job:
        print_verdict(job, results.conclude(job))


def run_aldp(arguments: Sequence[str] | None = None) -> int:
    """`scripts/run_aldp.py`: the same as `molsampler train aldp`; returns the exit status."""
    return guarded("run_aldp.py", lambda: train("aldp", tyro.cli(Options, args=arguments, prog="run_aldp.py")))


def main(arguments: Sequence[str] | None = None) -> int:
    """The `molsampler` command; returns the exit status."""
    commands = {
        "new": new,
        "check": check,
        "train": train,
        "sample": sample,
        "analyse": analyse,
        "reference": reference,
        "compare": compare,
    }
    return guarded(
        "molsampler", lambda: tyro.extras.subcommand_cli_from_dict(commands, args=arguments, prog="molsampler")
    )
