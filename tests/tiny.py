"""The one small configuration of all whole runs: nothing is learnt, every part has to do its work.

Keys are those of a configuration file. A run on a molecule and one on a synthetic target share TRAIN but for a few
numbers; `toml` writes either as a file.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from molsampler.cli.synthetic import main
from molsampler.runs.density import DensityConfig
from molsampler.runs.molecule import RunConfig
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
    "batch": {"denoising": 240, "balance": 32},
    "replay": {"capacity": 2000},
    "passes": {"particles": 64},
    "moves": {"every": 20, "parents": 64, "steps": 2},
    "prefill": {"frames": 2, "steps": 2},
}


def merged(values: dict[str, Any], changes: dict[str, Any]) -> dict[str, Any]:
    """A copy of nested `values` with `changes` put in, table by table."""
    result = dict(values)
    for key, value in changes.items():
        result[key] = merged(values.get(key, {}), value) if isinstance(value, dict) else value
    return result


SYNTHETIC: dict[str, Any] = {
    "samples": 1000,
    "train": merged(TRAIN, {"schedule": {"n_steps": 6}, "rollouts": {"number": 64, "every": 20}}),
}
# More updates, of less each, and more rows: a run that lasts long enough to be killed in the middle.
MOLECULE: dict[str, Any] = {
    "samples": 192,
    "threads": 1,
    "backend": "torch",
    "coverage": 0,
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
            "batch": {"denoising": 64, "balance": 16},
            "replay": {"capacity": 1000},
            "passes": {"particles": 16},
            "moves": {"every": 25, "parents": 32},
            "explorers": {"capacity": 400},
        },
    ),
}
# The smallest molecule and sixteen updates: for what a run leaves behind and how it goes on.
BRIEF: dict[str, Any] = merged(
    MOLECULE,
    {
        "system": "gly",
        "samples": 160,
        "train": {"warm_updates": 8, "updates": 8, "evaluations": 4, "moves": {"every": 5}},
    },
)


def train_config(**changes: Any) -> TrainConfig:
    """TRAIN as the object that a trainer takes."""
    return update(TrainConfig(), merged(TRAIN, changes), "tests/tiny.py")


def molecule_config(**changes: Any) -> RunConfig:
    """BRIEF as the object that a run takes."""
    return update(RunConfig(), merged(BRIEF, changes), "tests/tiny.py")


def density_config(**changes: Any) -> DensityConfig:
    """SYNTHETIC as what a run on a density of one's own takes; one thread."""
    return update(DensityConfig(), merged({**SYNTHETIC, "threads": 1}, changes), "tests/tiny.py")


def toml(values: dict[str, Any], path: str = "") -> str:
    """A nested dict as TOML: its plain values, then its tables."""
    lines = [f"{key} = {_plain(value)}" for key, value in values.items() if not isinstance(value, dict)]
    tables = [(f"{path}{key}", value) for key, value in values.items() if isinstance(value, dict)]
    return "\n".join(lines) + "\n" + "".join(f"[{name}]\n{toml(table, f'{name}.')}" for name, table in tables)


def run_synthetic(target: str, tiny: Path, out: Path, *more: str) -> int:
    """The exit status of scripts/run_synthetic.py with the settings of the file `tiny`."""
    return main([target, "--config", str(tiny), "--out", str(out), "--threads", "1", "--quiet", *more])


def _plain(value: str | bool | int | float) -> str:
    return f'"{value}"' if isinstance(value, str) else str(value).lower()
