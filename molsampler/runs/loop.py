"""A trainer tied to a run directory: the training loop, signals and checkpoints that every kind of job shares."""

from __future__ import annotations

import dataclasses
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

from molsampler import __version__
from molsampler.basis.errors import InputError
from molsampler.store.atomic import atomic_path, write_text
from molsampler.store.config_file import to_toml
from molsampler.store.run_directory import RunDirectory
from molsampler.training.learner import faster_precision
from molsampler.training.trainer import Trainer

Say = Callable[[str], None]


@dataclass
class TrainingRun:
    """config : a frozen dataclass whose field `train` is a TrainConfig
    stop : set by a signal; training then ends after the update in hand
    timings : seconds by stage, kept in the checkpoint
    """

    config: Any
    run: RunDirectory
    trainer: Trainer
    say: Say
    stop: bool = field(default=False, kw_only=True)
    timings: dict[str, float] = field(default_factory=dict, kw_only=True)

    def row(self) -> dict[str, Any]:
        """One row of metrics.csv."""
        return self.trainer.evaluate()

    def target_state(self) -> dict:
        """What a checkpoint holds of the target, tensors and plain Python: its coordinates."""
        return {}

    def fix_budget(self) -> None:
        """Turn minutes into numbers of updates, once, and write config.toml."""
        self.trainer.plan()
        updates = {"warm_updates": self.trainer.warm_updates, "updates": self.trainer.updates}
        self.config = dataclasses.replace(self.config, train=dataclasses.replace(self.config.train, **updates))
        self.trainer.config = self.config.train
        write_config(self.config, self.run)

    def train(self, progress: bool = True) -> bool:
        """Train to the end; False where SIGINT or SIGTERM stopped it, with a checkpoint written."""
        trainer, config = self.trainer, self.config.train
        every = max(trainer.total // max(config.evaluations, 1), 1)
        saved = time.perf_counter()
        bar = tqdm(
            total=trainer.total,
            initial=trainer.done,
            desc="training",
            unit="update",
            disable=not progress,
            mininterval=1.0,
        )
        with _stopping(self), bar:
            while trainer.done < trainer.total and not self.stop:
                loss = trainer.update()
                bar.update()
                last = trainer.done == trainer.total
                if trainer.done % every == 0 or last:
                    row = self.row()
                    self.run.append_metrics_row(row)
                    bar.set_postfix_str(
                        f"{trainer.phase} loss {loss:.2f} ELBO {row['elbo']:.1f} ESS {row['ess']:.1%} "
                        f"{row['energy_evaluations'] / 1e6:.1f}M evaluations"
                    )
                if last or self.stop or time.perf_counter() - saved > config.checkpoint_seconds:
                    self.save()
                    saved = time.perf_counter()
        if self.stop:
            self.say(f"stopped at update {trainer.done:,} of {trainer.total:,}; go on with --resume")
        return not self.stop

    def save(self) -> None:
        """checkpoint.pt, atomically: everything to go on from."""
        state = {
            "version": __version__,
            "config": dataclasses.asdict(self.config),
            "target": self.target_state(),
            "trainer": self.trainer.state_dict(),
            "timings": self.timings,
        }
        with atomic_path(self.run / "checkpoint.pt") as path:
            torch.save(state, path)


def write_config(config: Any, run: RunDirectory) -> None:
    """config.toml: the resolved configuration, with versions and threads."""
    threads = f"torch {torch.__version__}, {torch.get_num_threads()} threads"
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


def read_checkpoint(path: Path) -> dict:
    """What `save` wrote; InputError where it is missing or damaged."""
    if not path.is_file():
        raise InputError(f"'{path}' is not there: train first, or name another run directory")
    try:
        return torch.load(path, weights_only=True, map_location="cpu")
    except Exception as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise InputError(
            f"the checkpoint '{path}' cannot be read ({reason[:120]}): train again, or restore it"
        ) from error


def misfit(path: Path, error: Exception) -> InputError:
    """The sentence for a checkpoint whose contents do not fit."""
    return InputError(f"the checkpoint '{path}' does not fit this version of molsampler ({error}): train again")


MISFITS = (KeyError, RuntimeError, ValueError, TypeError, AttributeError)


def settle(config: Any) -> Any:
    """Set torch's threads as `config.threads` says (0: leave them), and decide a precision left open."""
    if config.threads < 0:
        raise InputError(f"threads = {config.threads} is not usable: give a positive number, or 0 for all cores")
    if config.threads:
        torch.set_num_threads(config.threads)
    if config.train.precision == "auto":
        train = dataclasses.replace(config.train, precision=faster_precision(config.device))
        config = dataclasses.replace(config, train=train)
    return config
