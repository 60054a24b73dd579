"""What the tests of Markov kernels share."""

from __future__ import annotations

from torch import Tensor

from molsampler.smc.moves.chain import ChainState
from molsampler.targets.target import Target


def start(target: Target, x: Tensor) -> ChainState:
    """Chains at states x (B, D) of a target."""
    return ChainState(x, *target.log_prob_and_score(x))
