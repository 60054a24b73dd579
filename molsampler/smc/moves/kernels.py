"""The Markov kernels that leave R invariant, of one signature, by name."""

from __future__ import annotations

from functools import partial
from typing import Literal, Protocol

import torch

from molsampler.basis.errors import InputError
from molsampler.basis.space import Space
from molsampler.smc.moves.chain import ChainState, LogProbAndScore, ProposalScale
from molsampler.smc.moves.hmc import hmc
from molsampler.smc.moves.mala import mala
from molsampler.smc.moves.random_walk import random_walk

KernelName = Literal["mala", "hmc", "random_walk"]


class Kernel(Protocol):
    """n_steps on B chains at once: the new state, the scale (its step adapted where `adapt`), the mean acceptance.

    The last evaluation of a step is that of its proposal. Chains start on the support; proposals off it are rejected.
    """

    def __call__(
        self,
        log_prob_and_score: LogProbAndScore,
        space: Space,
        state: ChainState,
        scale: ProposalScale,
        n_steps: int,
        generator: torch.Generator,
        adapt: bool = True,
    ) -> tuple[ChainState, ProposalScale, float]: ...


def kernel_named(name: KernelName, leapfrog_steps: int, step_range: float = 1.0) -> Kernel:
    """The kernel `name`; leapfrog_steps counts for "hmc" alone, step_range for "mala" alone."""
    if leapfrog_steps < 1:
        raise InputError(f"leapfrog_steps = {leapfrog_steps} moves nothing; give at least 1")
    if step_range < 1.0:
        raise InputError(f"step_range = {step_range} has no meaning; give 1 for one step, or more")
    kernels: dict[str, Kernel] = {
        "mala": partial(mala, step_range=step_range),
        "hmc": partial(hmc, leapfrog_steps=leapfrog_steps),
        "random_walk": random_walk,
    }
    return kernels[name]
