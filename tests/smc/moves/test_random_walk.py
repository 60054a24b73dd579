"""What is special about random-walk Metropolis; what it shares with the other kernels is in test_kernels.py."""

from __future__ import annotations

import math

import pytest
import torch

from molsampler.basis.space import Space
from molsampler.smc.moves.chain import ChainState, ProposalScale
from molsampler.smc.moves.random_walk import random_walk
from tests.smc.moves.chains import start
from tests.stochastic import assert_mean, seeded
from tests.targets.analytic import Gaussian, TwoWells


@pytest.mark.parametrize("spread", [0.3, 2.0, 6.0])
def test_acceptance_on_a_normal_density_is_its_closed_form(spread):
    """From N(0, 1) a step of spread s is accepted with probability (2 / pi) atan(2 / s)."""
    target = Gaussian(torch.zeros(1), torch.tensor([0.5]))
    first = start(target, target.sample(seeded(0), 20_000))
    scale = ProposalScale(target.std, spread)
    state, _, rate = random_walk(target.log_prob_and_score, target.space, first, scale, 1, seeded(1), adapt=False)
    moved = (state.x != first.x)[:, 0].double()
    assert_mean(moved, 2.0 / math.pi * math.atan(2.0 / spread))
    assert rate == pytest.approx(float(moved.mean()))


def test_proposals_are_normal_steps_wrapped_on_the_circle():
    """Where every step is accepted, the steps have the spread of the scale and wrap."""
    space = Space.of(1, 1)

    def flat(x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return torch.zeros(len(x)), torch.zeros_like(x)

    x = torch.tensor([[1.0, 3.0]]).expand(20_000, 2)
    scale = ProposalScale(torch.tensor([2.0, 0.5]), 0.4)
    state, _, rate = random_walk(flat, space, ChainState(x, *flat(x)), scale, 1, seeded(2), adapt=False)
    step = space.wrap(state.x - x).double()
    assert rate == 1.0 and float(state.x[:, 1].min()) < -3.0
    assert_mean(step, 0.0)
    assert_mean(step.square(), torch.tensor([0.8**2, 0.2**2]))


def test_it_needs_no_score():
    target = TwoWells(wall=-1.0)

    def blind(x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        log_r, score = target.log_prob_and_score(x)
        return log_r, torch.full_like(score, torch.nan)

    first, scale = start(target, target.sample(seeded(3), 50)), ProposalScale(torch.ones(2), 0.5)
    seen, other = (
        random_walk(evaluate, target.space, first, scale, 10, seeded(4))
        for evaluate in (target.log_prob_and_score, blind)
    )
    assert torch.equal(seen[0].x, other[0].x) and seen[1].step == other[1].step and seen[2] == other[2]
