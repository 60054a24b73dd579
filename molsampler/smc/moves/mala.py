"""Metropolis-adjusted Langevin moves on a Space, with a truncated drift and a step adapted to acceptance 0.574.

Roberts and Tweedie (1996); the truncation keeps the chain geometrically ergodic where forces explode and, being the
same function in both directions, leaves the target exactly invariant.
"""

from __future__ import annotations

import torch

from molsampler.basis.space import Space
from molsampler.smc.moves.chain import ChainState, LogProbAndScore, ProposalScale, drift, metropolis, walk

OPTIMAL_ACCEPTANCE = 0.574  # Roberts and Rosenthal (1998)


@torch.no_grad()
def mala(
    log_prob_and_score: LogProbAndScore,
    space: Space,
    state: ChainState,
    scale: ProposalScale,
    n_steps: int,
    generator: torch.Generator,
    adapt: bool = True,
    *,
    step_range: float = 1.0,
) -> tuple[ChainState, ProposalScale, float]:
    """n_steps of MALA on B chains at once, one evaluation each a step.

    Returns the new state, the adapted scale and the mean acceptance. Chains start on the support (log_r finite);
    proposals off it are rejected.
    step_range : above 1, every chain draws its own step each time, log-uniformly from this many times shorter up to the
        common one; for targets whose width differs from place to place, such as a funnel
    """

    def step(state: ChainState, scale: ProposalScale) -> tuple[ChainState, float]:
        """One proposal and its acceptance, for every chain."""
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
