"""Markov kernels that leave R invariant, of one signature with `mala`: Hamiltonian Monte Carlo and random-walk
Metropolis.

Both propose on R^a x T^b by wrapping angles: a translation of the torus keeps its volume, and neither kernel needs the
density of its proposal there.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Literal, Protocol

import torch
from torch import Tensor

from molsampler.basis.errors import InputError
from molsampler.basis.space import Space
from molsampler.smc.moves.mala import ChainState, MalaScale, drift, mala, metropolis, walk

KernelName = Literal["mala", "hmc", "random_walk"]

HMC_ACCEPTANCE = 0.65  # Beskos et al. (2013)
RANDOM_WALK_ACCEPTANCE = 0.234  # Roberts, Gelman and Gilks (1997)
_HMC_ADAPTATION_RATE = 0.5  # its steps are few and dear
_JITTER = 0.2


class Kernel(Protocol):
    """n_steps on B chains at once: the new state, the scale (its step adapted where `adapt`), the mean acceptance.

    The last evaluation of a step is that of its proposal. Chains start on the support; proposals off it are rejected.
    """

    def __call__(
        self,
        log_prob_and_score: Callable[[Tensor], tuple[Tensor, Tensor]],
        space: Space,
        state: ChainState,
        scale: MalaScale,
        n_steps: int,
        generator: torch.Generator,
        adapt: bool = True,
    ) -> tuple[ChainState, MalaScale, float]: ...


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


@torch.no_grad()
def hmc(
    log_prob_and_score: Callable[[Tensor], tuple[Tensor, Tensor]],
    space: Space,
    state: ChainState,
    scale: MalaScale,
    n_steps: int,
    generator: torch.Generator,
    adapt: bool = True,
    *,
    leapfrog_steps: int,
) -> tuple[ChainState, MalaScale, float]:
    """Hamiltonian Monte Carlo (Neal 2011), `leapfrog_steps` evaluations each a step; acceptance adapts to 0.65.

    The momentum is kept as a displacement v = spread x standard normal noise, so the mass matrix is diagonal. The force
    is MALA's truncated drift: any function of the position alone makes the leapfrog reversible and keeps volume, so the
    target stays exactly invariant, and one leapfrog step is MALA. Every chain's step varies by 20 %, so that no
    trajectory length falls in with a period of the target.
    """

    def step(state: ChainState, scale: MalaScale) -> tuple[ChainState, float]:
        noise = torch.randn(state.x.shape, generator=generator, dtype=state.x.dtype, device=state.x.device)
        share = torch.rand(len(noise), 1, generator=generator, dtype=noise.dtype, device=noise.device)
        std = scale.std(space) * (1.0 + _JITTER * (2.0 * share - 1.0))  # (B, D)
        proposal, v = _leapfrog(log_prob_and_score, space, state, std * noise, std, leapfrog_steps)
        kinetic_gain = 0.5 * ((v / std).square() - noise.square()).sum(-1)
        return metropolis(state, proposal, proposal.log_r - state.log_r - kinetic_gain, generator)

    return walk(step, state, scale, n_steps, HMC_ACCEPTANCE if adapt else None, _HMC_ADAPTATION_RATE)


def _leapfrog(
    log_prob_and_score: Callable[[Tensor], tuple[Tensor, Tensor]],
    space: Space,
    state: ChainState,
    v: Tensor,
    std: Tensor,
    steps: int,
) -> tuple[ChainState, Tensor]:
    """States and displacements (B, D) after `steps` leapfrog steps; std broadcasts to (B, D)."""
    kick = _half_kick(state.score, std)
    for _ in range(steps):
        v = v + kick
        x = space.wrap(state.x + v)
        state = ChainState(x, *log_prob_and_score(x))
        kick = _half_kick(state.score, std)
        v = v + kick
    return state, v


def _half_kick(score: Tensor, std: Tensor) -> Tensor:
    """The change of v (B, D) by half a step's force; none where the target has no finite score."""
    return drift(torch.where(torch.isfinite(score).all(-1, keepdim=True), score, 0.0), std)


@torch.no_grad()
def random_walk(
    log_prob_and_score: Callable[[Tensor], tuple[Tensor, Tensor]],
    space: Space,
    state: ChainState,
    scale: MalaScale,
    n_steps: int,
    generator: torch.Generator,
    adapt: bool = True,
) -> tuple[ChainState, MalaScale, float]:
    """Random-walk Metropolis, one evaluation each a step; acceptance adapts to 0.234.

    Scores serve no proposal; they are carried for the next preconditioner.
    """

    def step(state: ChainState, scale: MalaScale) -> tuple[ChainState, float]:
        y = space.sample_normal(state.x, 2.0 * scale.std(space).log().expand_as(state.x), generator)
        proposal = ChainState(y, *log_prob_and_score(y))
        return metropolis(state, proposal, proposal.log_r - state.log_r, generator)

    return walk(step, state, scale, n_steps, RANDOM_WALK_ACCEPTANCE if adapt else None)
