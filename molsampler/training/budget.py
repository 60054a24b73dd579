"""From a budget in minutes to numbers of updates, by timing both kinds of update and what goes with them."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable
from typing import TYPE_CHECKING

from molsampler.basis import ranks
from molsampler.training.config import TrainConfig

if TYPE_CHECKING:
    from molsampler.training.trainer import Trainer

PROBE_UPDATES = 12  # updates timed to turn minutes into numbers of updates
_WARM = 3  # before the clock starts
_MOST = 0.5  # of a budget, for the least number of denoising updates
_RATE = 1e-3  # share of the learning rate in probes; what they learn is put back


def plan(trainer: Trainer) -> TrainConfig:
    """The trainer's configuration with both numbers of updates; a number that is given stands, and the share of the
    budget that belonged to its phase is not given to the other. All ranks time it together, and the first one's clock
    decides (collective). The trainer's state is put back afterwards."""
    config = trainer.config
    warm_updates = 0 if config.start == "scratch" and config.warm_updates is None else config.warm_updates
    if warm_updates is not None and config.updates is not None:
        return dataclasses.replace(config, warm_updates=warm_updates)
    budget = 60.0 * config.minutes
    warm_share = 0.0 if config.start == "scratch" else config.warm_share
    before = trainer.state_dict()

    def timed(act: Callable[[int], object], repeats: int) -> float:
        """Seconds of one act; the trainer's state is put back."""
        begun = time.perf_counter()
        for k in range(repeats):
            act(k)
        seconds = (time.perf_counter() - begun) / repeats
        trainer.load_state_dict(before)
        return seconds

    def update(act: Callable[[int], object]) -> float:
        """Seconds of one update, after some that compile and warm up."""
        timed(lambda k: act(k + 1), _WARM)
        cycle = 2 * (config.batch.replay_updates + 1)  # the updates of a cycle differ
        return timed(act, max(PROBE_UPDATES // cycle, 1) * cycle)

    each, most = _moves(trainer, timed)
    warm_seconds = seconds = 0.0
    if warm_updates is None:
        warm_seconds = update(lambda k: trainer.denoise(_RATE))
        if config.rollouts.number:
            warm_seconds += timed(lambda k: trainer.rollouts(), 1) / config.rollouts.every
    if config.updates is None:
        seconds = update(lambda k: trainer.balance(k, _RATE))

    def numbers(spent: float, each: float) -> tuple[int, int]:
        """Updates of both phases, where local moves take so many seconds in all and `each` more an update."""
        left = max(budget - spent, 0.0)
        share = warm_share
        if warm_share and warm_updates is None and config.updates is None and left:
            share = max(share, min(config.warm_least * (warm_seconds + each) / left, _MOST))
        warm = round(left * share / (warm_seconds + each)) if warm_updates is None else warm_updates
        after = config.updates
        return warm, max(1, round(left * (1.0 - share) / (seconds + each))) if after is None else after

    planned = numbers(0.0, each)
    if sum(planned) * each > most:  # the limit on their evaluations ends them before every round is made
        given = sum(n for n in (warm_updates, config.updates) if n is not None)
        planned = numbers(most * (1.0 - given / sum(planned)), 0.0)
    warm_updates, updates = ranks.from_first(planned)
    return dataclasses.replace(config, warm_updates=warm_updates, updates=updates)


def _moves(trainer: Trainer, timed: Callable[[Callable[[int], object], int], float]) -> tuple[float, float]:
    """Seconds of local moves, an update and in all at most (collective)."""
    moves, spent = trainer.config.moves, []

    def one_round(k: int) -> None:
        before = trainer.target.counter.total
        trainer.behaviours.local_moves()
        spent.append(ranks.total(trainer.target.counter.total - before))

    if not moves.every:
        return 0.0, 0.0
    seconds = timed(one_round, 1)
    return seconds / moves.every, seconds * moves.limit / max(spent[0], 1)
