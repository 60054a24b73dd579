"""`scripts/run_synthetic.py`: one run on a synthetic target, or a table of arms and seeds."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import ModuleType
from typing import Annotated, Any

import tyro

from molsampler.basis import ranks
from molsampler.basis.errors import InputError
from molsampler.basis.settings import change, walk
from molsampler.cli.launch import several
from molsampler.cli.output import Stopped, guarded, printer
from molsampler.cli.resuming import refuse_with_resume
from molsampler.runs import conditional, synthetic
from molsampler.runs.density import DensityRunDirectory
from molsampler.runs.loop import held_processes, with_file, with_minutes
from molsampler.runs.methods import apply_arm, find_arm
from molsampler.runs.synthetic_config import SyntheticConfig, synthetic_config
from molsampler.runs.tables import Finished, draw, save_table
from molsampler.store.checkpoint import read_checkpoint
from molsampler.store.config_file import load_toml, read_toml
from molsampler.targets.synthetic import CONDITIONAL

_NAMED = ("samples", "processes", "threads")


@dataclasses.dataclass(frozen=True)
class Options:
    """Train on a synthetic target whose answer is known, sample, and compare with exact samples."""

    target: Annotated[str, tyro.conf.Positional]
    """gmm40-2d, gmm40-5d, gmm40-50d, gmm40-2d-softplus, gmm25, funnel-10d, manywell-32d, manywell-64d, student-2d,
    student-50d, robot-arm-4, cox-16, cox-40, logistic-cancer, logistic-digits; with conditions: linear-gaussian,
    vae-digits, for arms from scratch."""
    arms: tuple[str, ...] = ("default",)
    """Method arms; an unknown name lists all of them. More than one, or more than one seed, makes a table."""
    seeds: tuple[int, ...] = (0,)
    """Of everything random, one run each."""
    minutes: float | None = None
    """Training time of a run, warm start included; set-up and sampling come on top. With --resume, of the whole run:
    more than it had trains it on."""
    config: Path | None = None
    """A TOML file whose values replace the target's settings; the config.toml of any synthetic run is one. With
    --resume it has to say what the run was begun with."""
    out: Path | None = None
    """The run directory, or the folder of the runs of a table; by default runs/ and the target's name."""
    samples: int | None = None
    """Number of samples drawn at the end."""
    processes: int | None = None
    """Processes that train together on this machine, each with its share of every batch; 0 for one a core."""
    threads: int | None = None
    """Threads of torch, 0 for all cores; of each process, where there are several."""
    resume: bool = False
    """Go on from checkpoints; finished runs are taken as they are, unless other minutes or samples are asked for."""
    overwrite: bool = False
    """Replace the runs that are there."""
    quiet: bool = False
    """No progress bars."""

    def resolve(self, arm: str, seed: int) -> SyntheticConfig:
        """The configuration of one run: the target's settings, then file, then flags."""
        config = synthetic_config(self.target)
        if self.config is not None:
            config = with_file(config, self.config)
            if config.target != self.target or config.arm not in ("default", arm):
                raise InputError(
                    f"'{self.config}' is of target '{config.target}' and arm '{config.arm}', not of '{self.target}' "
                    f"and '{arm}': name those, or leave both keys out of the file"
                )
        if self.minutes is not None:
            config = with_minutes(config, self.minutes)
        named = {name: value for name in _NAMED if (value := getattr(self, name)) is not None}
        config = change(config, arm=arm, train={"seed": seed}, **named)
        job_of(config.target).check(config)
        return config


def job_of(target: str) -> ModuleType:
    """The module that runs this target: check, start, resume and conclude."""
    return conditional if target in CONDITIONAL else synthetic


def main(arguments: Sequence[str] | None = None) -> int:
    """The script; returns the exit status."""
    return guarded("run_synthetic.py", lambda: _run_all(tyro.cli(Options, args=arguments, prog="run_synthetic.py")))


def _run_all(options: Options) -> None:
    for arm in options.arms:
        find_arm(arm)
    out = options.out or Path("runs") / options.target
    if options.resume:
        refuse_with_resume(options, ("overwrite",), out)
    configs = [options.resolve(arm, seed) for arm in options.arms for seed in options.seeds]
    folders = [out if len(configs) == 1 else out / f"{config.arm}-{config.train.seed}" for config in configs]
    held = configs[0].processes
    several(
        options.processes,
        lambda: held_processes(folders[0], held) if options.resume else held,
        _run_all,
        options,
    )
    if len(configs) == 1:
        _print_one(_run(options, configs[0], out), out)
        return
    finished = []
    for config, folder in zip(configs, folders, strict=True):
        metrics = _run(options, config, folder)
        finished.append(Finished(config.arm, config.train.seed, folder, metrics))
        _tell(options, finished, out, last=len(finished) == len(configs))


@ranks.first_only
def _tell(options: Options, finished: list[Finished], out: Path, last: bool) -> None:
    """The table so far, on disk and, unless it is to be quiet, in words."""
    text = save_table(options.target, finished, out)
    draw(options.target, finished, out)
    if not options.quiet or last:
        print(text, flush=True)


