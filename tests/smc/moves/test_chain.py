"""What every kernel is made of: the scale of proposals and its adaptation, Metropolis' rule, the truncated drift."""

from __future__ import annotations

import math

import pytest
import torch

from molsampler.basis.space import MAX_CIRCLE_STD, Space
from molsampler.smc.moves.chain import ChainState, ProposalScale, drift, metropolis, walk
from tests.stochastic import assert_mean, seeded
from tests.targets.analytic import Gaussian


def test_scale_from_scores():
    target = Gaussian(torch.zeros(2), torch.tensor([0.1, 0.4]))
    _, score = target.log_prob_and_score(target.sample(seeded(6), 20_000))
    torch.testing.assert_close(ProposalScale.from_scores(score).scale, target.std, rtol=0.03, atol=0.0)
    # flat coordinates are bounded, not infinite
    assert ProposalScale.from_scores(torch.zeros(5, 1)).scale.item() == pytest.approx(math.pi / 4)


def test_spread_of_the_proposal_is_bounded_on_the_circle_alone():
    std = ProposalScale(torch.tensor([10.0, 10.0, 0.5]), 2.0).std(Space.of(1, 2))
    torch.testing.assert_close(std, torch.tensor([20.0, MAX_CIRCLE_STD, 1.0]))


def test_adaptation_is_the_closed_form():
    scale = ProposalScale(torch.ones(2), 0.5)
    assert scale.adapted(0.9, 0.5, rate=0.3).step == pytest.approx(0.5 * math.exp(0.3 * 0.4))
    assert scale.adapted(0.1, 0.5, rate=0.3).step == pytest.approx(0.5 * math.exp(-0.3 * 0.4))
    assert scale.adapted(0.5, 0.5).step == 0.5 and scale.adapted(0.9, 0.5).scale is scale.scale


@pytest.mark.parametrize("optimum", [None, 0.5])
def test_a_walk_hands_state_and_scale_from_step_to_step(optimum):
    seen: list[tuple[float, float]] = []

    def step(state: ChainState, scale: ProposalScale) -> tuple[ChainState, float]:
        seen.append((float(state.x), scale.step))
        return ChainState(state.x + 1.0, state.log_r, state.score), 0.1 * len(seen)

    first = ChainState(torch.zeros(1, 1), torch.zeros(1), torch.zeros(1, 1))
    state, scale, rate = walk(step, first, ProposalScale(torch.ones(1), 1.0), 3, optimum, rate=0.2)
    gains = [0.0, -0.4, -0.7] if optimum else [0.0, 0.0, 0.0]  # sum of (share - optimum) so far
    assert seen == [(k, pytest.approx(math.exp(0.2 * gain))) for k, gain in enumerate(gains)]
    assert float(state.x) == 3.0 and rate == pytest.approx(0.2)
    assert scale.step == pytest.approx(math.exp(0.2 * -0.9) if optimum else 1.0)
    assert walk(step, first, scale, 0, optimum)[2] == 0.0


@pytest.mark.parametrize("log_accept", [math.log(0.3), -5.0, 0.2, -math.inf])
def test_metropolis_takes_proposals_with_their_probability(log_accept):
    n = 20_000
    old = ChainState(torch.zeros(n, 2), torch.zeros(n), torch.zeros(n, 2))
    new = ChainState(torch.ones(n, 2), torch.full((n,), -3.0), torch.full((n, 2), 2.0))
    chosen, share = metropolis(old, new, torch.full((n,), log_accept), seeded(0))
    taken = chosen.x[:, 0] == 1.0
    assert_mean(taken.double(), min(1.0, math.exp(log_accept)))
    assert share == pytest.approx(float(taken.double().mean()))
    # a chain is its old state or its proposal as a whole
    assert torch.equal(chosen.x, taken[:, None].expand(n, 2).float())
    assert torch.equal(chosen.log_r, torch.where(taken, -3.0, 0.0))
    assert torch.equal(chosen.score, 2.0 * chosen.x)


def test_metropolis_rejects_what_is_not_finite():
    log_r = torch.tensor([math.nan, math.inf, -math.inf, 1.0])
    old, new = (ChainState(torch.full((4, 1), k), torch.zeros(4), torch.zeros(4, 1)) for k in (0.0, 1.0))
    chosen, share = metropolis(old, ChainState(new.x, log_r, new.score), torch.full((4,), math.inf), seeded(0))
    assert chosen.x[:, 0].tolist() == [0.0, 0.0, 0.0, 1.0] and share == 0.25


def test_drift_is_langevins_and_at_most_three_spreads():
    std = torch.tensor([0.5, 2.0])
    score = torch.tensor([[1.0, -0.4], [4.0, 3.0], [1e3, 1e4], [0.0, 0.0]])
    found, free = drift(score, std), 0.5 * std.square() * score
    torch.testing.assert_close(found[[0, 3]], free[[0, 3]])
    size = (found / std).square().mean(-1).sqrt()
    assert bool((size <= 3.0 + 1e-5).all()) and float(size[2]) == pytest.approx(3.0)
    # shortened, not turned
    torch.testing.assert_close(found[:3] / found[:3, :1], free[:3] / free[:3, :1])
