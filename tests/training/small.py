"""A trainer on a density whose normalisation is known, small enough to train in a second, and what tests do with it."""

from __future__ import annotations

from typing import Any

import torch

from molsampler.basis import ranks
from molsampler.basis.settings import change
from molsampler.diffusion.noise import ScheduleConfig
from molsampler.diffusion.policy import PolicyConfig
from molsampler.diffusion.twist import TwistConfig
from molsampler.smc.annealed import AnnealConfig, annealed_smc
from molsampler.smc.sampler import SMCConfig
from molsampler.targets.target import Target
from molsampler.training.config import (
    BatchConfig,
    MovesConfig,
    OptimiserConfig,
    PassConfig,
    PrefillConfig,
    ReplayConfig,
    RolloutConfig,
    TrainConfig,
    per_rank,
)
from molsampler.training.trainer import Trainer
from tests.targets.analytic import TwoWells

LOG_Z = 1.7
CONFIG = TrainConfig(
    warm_updates=150,
    updates=60,
    precision="float32",
    compile=False,
    evaluation_samples=2000,
    schedule=ScheduleConfig(4, circle_min=0.4),
    policy=PolicyConfig(16, 2),
    twist=TwistConfig(16, 2),
    smc=SMCConfig(chunk=2, kappa=1.1),
    anneal=AnnealConfig(particles=256, moves=4, last_moves=10),
    optimiser=OptimiserConfig(warm_rate=2e-2, rate=2e-3, ramp=10, ema=0.95),
    batch=BatchConfig(denoising=1024, balance=64),
    replay=ReplayConfig(capacity=5000),
    passes=PassConfig(particles=64),
    moves=MovesConfig(every=5, parents=64, steps=2),
    rollouts=RolloutConfig(number=0),
    prefill=PrefillConfig(frames=8, steps=5),
)
SHORT = change(CONFIG, warm_updates=7, updates=9, evaluation_samples=64, rollouts={"number": 32, "every": 3})


def make(config: TrainConfig = CONFIG, target: Target | None = None, seed: int = 0) -> Trainer:
    """A trainer at its first update, begun as the configuration says; of this rank, where there are several."""
    trainer = Trainer(target or TwoWells(LOG_Z), change(config, seed=seed), ranks.generator(seed))
    if config.start == "scratch":
        trainer.begin()
        return trainer
    with trainer.target.counter.purpose("prefill"):
        anneal = per_rank(config).anneal
        found = annealed_smc(trainer.target.log_prob_and_score, trainer.target.space, anneal, trainer.generator)
    trainer.begin(found)
    return trainer


def train(trainer: Trainer, until: int | None = None) -> Trainer:
    while trainer.done < (trainer.total if until is None else until):
        trainer.update()
    return trainer


def flat(state: Any, path: str = "") -> dict[str, Any]:
    """A nested state as one level, without the seconds, which no two runs share."""
    if isinstance(state, dict):
        items = state.items()
    elif isinstance(state, list | tuple):
        items = enumerate(state)
    else:
        return {path: state}
    timed = ("seconds", "phase_seconds")
    return {k: v for name, value in items if name not in timed for k, v in flat(value, f"{path}/{name}").items()}


def assert_same(one: Any, two: Any) -> None:
    """Two nested states agree to the last bit, NaN being NaN."""
    one, two = flat(one), flat(two)
    assert one.keys() == two.keys()
    for name, value in one.items():
        other = two[name]
        if isinstance(value, torch.Tensor):
            assert torch.equal(value, other), name
        else:
            assert value == other or (value != value and other != other), name
