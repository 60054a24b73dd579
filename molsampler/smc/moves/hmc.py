"""Hamiltonian Monte Carlo on a Space.

It proposes on R^a x T^b by wrapping angles: a translation of the torus keeps its volume, and the kernel needs no
density of its proposal there.
"""

from __future__ import annotations

import torch
from torch import Tensor

from molsampler.basis.space import Space
from molsampler.smc.moves.chain import ChainState, LogProbAndScore, ProposalScale, drift, metropolis, walk

HMC_ACCEPTANCE = 0.65  # Beskos et al. (2013)
_HMC_ADAPTATION_RATE = 0.5  # its steps are few and dear
_JITTER = 0.2


@torch.no_grad()
def hmc(
    log_prob_and_score: LogProbAndScore,
    space: Space,
    state: ChainState,
    scale: ProposalScale,
    n_steps: int,
    generator: torch.Generator,
    adapt: bool = True,
    *,
    leapfrog_steps: int,
) -> tuple[ChainState, ProposalScale, float]:
    """Hamiltonian Monte Carlo (Neal 2011), `leapfrog_steps` evaluations each a step; acceptance adapts to 0.65.

    The momentum is kept as a displacement v = spread x standard normal noise, so the mass matrix is diagonal. The force
    is MALA's truncated drift: any function of the position alone makes the leapfrog reversible and keeps volume, so the
    target stays exactly invariant, and one leapfrog step is MALA. Every chain's step varies by 20 %, so that no
    trajectory length falls in with a period of the target.
    """

    def step(state: ChainState, scale: ProposalScale) -> tuple[ChainState, float]:
        noise = torch.randn(state.x.shape, generator=generator, dtype=state.x.dtype, device=state.x.device)
        share = torch.rand(len(noise), 1, generator=generator, dtype=noise.dtype, device=noise.device)
        std = scale.std(space) * (1.0 + _JITTER * (2.0 * share - 1.0))  # (B, D)
        proposal, v = _leapfrog(log_prob_and_score, space, state, std * noise, std, leapfrog_steps)
        momentum = torch.where(std > 0, v / std, noise)  # labels have no spread and do not move
        kinetic_gain = 0.5 * (momentum.square() - noise.square()).sum(-1)
        return metropolis(state, proposal, proposal.log_r - state.log_r - kinetic_gain, generator)

    return walk(step, state, scale, n_steps, HMC_ACCEPTANCE if adapt else None, _HMC_ADAPTATION_RATE)


def _leapfrog(
    log_prob_and_score: LogProbAndScore,
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
