"""Presets: whole configurations by name."""

from __future__ import annotations

from molsampler.basis.errors import InputError
from molsampler.diffusion.policy import PolicyConfig
from molsampler.diffusion.process import ScheduleConfig
from molsampler.diffusion.twist import TwistConfig
from molsampler.preparation.molecule import SetupConfig
from molsampler.runs.molecule import RunConfig
from molsampler.smc.annealed import AnnealConfig
from molsampler.smc.sampler import SMCConfig
from molsampler.training.config import BehaviourConfig, OptimiserConfig, TrainConfig


def _smoke() -> RunConfig:
    return RunConfig(
        samples=512,
        setup=SetupConfig(chains=64, burn_in=0.2, length=0.4, interval=0.01),
        train=TrainConfig(
            warm_updates=60,
            updates=40,
            precision="float32",
            compile=False,
            evaluations=5,
            evaluation_samples=256,
            schedule=ScheduleConfig(n_steps=12),
            policy=PolicyConfig(width=128),
            smc=SMCConfig(chunk=3),
            anneal=AnnealConfig(particles=512, moves=4, last_moves=20),
            behaviour=BehaviourConfig(
                batch=64,
                warm_batch=1536,
                smc_particles=64,
                moves_every=25,
                moves_parents=128,
                prefill_frames=8,
                capacity=20_000,
                explore_capacity=5_000,
            ),
        ),
    )


def _paper() -> RunConfig:
    return RunConfig(
        device="cuda",
        train=TrainConfig(
            minutes=240.0,
            precision="float32",
            schedule=ScheduleConfig(n_steps=128),
            policy=PolicyConfig(width=1024),
            twist=TwistConfig(width=256),
            smc=SMCConfig(chunk=32),
            optimiser=OptimiserConfig(log_z_rate=0.05),
            behaviour=BehaviourConfig(
                batch=400,
                smc_particles=400,
                smc_every=1,
                moves_every=100,
                moves="md",
                moves_parents=200,
                moves_steps=500,
                moves_limit=100_000_000,
                capacity=400_000,
            ),
        ),
    )


PRESETS = {
    "smoke": (_smoke, "under a minute, without compilation: does everything work here?"),
    "cpu": (RunConfig, "15 minutes of training on two cores"),
    "long": (
        lambda: RunConfig(train=TrainConfig(minutes=60.0, behaviour=BehaviourConfig(moves_limit=20_000_000))),
        "60 minutes of training on two cores",
    ),
    "paper": (_paper, "the paper's sizes, for a large GPU"),
}


def preset(name: str) -> RunConfig:
    """The configuration of that name; InputError lists the names there are."""
    if name not in PRESETS:
        raise InputError(f"unknown preset '{name}'; choose one of {', '.join(PRESETS)}")
    return PRESETS[name][0]()
