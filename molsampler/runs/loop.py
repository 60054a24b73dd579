"""A trainer tied to a run directory: the training loop, signals and checkpoints that every kind of run shares."""

from __future__ import annotations

import dataclasses
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Self

import torch
from tqdm import tqdm

from molsampler import __version__
from molsampler.basis.settings import check_values, without_effect
from molsampler.store.atomic import write_text
from molsampler.store.checkpoint import write_checkpoint
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

    def coordinates_state(self) -> dict:
        """What a checkpoint holds of the target: the state of its coordinates."""
        return self.trainer.target.coordinates.state_dict()

    def close(self) -> None:
        """Let go of the directory. Safe to call twice."""
        self.run.release()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def fix_budget(self) -> None:
        """Turn minutes into numbers of updates, once, and write config.toml."""
        self.trainer.plan()
        self._take_budget()

    def extend(self, minutes: float) -> None:
        """Train for `minutes` in all, from where the run is; InputError where it trains for as long already."""
        self.trainer.extend(minutes)
        self._take_budget()

    def _take_budget(self) -> None:
        self.config = dataclasses.replace(self.config, train=self.trainer.config)
        write_config(self.config, self.run)

    def train(self, progress: bool = True) -> bool:
        """Train to the end; False where SIGINT or SIGTERM stopped it, with a checkpoint written."""
        trainer, config = self.trainer, self.config.train
        self.stop = False
        every = max(trainer.total // config.evaluations, 1)
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
            "config": dataclasses.asdict(self.config),
            "coordinates": self.coordinates_state(),
            "trainer": self.trainer.state_dict(),
            "timings": self.timings,
        }
        write_checkpoint(self.run / "checkpoint.pt", state)


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


def check_settings(config: Any) -> None:
    """InputError for settings of a configuration that are out of range, of a wrong type, or do not go together."""
    check_values(config)
    config.train.check()


def tell_idle(config: Any, say: Say) -> None:
    """Say which settings that were changed have no effect with the others chosen."""
    for sentence in without_effect(config):
        say(f"note: {sentence}")


def settle(config: Any) -> Any:
    """Set torch's threads as `config.threads` says (0: leave them), and decide a precision left open."""
    if config.threads:
        torch.set_num_threads(config.threads)
    if config.train.precision == "auto":
        train = dataclasses.replace(config.train, precision=faster_precision(config.device))
        config = dataclasses.replace(config, train=train)
    return config
