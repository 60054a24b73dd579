"""A trainer tied to a run directory: the training loop, signals and checkpoints that every kind of run shares.

Every rank has such a run and goes through it; the first one alone writes and prints.
"""

from __future__ import annotations

import dataclasses
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Self, TypeVar

import torch
from tqdm import tqdm

from molsampler import __version__
from molsampler.basis import ranks
from molsampler.basis.errors import InputError
from molsampler.basis.settings import change, check_values, without_effect
from molsampler.smc.trained import Drawn, TrainedSampler, check_samples
from molsampler.store.atomic import write_text
from molsampler.store.checkpoint import write_checkpoint
from molsampler.store.config_file import load_toml, to_toml, update
from molsampler.store.run_directory import RunDirectory
from molsampler.training.emulator import Emulator, TooFewStates
from molsampler.training.learner import faster_precision
from molsampler.training.trainer import Trainer

Say = Callable[[str], None]
Config = TypeVar("Config")
KINDS = {
    "molecule": ("a molecule", "molsampler train, sample or analyse, or molsampler.resume(out)"),
    "density": ("a density of one's own", "molsampler.resume(out, target=...)"),
    "synthetic": ("a synthetic target", "scripts/run_synthetic.py --resume"),
    "conditional": ("a synthetic target with conditions", "scripts/run_synthetic.py --resume"),
}
"""What a run is on, and how to go on with it."""


