"""Configurations of synthetic runs: what a run can be told, and the settings of each target."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any, Literal

from molsampler.diffusion.policy import PolicyConfig
from molsampler.diffusion.process import ScheduleConfig
from molsampler.preparation.synthetic import Standardise
from molsampler.targets.synthetic import make_synthetic
from molsampler.training.config import BehaviourConfig, TrainConfig


@dataclass(frozen=True)
class SyntheticConfig:
    """One run.

    target : a name in `molsampler.targets.synthetic.SYNTHETIC`; arm : one in `molsampler.runs.methods.ARMS`
    standardise : coordinates of the annealed start; arms from scratch keep the prior's (targets/standardise.py)
    samples : drawn at the end; threads : of torch, 0 for all cores; device : these targets are for the CPU
    """

    target: str = "gmm40-2d"
    arm: str = "default"
    standardise: Standardise = "diagonal"
    samples: int = 10_000
    threads: int = 0
    device: Literal["cpu"] = "cpu"
    train: TrainConfig = field(default_factory=TrainConfig)


_TRAIN = TrainConfig(
    warm_updates=3500,
    updates=500,
    evaluations=40,
    evaluation_samples=2000,
    schedule=ScheduleConfig(line_power=1.5),
    policy=PolicyConfig(width=128),
    behaviour=BehaviourConfig(moves_limit=2_000_000, smc_particles=512, warm_rollouts=2048),
)
"""Numbers of updates, not minutes: a busy machine takes longer and gives the same. One to six minutes on one core."""


def _frequencies(n: int) -> dict[str, dict[str, Any]]:
    return {"policy": {"frequencies": n}, "twist": {"frequencies": n}}


_UPDATES: dict[str, tuple[int, int]] = {
    "gmm25": (2000, 300),
    "manywell-32d": (4500, 500),
    "manywell-64d": (6000, 500),
    "robot-arm-4": (1000, 3000),
}
_SETTINGS: dict[str, dict[str, dict[str, Any]]] = {
    "gmm40": _frequencies(16),
    "gmm40-50d": _frequencies(2),
    "gmm25": _frequencies(16),
    "funnel": {
        "policy": {"frequencies": 8, "log_var_range": 6.0},
        "twist": {"frequencies": 8},
        "schedule": {"line_power": 2.0},
        "anneal": {"step_range": 100.0, "ess": 0.9, "moves": 20},
        "behaviour": {"moves_step_range": 100.0},
    },
    "manywell": {"policy": {"frequencies": 4, "width": 192}, "twist": {"frequencies": 4}},
    "student": {"policy": {"frequencies": 8, "log_var_range": 6.0}, "twist": {"frequencies": 8}},
    # a thin sheet: many particles for the sheet's extent, and balance rather than denoising for its thickness; weights
    # of a young policy say nothing there
    "robot": {
        "policy": {"frequencies": 4, "log_var_range": 6.0, "width": 256},
        "twist": {"frequencies": 4},
        "schedule": {"line_power": 2.0},
        "anneal": {"particles": 16384, "step_range": 10.0, "ess": 0.9, "moves": 10},
        "optimiser": {"rate": 1e-3},
        "behaviour": {"warm_rollouts": 0},
    },
}
_CHARTS: dict[str, Standardise] = {"funnel": "sinh", "student": "sinh", "cox": "prior"}


def synthetic_config(target: str) -> SyntheticConfig:
    """The settings of that target for two cores and some minutes; InputError where there is no such target."""
    make_synthetic(target)
    family = target.split("-")[0]
    warm_updates, updates = _UPDATES.get(target, (_TRAIN.warm_updates, _TRAIN.updates))
    train = replace(_TRAIN, warm_updates=warm_updates, updates=updates)
    for name, values in _SETTINGS.get(target, _SETTINGS.get(family, {})).items():
        train = replace(train, **{name: replace(getattr(train, name), **values)})
    return SyntheticConfig(target=target, standardise=_CHARTS.get(family, "diagonal"), train=train)
