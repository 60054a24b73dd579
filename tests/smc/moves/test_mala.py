from __future__ import annotations

import math

import pytest
import torch

from molsampler.basis.space import MAX_CIRCLE_STD, Circle, Space
from molsampler.smc.moves.chain import ChainState, ProposalScale
from molsampler.smc.moves.mala import OPTIMAL_ACCEPTANCE, mala
from tests.smc.moves.chains import start
from tests.stochastic import assert_mean, seeded
from tests.targets.analytic import Gaussian, Skewed, TwoWells, sample_von_mises


@pytest.mark.parametrize("step", [0.7, 2.0], ids=["optimal", "truncated drift"])
def test_exact_samples_stay_exact(step):
    """MALA from exact samples of a skewed density leaves its distribution function unchanged. 8,000 independent chains,
    so the errors are those of independent samples; the larger step makes the truncation of the drift act."""
    target, n = Skewed(a=2.0, kappa=2.0), 8000
    before = target.sample(seeded(0), n)
    scale = ProposalScale(torch.tensor([0.8, 0.7]), step)
    evaluate, first = target.log_prob_and_score, start(target, before)
    state, after, rate = mala(evaluate, target.space, first, scale, 16, seeded(1), adapt=False)
    x = state.x.double()
    assert after is scale and 0.12 < rate < 0.95
    moved = (state.x != before).any(-1).double().mean()
    assert float(moved) > 0.8
    # distribution functions: of exp(x), Gamma(2), at five quantiles; of the angle about x at five of a dense sample's
    q = torch.tensor([0.05, 0.25, 0.5, 0.75, 0.95], dtype=torch.float64)
    e = x[:, :1].exp()
    at = torch.tensor([0.35536151, 0.96127876, 1.67834699, 2.69263453, 4.74386452])  # scipy.stats.gamma(2).ppf(q)
    assert_mean((e < at).double(), q)
    delta = torch.remainder(x[:, 1] - x[:, 0] + math.pi, 2.0 * math.pi) - math.pi
    quantiles = sample_von_mises(2.0, 2_000_000, seeded(2)).quantile(q)
    assert_mean((delta[:, None] < quantiles).double(), q, bound=5.0)
    # and the two together, which are independent
    assert_mean(((e[:, 0] < at[2]) & (delta < 0.0)).double(), 0.25)
    # carried values belong to the states
    log_r, score = target.log_prob_and_score(state.x)
    torch.testing.assert_close(state.log_r, log_r)
    torch.testing.assert_close(state.score, score)


def test_truncation_acts_in_the_test_above():
    target = Skewed(a=2.0, kappa=2.0)
    x = target.sample(seeded(0), 4000)
    _, score = target.log_prob_and_score(x)
    std = 2.0 * torch.tensor([0.8, 0.7])
    size = (0.5 * std * score).square().mean(-1).sqrt()
    assert 0.005 < float((size > 3.0).double().mean()) < 0.5


def test_exploding_forces_move_a_chain_by_a_bounded_amount():
    class Wall(Gaussian):
        def log_prob(self, x: torch.Tensor) -> torch.Tensor:
            return -1e4 * x[:, 0].pow(4)

    target = Wall(torch.zeros(1), torch.ones(1))
    state = start(target, torch.full((200, 1), 30.0))
    assert float(state.score.abs().max()) > 1e9
    scale = ProposalScale(torch.ones(1), 0.5)
    for k in range(12):
        before = state.x
        state, *_ = mala(target.log_prob_and_score, target.space, state, scale, 1, seeded(k), adapt=False)
        step = (state.x - before).abs()
        assert float(step.max()) < 0.5 * (3.0 + 6.0)
    assert float(state.x.median()) < 17.0  # it comes down by three spreads a step


@pytest.mark.parametrize("first", [0.02, 20.0])
def test_acceptance_adapts_to_its_optimum(first):
    target = Gaussian(torch.zeros(5), torch.tensor([0.3, 1.0, 2.0, 1.0, 0.5]))
    x = target.sample(seeded(3), 200)
    scale = ProposalScale(target.std.clone(), first)
    state, scale, _ = mala(target.log_prob_and_score, target.space, start(target, x), scale, 120, seeded(4))
    _, scale, rate = mala(target.log_prob_and_score, target.space, state, scale, 60, seeded(5))
    assert rate == pytest.approx(OPTIMAL_ACCEPTANCE, abs=0.03)
    torch.testing.assert_close(scale.scale, target.std)


