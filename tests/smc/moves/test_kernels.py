"""Hamiltonian Monte Carlo and random-walk Metropolis beside MALA: invariance, adaptation, the circle, the support."""

from __future__ import annotations

import math

import pytest
import torch

from molsampler.basis.errors import InputError
from molsampler.basis.space import Space
from molsampler.smc.moves import chain
from molsampler.smc.moves.chain import ChainState, ProposalScale
from molsampler.smc.moves.hmc import HMC_ACCEPTANCE
from molsampler.smc.moves.kernels import kernel_named
from molsampler.smc.moves.random_walk import RANDOM_WALK_ACCEPTANCE
from tests.smc.moves.chains import start
from tests.stochastic import assert_mean, seeded
from tests.targets.analytic import Gaussian, Skewed, TwoWells, sample_von_mises

HMC, WALK = kernel_named("hmc", 5), kernel_named("random_walk", 1)
BOTH = pytest.mark.parametrize("kernel", [HMC, WALK], ids=["hmc", "random walk"])


@pytest.mark.parametrize(
    ("kernel", "step", "longest"),
    [(HMC, 0.7, 3.0), (HMC, 0.7, 0.3), (WALK, 1.5, 3.0)],
    ids=["hmc", "hmc with a truncated force", "random walk"],
)
def test_exact_samples_stay_exact(kernel, step, longest, monkeypatch):
    """From exact samples of a skewed density, where a coordinate on the line drags an angle around, the distribution
    functions stay. 8,000 independent chains, so the errors are those of independent samples. The short limit of the
    force, in spreads, acts on a good part of them."""
    target, n = Skewed(a=2.0, kappa=2.0), 8000
    before = target.sample(seeded(0), n)
    scale = ProposalScale(torch.tensor([0.8, 0.7]), step)
    monkeypatch.setattr(chain, "_MAX_DRIFT", longest)
    free = 0.5 * scale.std(target.space) * target.log_prob_and_score(before)[1]
    assert longest > 1.0 or 0.2 < float((free.square().mean(-1).sqrt() > longest).double().mean()) < 0.8
    evaluate, first = target.log_prob_and_score, start(target, before)
    state, after, rate = kernel(evaluate, target.space, first, scale, 10, seeded(1), adapt=False)
    x = state.x.double()
    assert after is scale and 0.1 < rate < 0.95
    assert float((state.x != before).any(-1).double().mean()) > 0.8
    assert bool(((x[:, 1] >= -math.pi) & (x[:, 1] < math.pi)).all())
    # distribution functions: of exp(x), Gamma(2), at five quantiles; of the angle about x at five of a dense sample's
    q = torch.tensor([0.05, 0.25, 0.5, 0.75, 0.95], dtype=torch.float64)
    e = x[:, :1].exp()
    at = torch.tensor([0.35536151, 0.96127876, 1.67834699, 2.69263453, 4.74386452])  # scipy.stats.gamma(2).ppf(q)
    assert_mean((e < at).double(), q)
    delta = torch.remainder(x[:, 1] - x[:, 0] + math.pi, 2.0 * math.pi) - math.pi
    quantiles = sample_von_mises(2.0, 2_000_000, seeded(2)).quantile(q)
    assert_mean((delta[:, None] < quantiles).double(), q, bound=5.0)
    assert_mean(((e[:, 0] < at[2]) & (delta < 0.0)).double(), 0.25)
    log_r, score = target.log_prob_and_score(state.x)
    torch.testing.assert_close(state.log_r, log_r)
    torch.testing.assert_close(state.score, score)


@BOTH
def test_moments_of_a_gaussian_are_reached_from_elsewhere(kernel):
    """4,000 chains from one point; the fourth moment sees the tails."""
    target = Gaussian(torch.tensor([1.0, -2.0]), torch.tensor([0.4, 1.5]), n_circle=1)
    first = start(target, torch.zeros(4000, 3))
    scale = ProposalScale(torch.tensor([0.4, 1.5, 1.0]), 1.3)
    state, _, _ = kernel(target.log_prob_and_score, target.space, first, scale, 60, seeded(3), adapt=False)
    z = (state.x[:, :2].double() - target.mean) / target.std
    assert_mean(z, 0.0)
    assert_mean(z.square(), 1.0)
    assert_mean(z.pow(4), 3.0)
    assert_mean(z[:, 0] * z[:, 1], 0.0)
    assert_mean(torch.stack([state.x[:, 2].cos(), state.x[:, 2].sin()], 1), 0.0)


