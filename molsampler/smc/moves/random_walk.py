"""Random-walk Metropolis on a Space."""

from __future__ import annotations

import torch

from molsampler.basis.space import Space
from molsampler.smc.moves.chain import ChainState, LogProbAndScore, ProposalScale, metropolis, walk

RANDOM_WALK_ACCEPTANCE = 0.234  # Roberts, Gelman and Gilks (1997)


@torch.no_grad()
def random_walk(
    log_prob_and_score: LogProbAndScore,
    space: Space,
    state: ChainState,
    scale: ProposalScale,
    n_steps: int,
    generator: torch.Generator,
    adapt: bool = True,
) -> tuple[ChainState, ProposalScale, float]:
    """Random-walk Metropolis, one evaluation each a step; acceptance adapts to 0.234.

    Scores serve no proposal; they are carried for the next preconditioner.
    """

    def step(state: ChainState, scale: ProposalScale) -> tuple[ChainState, float]:
        y = space.sample_normal(state.x, 2.0 * scale.std(space).log().expand_as(state.x), generator)
        proposal = ChainState(y, *log_prob_and_score(y))
        return metropolis(state, proposal, proposal.log_r - state.log_r, generator)

    return walk(step, state, scale, n_steps, RANDOM_WALK_ACCEPTANCE if adapt else None)
