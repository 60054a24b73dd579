"""Metropolis-adjusted Langevin moves on a Space, with a truncated drift and a step adapted to acceptance 0.574.

Roberts and Tweedie (1996); the truncation keeps the chain geometrically ergodic where forces explode and, being the
same function in both directions, leaves the target exactly invariant.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from molsampler.basis.space import MAX_CIRCLE_STD, Space

OPTIMAL_ACCEPTANCE = 0.574  # Roberts and Rosenthal (1998)
_ADAPTATION_RATE = 0.15
_MAX_DRIFT = 3.0  # spreads of the proposal's noise, per coordinate on average


@dataclass(frozen=True)
class ChainState:
    """x : (B, D); log_r : (B,) log R(x); score : (B, D) its gradient."""

    x: Tensor
    log_r: Tensor
    score: Tensor


@dataclass(frozen=True)
class MalaScale:
    """scale : (D,) preconditioner, spread of the proposal relative to `step`; step : the common factor."""

    scale: Tensor
    step: float

    @staticmethod
    def from_scores(score: Tensor, step: float = 0.5) -> MalaScale:
        """Scale every coordinate by the inverse root of its Fisher information, E[score^2]; score (M, D)."""
        fisher = score.double().square().mean(0).clamp_min(1e-12)
        return MalaScale(fisher.rsqrt().clamp_max(math.pi / 4).to(score.dtype), step)

    def std(self, space: Space) -> Tensor:
        """(D,) spread of the proposal's noise."""
        std = self.step * self.scale
        # on a flat circle every move is accepted and the step grows; wider kernels have no exact density
        std[space.n_line :].clamp_max_(MAX_CIRCLE_STD)
        return std

    def adapted(self, acceptance: float, optimum: float, rate: float = _ADAPTATION_RATE) -> MalaScale:
        """The step made longer or shorter by up to a factor exp(rate), so that acceptance comes nearer to its
        optimum."""
        return MalaScale(self.scale, self.step * math.exp(rate * (acceptance - optimum)))


@torch.no_grad()
def mala(
    log_prob_and_score: Callable[[Tensor], tuple[Tensor, Tensor]],
    space: Space,
    state: ChainState,
    scale: MalaScale,
    n_steps: int,
    generator: torch.Generator,
    adapt: bool = True,
    *,
    step_range: float = 1.0,
) -> tuple[ChainState, MalaScale, float]:
    """n_steps of MALA on B chains at once, one evaluation each a step.

    Returns the new state, the adapted scale and the mean acceptance. Chains start on the support (log_r finite);
    proposals off it are rejected.
    step_range : above 1, every chain draws its own step each time, log-uniformly from this many times shorter up to the
        common one; for targets whose width differs from place to place, such as a funnel
    """

    def step(state: ChainState, scale: MalaScale) -> tuple[ChainState, float]:
        std = scale.std(space)
        if step_range > 1.0:
            u = torch.rand(len(state.x), 1, generator=generator, dtype=std.dtype, device=std.device)
            std = std * step_range**-u  # (B, D); drawn before the proposal and independent of the state
        log_var = 2.0 * std.log()
        mean = state.x + drift(state.score, std)
        y = space.sample_normal(mean, log_var.expand_as(mean), generator)
        proposal = ChainState(y, *log_prob_and_score(y))
        log_forward = space.log_normal(y, mean, log_var)
        log_backward = space.log_normal(state.x, y + drift(proposal.score, std), log_var)
        log_accept = proposal.log_r - state.log_r + log_backward - log_forward
        return metropolis(state, proposal, log_accept, generator)

    return walk(step, state, scale, n_steps, OPTIMAL_ACCEPTANCE if adapt else None)


def walk(
    step: Callable[[ChainState, MalaScale], tuple[ChainState, float]],
    state: ChainState,
    scale: MalaScale,
    n_steps: int,
    optimum: float | None,
    rate: float = _ADAPTATION_RATE,
) -> tuple[ChainState, MalaScale, float]:
    """n_steps of a kernel's `step`, which gives the new state and the share accepted; the scale adapts to the
    acceptance `optimum`, where one is given. Returns the state, the scale and the mean acceptance."""
    accepted = 0.0
    for _ in range(n_steps):
        state, share = step(state, scale)
        accepted += share
        if optimum is not None:
            scale = scale.adapted(share, optimum, rate)
    return state, scale, accepted / max(n_steps, 1)


def metropolis(
    state: ChainState, proposal: ChainState, log_accept: Tensor, generator: torch.Generator
) -> tuple[ChainState, float]:
    """Each chain's proposal with probability exp(log_accept) (B,), its old state otherwise, and the share accepted.

    Proposals whose log R is not finite are rejected.
    """
    y = proposal.x
    u = torch.rand(len(y), generator=generator, dtype=y.dtype, device=y.device)
    take = torch.isfinite(proposal.log_r) & (u.log() < log_accept)
    chosen = ChainState(
        torch.where(take[:, None], y, state.x),
        torch.where(take, proposal.log_r, state.log_r),
        torch.where(take[:, None], proposal.score, state.score),
    )
    return chosen, float(take.double().mean())


def drift(score: Tensor, std: Tensor) -> Tensor:
    """Half the squared spread times the score, shortened to at most _MAX_DRIFT spreads a coordinate (root mean
    square)."""
    noise_units = 0.5 * std * score
    size = noise_units.square().mean(-1, keepdim=True).sqrt()
    return std * noise_units * (_MAX_DRIFT / size.clamp_min(_MAX_DRIFT))
