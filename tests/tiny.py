"""The one small configuration of all whole runs: nothing is learnt, every part has to do its work.

Keys are those of a configuration file. A run on a molecule and one on a synthetic target share TRAIN but for a few
numbers; `toml` writes either as a file.
"""

from __future__ import annotations

from typing import Any

from molsampler.store.config_file import update
from molsampler.training.config import TrainConfig

TRAIN: dict[str, Any] = {
    "warm_updates": 40,
    "updates": 24,
    "precision": "float32",
    "compile": False,
    "evaluations": 4,
    "evaluation_samples": 200,
    "checkpoint_seconds": 0.0,
    "schedule": {"n_steps": 4},
    "policy": {"width": 16, "depth": 2},
    "twist": {"width": 16, "depth": 2},
    "smc": {"chunk": 2},
    "anneal": {"particles": 256, "moves": 2, "last_moves": 4},
    "behaviour": {
        "batch": 32,
        "warm_batch": 240,
        "smc_particles": 64,
        "moves_every": 20,
        "moves_parents": 64,
        "moves_steps": 2,
        "capacity": 2000,
        "prefill_frames": 2,
        "prefill_steps": 2,
    },
}


def merged(values: dict[str, Any], changes: dict[str, Any]) -> dict[str, Any]:
    """A copy of nested `values` with `changes` put in, table by table."""
    result = dict(values)
    for key, value in changes.items():
        result[key] = merged(values.get(key, {}), value) if isinstance(value, dict) else value
    return result


SYNTHETIC: dict[str, Any] = {
    "samples": 1000,
    "train": merged(TRAIN, {"schedule": {"n_steps": 6}, "behaviour": {"warm_rollouts": 64}}),
}
# More updates, of less each, and more rows: a run that lasts long enough to be killed in the middle.
MOLECULE: dict[str, Any] = {
    "samples": 192,
    "threads": 1,
    "backend": "torch",
    "setup": {"chains": 32, "burn_in": 0.02, "length": 0.05, "interval": 0.005},
    "train": merged(
        TRAIN,
        {
            "warm_updates": 200,
            "updates": 100,
            "evaluations": 30,
            "evaluation_samples": 32,
            "checkpoint_seconds": 0.1,
            "anneal": {"particles": 192, "moves": 1},
            "behaviour": {
                "batch": 16,
                "warm_batch": 64,
                "smc_particles": 16,
                "moves_every": 25,
                "moves_parents": 32,
                "capacity": 1000,
                "explore_capacity": 400,
            },
        },
    ),
}


def train_config(**changes: Any) -> TrainConfig:
    """TRAIN as the object that a trainer takes."""
    return update(TrainConfig(), merged(TRAIN, changes), "tests/tiny.py")


def toml(values: dict[str, Any], path: str = "") -> str:
    """A nested dict as TOML: its plain values, then its tables."""
    lines = [f"{key} = {_plain(value)}" for key, value in values.items() if not isinstance(value, dict)]
    tables = [(f"{path}{key}", value) for key, value in values.items() if isinstance(value, dict)]
    return "\n".join(lines) + "\n" + "".join(f"[{name}]\n{toml(table, f'{name}.')}" for name, table in tables)


def _plain(value: str | bool | int | float) -> str:
    return f'"{value}"' if isinstance(value, str) else str(value).lower()
