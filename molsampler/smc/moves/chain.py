"""What every Markov kernel on a space shares: the chains' state, the scale of proposals and its adaptation, Metropolis'
rule, and the truncated drift.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from molsampler.basis.space import Space

_ADAPTATION_RATE = 0.15
_MAX_DRIFT = 3.0  # spreads of the proposal's noise, per coordinate on average

LogProbAndScore = Callable[[Tensor], tuple[Tensor, Tensor]]
"""States (B, D) -> log R (B,) and its gradient (B, D)."""


@dataclass(frozen=True)
class ChainState:
    """x : (B, D); log_r : (B,) log R(x); score : (B, D) its gradient."""

    x: Tensor
    log_r: Tensor
    score: Tensor


@dataclass(frozen=True)
class ProposalScale:
    """scale : (D,) preconditioner, spread of the proposal relative to `step`; step : the common factor."""

    scale: Tensor
    step: float

    @staticmethod
    def from_scores(score: Tensor, step: float = 0.5) -> ProposalScale:
        """Scale every coordinate by the inverse root of its Fisher information, E[score^2]; score (M, D)."""
        fisher = score.double().square().mean(0).clamp_min(1e-12)
        return ProposalScale(fisher.rsqrt().clamp_max(math.pi / 4).to(score.dtype), step)

    def std(self, space: Space) -> Tensor:
        """(D,) spread of the proposal's noise."""
        std = self.step * self.scale
        # on a flat circle every move is accepted and the step grows; wider kernels have no exact density
        return torch.minimum(std, space.max_std.to(std))

    def adapted(self, acceptance: float, optimum: float, rate: float = _ADAPTATION_RATE) -> ProposalScale:
        """The step made longer or shorter by up to a factor exp(rate), so that acceptance comes nearer to its
        optimum."""
        return ProposalScale(self.scale, self.step * math.exp(rate * (acceptance - optimum)))


def walk(
    step: Callable[[ChainState, ProposalScale], tuple[ChainState, float]],
    state: ChainState,
    scale: ProposalScale,
    n_steps: int,
    optimum: float | None,
    rate: float = _ADAPTATION_RATE,
) -> tuple[ChainState, ProposalScale, float]:
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
