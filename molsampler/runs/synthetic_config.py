"""Configurations of synthetic runs: what a run can be told, and the settings of each target."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from molsampler.basis.settings import change, setting, table
from molsampler.targets.charted import Standardise
from molsampler.targets.synthetic import make_synthetic
from molsampler.training.config import TrainConfig


@dataclass(frozen=True)
class SyntheticConfig:
    """One run on a synthetic target."""

    target: str = setting("gmm40-2d", "a name in `molsampler.targets.synthetic`, SYNTHETIC or CONDITIONAL")
    arm: str = setting("default", "a method: a name in `molsampler.runs.methods.ARMS`")
    standardise: Standardise = setting(
        "diagonal", "coordinates of the annealed start", needs={"train.start": "annealed"}
    )
    samples: int = setting(10_000, "drawn at the end", low=1)
    processes: int = setting(
        1,
        "that train together, each with its share of every batch; 0 for one a core (command line), or as many as "
        "torchrun starts",
        low=0,
    )
    threads: int = setting(0, "of torch, in each process; 0 for all cores, shared among processes", low=0)
    device: Literal["cpu"] = setting("cpu", "these targets are for the CPU")
    train: TrainConfig = table(TrainConfig, "training")


_TRAIN = change(
    TrainConfig(),
    warm_updates=3500,
    updates=500,
    evaluations=40,
    evaluation_samples=2000,
    schedule={"line_power": 1.5},
    policy={"width": 128},
    passes={"particles": 512},
    moves={"limit": 2_000_000},
    rollouts={"number": 2048, "every": 20},
)
"""Numbers of updates, not minutes: a busy machine takes longer and gives the same. One to six minutes on one core."""


def _frequencies(n: int) -> dict[str, dict[str, Any]]:
    return {"policy": {"frequencies": n}, "twist": {"frequencies": n}}


_UPDATES: dict[str, tuple[int, int]] = {
    "gmm25": (2000, 300),
    "manywell-32d": (4500, 500),
    "manywell-64d": (6000, 500),
    "robot-arm-4": (1000, 3000),
    "linear-gaussian": (0, 1500),
    "vae-digits": (0, 3000),
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
        "moves": {"step_range": 100.0},
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
        "rollouts": {"number": 0},
    },
    "linear": {"evaluation_samples": 4096},
    "vae": {"evaluation_samples": 4096, "policy": {"width": 192}, "replay": {"capacity": 40_000}},
}
_SAMPLES = {"vae-digits": 51_200}  # 256 for each held-out condition
_CHARTS: dict[str, Standardise] = {"funnel": "sinh", "student": "sinh", "cox": "prior", "logistic": "full"}


def synthetic_config(target: str) -> SyntheticConfig:
    """The settings of that target for two cores and some minutes; InputError where there is no such target."""
    make_synthetic(target)
    family = target.split("-")[0]
    warm_updates, updates = _UPDATES.get(target, (_TRAIN.warm_updates, _TRAIN.updates))
    settings = _SETTINGS.get(target, _SETTINGS.get(family, {}))
    train = change(_TRAIN, warm_updates=warm_updates, updates=updates, **settings)
    chart, samples = _CHARTS.get(family, "diagonal"), _SAMPLES.get(target, SyntheticConfig.samples)
    return SyntheticConfig(target=target, standardise=chart, samples=samples, train=train)
