"""Configurations of synthetic runs: what a run can be told, and the settings of each target."""

from __future__ import annotations

from dataclasses import dataclass, field

from molsampler.diffusion.policy import PolicyConfig
from molsampler.diffusion.process import ScheduleConfig
from molsampler.targets.standardise import Standardise
from molsampler.targets.synthetic import make_synthetic
from molsampler.training.config import BehaviourConfig, TrainConfig


@dataclass(frozen=True)
class SyntheticConfig:
    """One run.

    target : a name in `molsampler.targets.synthetic.SYNTHETIC`; arm : one in `molsampler.arms.ARMS`
    standardise : coordinates of the annealed start; arms from scratch keep the prior's (targets/standardise.py)
    samples : drawn at the end; threads : of torch, 0 for all cores; device : kept at "cpu"
    """

    target: str = "gmm40-2d"
    arm: str = "default"
    standardise: Standardise = "diagonal"
    samples: int = 10_000
    threads: int = 0
    device: str = "cpu"
    train: TrainConfig = field(default_factory=TrainConfig)


_TRAIN = TrainConfig(
    minutes=3.0,
    evaluations=40,
    evaluation_samples=2000,
    schedule=ScheduleConfig(n_steps=24, line_power=1.5),
    policy=PolicyConfig(width=128),
    behaviour=BehaviourConfig(moves_limit=2_000_000, smc_particles=512),
)


def synthetic_config(target: str) -> SyntheticConfig:
    """The settings of that target for two cores and some minutes; InputError where there is no such target."""
    make_synthetic(target)
    return SyntheticConfig(target=target, train=_TRAIN)