@pytest.mark.parametrize("first", [0.02, 20.0])
@pytest.mark.parametrize(
    ("kernel", "optimum"), [(HMC, HMC_ACCEPTANCE), (WALK, RANDOM_WALK_ACCEPTANCE)], ids=["hmc", "random walk"]
)
def test_acceptance_adapts_to_its_optimum(kernel, optimum, first):
    target = Gaussian(torch.zeros(5), torch.tensor([0.3, 1.0, 2.0, 1.0, 0.5]))
    evaluate, space = target.log_prob_and_score, target.space
    state, scale = start(target, target.sample(seeded(4), 300)), ProposalScale(target.std.clone(), first)
    state, scale, _ = kernel(evaluate, space, state, scale, 160, seeded(5))
    _, scale, rate = kernel(evaluate, space, state, scale, 60, seeded(6))
    assert rate == pytest.approx(optimum, abs=0.03)
    torch.testing.assert_close(scale.scale, target.std)


@BOTH
def test_off_the_support_is_never_entered(kernel):
    """A wall through both wells: trajectories may pass behind it, none may end there, and the rest stays invariant."""
    target = TwoWells(wall=-0.5)
    first = start(target, target.sample(seeded(12), 4000))
    scale = ProposalScale(torch.tensor([0.5, 0.4]), 0.8)
    state, _, rate = kernel(target.log_prob_and_score, target.space, first, scale, 15, seeded(13), adapt=False)
    assert bool((state.x[:, 0] >= -0.5).all()) and bool(torch.isfinite(state.log_r).all())
    assert 0.1 < rate < 0.95
    exact = target.sample(seeded(14), 400_000).double()
    moments = torch.stack([exact[:, 0], exact[:, 0].square(), exact[:, 1].cos()], 1).mean(0)
    found = torch.stack([state.x[:, 0], state.x[:, 0].square(), state.x[:, 1].cos()], 1)
    assert_mean(found, moments, bound=5.0)


@BOTH
def test_non_finite_proposals_are_rejected(kernel):
    target = Gaussian(torch.zeros(1), torch.ones(1))

    def poisoned(x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        assert bool(torch.isfinite(x).all())  # a force that is not a number is no force
        log_r, score = target.log_prob_and_score(x)
        bad = torch.arange(len(x)) % 3
        log_r = torch.where(bad == 1, torch.nan, torch.where(bad == 2, torch.inf, log_r))
        return log_r, torch.where(bad[:, None] == 1, torch.nan, score)

    x = target.sample(seeded(15), 300)
    state, _, rate = kernel(poisoned, target.space, start(target, x), ProposalScale(torch.ones(1), 0.3), 5, seeded(16))
    kept = torch.arange(300) % 3 != 0
    assert torch.equal(state.x[kept], x[kept]) and not torch.equal(state.x[~kept], x[~kept])
    assert bool(torch.isfinite(state.log_r).all()) and bool(torch.isfinite(state.score).all())
    assert 0.0 < rate < 0.34


@BOTH
def test_a_nearly_flat_circle(kernel):
    """Nearly every move is accepted and the step grows; the density stays that of von Mises."""
    space = Space.of(0, 1)

    def gentle(x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return 0.3 * x[:, 0].cos(), -0.3 * x.sin()

    x = sample_von_mises(0.3, 8000, seeded(17)).float()[:, None]
    state, scale, _ = kernel(
        gentle, space, ChainState(x, *gentle(x)), ProposalScale(torch.ones(1), 0.5), 100, seeded(18)
    )
    assert 3.5 < scale.step < math.inf
    expected = float(torch.special.i1(torch.tensor(0.3)) / torch.special.i0(torch.tensor(0.3)))
    assert_mean(state.x[:, 0].cos(), expected)
    assert_mean(state.x[:, 0].sin(), 0.0)


@pytest.mark.parametrize(("name", "evaluations"), [("mala", 1), ("hmc", 4), ("random_walk", 1)])
def test_what_a_step_costs(name, evaluations):
    target = Gaussian(torch.zeros(2), torch.ones(2))
    first = start(target, torch.zeros(10, 2))
    before = target.counter.total
    scale = ProposalScale(torch.ones(2), 0.5)
    kernel_named(name, 4)(target.log_prob_and_score, target.space, first, scale, 3, seeded(19))
    assert target.counter.total - before == 3 * evaluations * 10


def test_a_trajectory_of_no_steps_is_told():
    with pytest.raises(InputError, match="leapfrog_steps = 0 moves nothing"):
        kernel_named("hmc", 0)