def test_off_the_support_is_never_entered():
    target = TwoWells(wall=-0.5)
    x = target.sample(seeded(7), 4000)
    state, _, rate = mala(
        target.log_prob_and_score,
        target.space,
        start(target, x),
        ProposalScale(torch.tensor([0.5, 0.4]), 1.0),
        15,
        seeded(8),
        adapt=False,
    )
    assert bool((state.x[:, 0] >= -0.5).all()) and bool(torch.isfinite(state.log_r).all())
    assert 0.2 < rate < 0.99
    # the wall keeps the truncated target invariant
    exact = target.sample(seeded(9), 400_000).double()
    centre, angle = exact[:, 0].mean(), exact[:, 1].cos().mean()
    assert_mean(torch.stack([state.x[:, 0], state.x[:, 1].cos()], 1), torch.stack([centre, angle]), bound=5.0)


def test_non_finite_proposals_are_rejected():
    target = Gaussian(torch.zeros(1), torch.ones(1))

    def poisoned(x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        log_r, score = target.log_prob_and_score(x)
        bad = torch.arange(len(x)) % 3
        log_r = torch.where(bad == 1, torch.nan, torch.where(bad == 2, torch.inf, log_r))
        return log_r, torch.where(bad[:, None] == 1, torch.nan, score)

    x = target.sample(seeded(10), 300)
    state, _, rate = mala(poisoned, target.space, start(target, x), ProposalScale(torch.ones(1), 0.3), 5, seeded(11))
    kept = torch.arange(300) % 3 != 0
    assert torch.equal(state.x[kept], x[kept]) and not torch.equal(state.x[~kept], x[~kept])
    assert bool(torch.isfinite(state.log_r).all()) and bool(torch.isfinite(state.score).all())
    assert 0.0 < rate < 0.34


class Watched(Space):
    """Refuses kernels on the circle that are wider than the density is exact for."""

    def log_normal(self, x: torch.Tensor, mean: torch.Tensor, log_var: torch.Tensor) -> torch.Tensor:
        assert float(log_var[..., self.mask(Circle)].max()) <= 2.0 * math.log(MAX_CIRCLE_STD) + 1e-6
        return super().log_normal(x, mean, log_var)


def test_a_nearly_flat_circle_lets_the_step_grow_but_not_the_kernel():
    space = Watched((Circle(1),))

    def gentle(x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return 0.3 * x[:, 0].cos(), -0.3 * x.sin()

    x = sample_von_mises(0.3, 8000, seeded(12)).float()[:, None]
    state, scale, _ = mala(gentle, space, ChainState(x, *gentle(x)), ProposalScale(torch.ones(1), 0.5), 150, seeded(13))
    assert MAX_CIRCLE_STD < scale.step < math.inf
    expected = float(torch.special.i1(torch.tensor(0.3)) / torch.special.i0(torch.tensor(0.3)))
    assert_mean(state.x[:, 0].cos(), expected)
    assert_mean(state.x[:, 0].sin(), 0.0)


def test_a_range_of_steps_keeps_the_target_and_reaches_a_narrow_neck():
    """x ~ N(0, 4), y | x ~ N(0, exp(2 x)): one step for all chains does not fit; the moments are exact all the same.
    256 chains of 400 moves each, from exact samples; the standard error is that between chains."""

    def log_prob_and_score(z):
        x, y = z[:, 0], z[:, 1]
        precision = (-2.0 * x).exp()
        log_r = -0.125 * x.square() - 0.5 * y.square() * precision - x
        return log_r, torch.stack([-0.25 * x + y.square() * precision - 1.0, -y * precision], 1)

    generator = seeded(0)
    x = 2.0 * torch.randn(256, generator=generator, dtype=torch.float64)
    y = x.exp() * torch.randn(256, generator=generator, dtype=torch.float64)
    start = torch.stack([x, y], 1)
    space, scale = Space.of(2), ProposalScale(torch.ones(2, dtype=torch.float64), 2.0)
    moved = {}
    for step_range in (1.0, 300.0):
        state = ChainState(start, *log_prob_and_score(start))
        sums = torch.zeros(256, 2, dtype=torch.float64)
        for _ in range(400):
            state, _, _ = mala(
                log_prob_and_score, space, state, scale, 1, generator, adapt=False, step_range=step_range
            )
            sums += torch.stack([state.x[:, 0], state.x[:, 0].square()], 1)
        if step_range > 1.0:
            assert_mean(sums / 400, torch.tensor([0.0, 4.0]))
        neck = start[:, 0] < -3.0
        assert int(neck.sum()) > 10
        moved[step_range] = float((state.x != start).any(1)[neck].double().mean())
    assert moved[300.0] > 0.95 and moved[1.0] < 0.7