@dataclass
class TrainingRun:
    """kind : one of KINDS
    config : a frozen dataclass whose field `train` is a TrainConfig
    stop : set by a signal, on any rank; training then ends after the update in hand, on all of them
    timings : seconds by stage, kept in the checkpoint
    """

    kind: ClassVar[str]
    config: Any
    run: RunDirectory
    trainer: Trainer
    say: Say
    stop: bool = field(default=False, kw_only=True)
    timings: dict[str, float] = field(default_factory=dict, kw_only=True)

    def row(self) -> dict[str, Any]:
        """One row of metrics.csv."""
        return self.trainer.evaluate()

    def coordinates_state(self) -> dict:
        """What a checkpoint holds of the target: the state of its coordinates."""
        return self.trainer.target.coordinates.state_dict()

    def drawing(self, sampler: str, generator: torch.Generator) -> Callable[..., Drawn]:
        """How "policy" or "smc" draws: (n, generator, on_chunk) -> samples."""
        return self.smc_sampler(generator).smc if sampler == "smc" else self.trainer.sampler().draw

    def smc_sampler(self, generator: torch.Generator) -> TrainedSampler:
        """What samples by SMC: with an emulator, where smc.proposals asks for more than one."""
        sampler = self.trainer.sampler()
        if self.trainer.config.smc.proposals == 1 or not sampler.twist_trained:
            return sampler
        try:
            emulator = self.emulator(generator)
        except TooFewStates as error:
            self.say(f"note: smc.proposals has no effect: {error}")
            return sampler
        self.say(
            f"emulator of log R: fitted to nine tenths of {len(self.trainer.behaviours.buffer):,} replayed states, "
            f"{emulator.error:.2f} nats off (standard deviation) on the rest"
        )
        return dataclasses.replace(sampler, emulator=emulator)

    def emulator(self, generator: torch.Generator) -> Emulator:
        """An emulator of log R, fitted to this rank's replayed states."""
        trainer, buffer = self.trainer, self.trainer.behaviours.buffer
        x, log_r = buffer.x[: len(buffer)], buffer.log_r[: len(buffer)]
        return Emulator(trainer.target, trainer.surrogate.always_finite, x, log_r, generator)

    def close(self) -> None:
        """Let go of the directory. Safe to call twice."""
        self.run.release()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def fix_budget(self) -> None:
        """Turn minutes into numbers of updates, once, and write config.toml in place of an older run's files."""
        self.trainer.plan()
        self.run.clear()
        self._take_budget()

    def extend(self, minutes: float) -> None:
        """Train for `minutes` in all, from where the run is; InputError where it trains for as long already."""
        check_settings(change(self.config, train={"minutes": minutes}))
        if self.trainer.done:
            self.trainer.extend(minutes)
        else:  # nothing was trained yet, so that there is no pace to go by
            self.trainer.config = with_minutes(self.config, minutes).train
            self.trainer.plan()
        self._take_budget()

    def _take_budget(self) -> None:
        self.config = dataclasses.replace(self.config, train=self.trainer.config)
        write_config(self.config, self.run)

    def train(self, progress: bool = True) -> bool:
        """Train to the end; False where SIGINT or SIGTERM stopped it, with a checkpoint written (collective)."""
        trainer, config = self.trainer, self.config.train
        self.stop = stop = False
        every = max(trainer.total // config.evaluations, 1)
        saved = time.perf_counter()
        bar = tqdm(
            total=trainer.total,
            initial=trainer.done,
            desc="training",
            unit="update",
            disable=not (progress and ranks.first()),
            mininterval=1.0,
        )
        with _stopping(self), bar:
            while trainer.done < trainer.total and not stop:
                loss = trainer.update()
                bar.update()
                last = trainer.done == trainer.total
                if trainer.done % every == 0 or last:
                    trainer.agree()
                    row = self.row()
                    self.run.append_metrics_row(row)
                    bar.set_postfix_str(
                        f"{trainer.phase} loss {loss:.2f} ELBO {row['elbo']:.1f} ESS {row['ess']:.1%} "
                        f"{row['energy_evaluations'] / 1e6:.1f}M evaluations"
                    )
                stop, due = ranks.any_of(self.stop, time.perf_counter() - saved > config.checkpoint_seconds)
                if last or stop or due:
                    self.save()
                    saved = time.perf_counter()
        if stop:
            self.say(f"stopped at update {trainer.done:,} of {trainer.total:,}; go on with --resume")
        return not stop

    def save(self) -> None:
        """checkpoint.pt, atomically: everything to go on from, with any number of ranks (collective)."""
        state = {
            "kind": self.kind,
            "config": dataclasses.asdict(self.config),
            "coordinates": self.coordinates_state(),
            "trainer": self.trainer.gathered_state(),
            "timings": self.timings,
        }
        write_checkpoint(self.run / "checkpoint.pt", state)


@ranks.first_only
def write_config(config: Any, run: RunDirectory) -> None:
    """config.toml: the resolved configuration, with versions and threads."""
    threads = f"torch {torch.__version__}, {torch.get_num_threads()} threads"
    if ranks.size() > 1:
        threads += f" in each of {ranks.size()} processes"
    write_text(run / "config.toml", to_toml(config, f"molsampler {__version__}, resolved configuration; {threads}"))


class _stopping:
    """Turns SIGINT and SIGTERM into a flag, so that the update in hand is finished and saved."""

    def __init__(self, run: TrainingRun) -> None:
        self.run = run

    def __enter__(self) -> None:
        def note(number, frame) -> None:
            self.run.stop = True

        try:
            self.before = {s: signal.signal(s, note) for s in (signal.SIGINT, signal.SIGTERM)}
        except ValueError:  # not in the main thread: the caller's handlers stand
            self.before = {}

    def __exit__(self, *exc) -> None:
        for number, handler in self.before.items():
            signal.signal(number, handler)


def check_settings(config: Any) -> None:
    """InputError for settings of a configuration that are out of range, of a wrong type, or do not go together."""
    check_values(config)
    config.train.check()
    sampler = getattr(config, "sampler", "policy")
    check_samples(config.samples, sampler)
    if sampler == "smc" and config.train.objective == "reverse_kl":
        raise InputError(
            'sampler = "smc" needs a trained twist, and objective = "reverse_kl" trains none: use sampler = "policy"'
        )


def with_minutes(config: Config, minutes: float) -> Config:
    """The configuration with that budget, which decides the numbers of updates too."""
    return change(config, train={"minutes": minutes, "warm_updates": None, "updates": None})


def with_file(config: Config, path: Path) -> Config:
    """The configuration with the values of a TOML file; minutes there are not held up by updates of `config`."""
    values = load_toml(path)
    if isinstance(values.get("train"), dict) and "minutes" in values["train"]:
        config = with_minutes(config, config.train.minutes)
    return update(config, values, str(path))


def held_config(state: dict, kind: str, base: Any, run: RunDirectory) -> Any:
    """The configuration in a checkpoint's `state`, over the defaults `base`; InputError for a run of another kind."""
    held = state.get("kind", kind)
    if held != kind:
        what, how = KINDS[held]
        raise InputError(f"'{run.path}' holds a run on {what}, not on {KINDS[kind][0]}: go on with it by {how}")
    return update(base, state["config"], str(run / "checkpoint.pt"))


def held_processes(out: str | Path, otherwise: int = 1) -> int:
    """How many processes the run in a directory was made with; `otherwise` where there is none."""
    path = Path(out) / "config.toml"
    return load_toml(path).get("processes", 1) if path.is_file() else otherwise


def tell_idle(config: Any, say: Say) -> None:
    """Say which settings that were changed have no effect with the others chosen."""
    for sentence in without_effect(config):
        say(f"note: {sentence}")


def settle(config: Any) -> Any:
    """Set torch's threads as `config.threads` says (0: leave them, or an equal share for each of several processes),
    say how many processes there are, and decide a precision left open, for all of them (collective)."""
    threads = config.threads or (ranks.own_cores() if ranks.size() > 1 else 0)
    if threads:
        torch.set_num_threads(threads)
    if config.train.precision == "auto":
        train = dataclasses.replace(config.train, precision=ranks.from_first(faster_precision(config.device)))
        config = dataclasses.replace(config, train=train)
    return dataclasses.replace(config, processes=ranks.size())


def check_processes(config: Any) -> None:
    """InputError where a new run wants more processes than there are, and nothing has started them."""
    if config.processes > 1 and ranks.size() == 1:
        raise InputError(
            f"processes = {config.processes} cannot be started from inside Python: leave the setting out and start the "
            f"script by torchrun --nproc-per-node={config.processes}, or train by the command line"
        )