def _run(options: Options, config: SyntheticConfig, out: Path) -> dict[str, Any]:
    """One run from start, or from its checkpoint, to its metrics, which the first rank has."""
    say = printer(options.quiet)
    held = _held(options, config, out) if options.resume else None
    names = ("metrics.json", "checkpoint.pt", "metrics.csv")
    there = ranks.from_first({name: (out / name).is_file() for name in names})
    asked = {} if held is None else _asked(options, held)
    if options.resume and there["metrics.json"] and not asked:
        return DensityRunDirectory(out).load_metrics()
    # killed before its first checkpoint, as a classical arm always is: begun anew, nothing is lost
    anew = held is not None and not any(there.values())
    going_on = options.resume and (held is not None or there["checkpoint.pt"]) and not anew
    run = DensityRunDirectory.claim(out, overwrite=options.overwrite or anew, resume=going_on, say=say)
    try:
        if find_arm(config.arm).baseline:
            return synthetic.baseline(config, run, say)
        job = job_of(config.target)
        made = job.resume(run, say, threads=options.threads, **asked) if going_on else job.start(config, run, say)
        if not made.train(progress=not options.quiet):
            raise Stopped
        return job.conclude(made)
    finally:
        run.release()


def _held(options: Options, config: SyntheticConfig, out: Path) -> SyntheticConfig | None:
    """The configuration of the run in `out`, None where there is none; InputError where it is another run than the one
    asked for."""
    if not (out / "config.toml").is_file():
        return None
    if (out / "checkpoint.pt").is_file():
        read_checkpoint(out / "checkpoint.pt")  # of an older format, whose configuration has other keys
    held = read_toml(out / "config.toml", SyntheticConfig())
    asked, there = ((c.target, c.arm, c.train.seed) for c in (config, held))
    if asked != there:
        raise InputError(
            f"'{out}' holds target '{there[0]}', arm '{there[1]}', seed {there[2]}; target '{asked[0]}', arm "
            f"'{asked[1]}', seed {asked[2]} were asked for: name another directory with --out"
        )
    if options.config is not None:
        _check_file(options, config, held, out)
    return held


def _check_file(options: Options, config: SyntheticConfig, held: SyntheticConfig, out: Path) -> None:
    """InputError where the file of --config says something else than the run in `out`, which would not heed it."""
    asked = dataclasses.replace(config, train=apply_arm(config.arm, config.train))
    free = {"target", "arm", "processes", "threads"}  # those that are checked or free to change
    if options.minutes is not None:
        free |= {"train.minutes", "train.warm_updates", "train.updates"}
    if options.samples is not None:
        free.add("samples")
    said, there = set(_names(load_toml(options.config))) - free, {name: value for name, _, _, value in walk(held)}
    for name, _, _, value in walk(asked):
        # what the beginning of the run decided is not in the file
        if name in said and value not in (None, "auto") and value != there[name]:
            raise InputError(
                f"'{out}' holds a run with {name} = {there[name]!r}, and '{options.config}' asks for {value!r}: leave "
                "out --config, or name another directory with --out"
            )


def _names(values: dict[str, Any], path: str = "") -> Iterator[str]:
    """The settings that a configuration file names, with dots."""
    for key, value in values.items():
        if isinstance(value, dict):
            yield from _names(value, f"{path}{key}.")
        else:
            yield f"{path}{key}"


def _asked(options: Options, held: SyntheticConfig) -> dict[str, Any]:
    """Minutes and samples where another number than the run's is asked for; of a classical arm they change nothing."""
    if find_arm(held.arm).baseline:
        return {}
    asked = {"minutes": (options.minutes, held.train.minutes), "samples": (options.samples, held.samples)}
    return {name: value for name, (value, there) in asked.items() if value not in (None, there)}


@ranks.first_only
def _print_one(metrics: dict[str, Any], out: Path) -> None:
    """The figures that the literature quotes, with their errors."""
    for name, text in HEADLINES.items():
        entry = metrics.get(name)
        if entry is None or entry["value"] is None:
            continue
        error = f" +- {entry['stderr']:.2g}" if entry["stderr"] is not None else ""
        print(f"{text:34s} {entry['value']:.4g}{error}")
    pictures = [name for name in ("samples.png", "training.png", "resampling.png") if (out / name).is_file()]
    print(f"results: {out}/metrics.json, samples.npz, {', '.join(pictures)}")


HEADLINES = {
    "ess": "ESS, fraction of the samples",
    "ess_tenth": "ESS, a tenth of the conditions below",
    "elbo": "ELBO",
    "eubo": "EUBO",
    "log_z_estimate": "log Z by importance weights",
    "log_z_true": "log Z, true",
    "log_z_learnt": "log Z, learnt",
    "log_z_learnt_error": "its distance from the true one",
    "smc_log_z_estimate": "log Z by SMC",
    "w2_squared": "W2 squared",
    "w2_squared_reweighted": "W2 squared, reweighted",
    "w2_squared_floor": "W2 squared of truth to truth",
    "modes_found": "modes found",
    "evaluations": "evaluations of the target",
    "training_seconds": "training, seconds",
}
