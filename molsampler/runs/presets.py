"""Presets: whole configurations by name."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

from molsampler.basis.errors import InputError
from molsampler.basis.settings import change
from molsampler.runs.molecule import RunConfig

PresetName = Literal["smoke", "cpu", "long", "paper"]


def _smoke() -> RunConfig:
    """Under a minute, without compilation: does everything work here?"""
    return change(
        RunConfig(),
        samples=512,
        coverage=512,
        setup={"chains": 64, "burn_in": 0.2, "length": 0.4, "interval": 0.01},
        pieces={"chains": 32, "length": 3.0, "quenched": 4},
        train={
            "warm_updates": 60,
            "updates": 40,
            "precision": "float32",
            "compile": False,
            "evaluations": 5,
            "evaluation_samples": 256,
            "schedule": {"n_steps": 6},
            "policy": {"width": 128},
            "smc": {"chunk": 3, "proposals": 1},
            "anneal": {"particles": 512, "moves": 4, "last_moves": 20},
            "batch": {"denoising": 1536, "balance": 64},
            "replay": {"capacity": 20_000},
            "passes": {"particles": 64},
            "moves": {"every": 25, "parents": 128},
            "rollouts": {"number": 256, "every": 20},
            "prefill": {"frames": 8},
            "explorers": {"capacity": 5_000},
        },
    )


def _cpu() -> RunConfig:
    """15 minutes of training on two cores."""
    return RunConfig()


def _long() -> RunConfig:
    """60 minutes of training on two cores."""
    return change(RunConfig(), train={"minutes": 60.0})


def _paper() -> RunConfig:
    """The paper's sizes, for a large GPU."""
    return change(
        RunConfig(),
        device="cuda",
        train={
            "minutes": 240.0,
            "warm_share": 0.75,
            "warm_least": 0,
            "balanced": "all",
            "precision": "float32",
            "schedule": {"n_steps": 128, "torsions": "joint"},
            "policy": {"width": 1024, "guide": False},
            "twist": {"width": 256},
            "smc": {"chunk": 32, "proposals": 1},
            "optimiser": {
                "method": "adam",
                "warm_rate": 2e-3,
                "mixture_rate": 2e-3,
                "rate": 1e-4,
                "log_z_rate": 0.05,
            },
            "batch": {"denoising": 4080, "balance": 400},
            "replay": {"capacity": 400_000},
            "passes": {"every": 1, "particles": 400},
            "moves": {"every": 100, "kind": "md", "parents": 200, "steps": 500, "limit": 100_000_000},
        },
    )


PRESETS: dict[PresetName, Callable[[], RunConfig]] = {"smoke": _smoke, "cpu": _cpu, "long": _long, "paper": _paper}


def preset(name: str) -> RunConfig:
    """The configuration of that name; InputError lists the names there are."""
    if name not in PRESETS:
        raise InputError(f"unknown preset '{name}'; choose one of {', '.join(PRESETS)}")
    return PRESETS[name]()
