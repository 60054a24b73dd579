"""The arm's geometry, the importance sampler that stands for exact samples, and its log Z."""

from __future__ import annotations

import math
from functools import cache

import pytest
import torch

from molsampler.basis.errors import InputError
from molsampler.basis.log_weights import LogWeights
from molsampler.basis.space import wrap_angle
from molsampler.targets.robot_arm import Elbow, PlanarArm
from tests.stochastic import BOUND, seeded


def short_arm() -> PlanarArm:
    """Three links, wide enough for quadrature."""
    return PlanarArm(joints=3, goal_distance=2.0, goal_std=0.1, first_std=1.0, other_std=0.5)


@cache
def quadrature() -> tuple[float, torch.Tensor]:
    """Of the short arm: log Z and the share of each goal (4,); a point every 1.2 spreads of the narrowest direction,
    which leaves 1e-6."""
    arm, h = short_arm(), 0.06
    first = torch.arange(-100, 101, dtype=torch.float64) * h
    other = torch.arange(-50, 51, dtype=torch.float64) * h
    total, shares = torch.tensor(-torch.inf).double(), torch.zeros(4).double()
    for block in first.split(40):
        x = torch.cartesian_prod(block, other, other)
        log_r = arm.log_prob(x)
        total = torch.logaddexp(total, log_r.logsumexp(0))
        goal = torch.cdist(arm.end_effector(x), arm.goals).argmin(1)
        shares.index_add_(0, goal, log_r.exp())
    return float(total) + 3.0 * math.log(h), shares / shares.sum()


def test_end_effector():
    """Straight along each axis, and a square of four links that closes."""
    arm = PlanarArm(4, 2.0)
    quarter = 0.5 * math.pi
    x = torch.tensor([[0.0, 0, 0, 0], [quarter, 0, 0, 0], [0, quarter, quarter, quarter], [0, quarter, 0, -quarter]])
    expected = torch.tensor([[4.0, 0.0], [0.0, 4.0], [0.0, 0.0], [2.0, 2.0]]).double()
    torch.testing.assert_close(arm.end_effector(x.double()), expected, atol=1e-6, rtol=0.0)


def test_log_prob_in_closed_form():
    """The prior's density and the nearest goal's, for one arm by hand: straight, so 3 away from the first goal."""
    arm, x = PlanarArm(), torch.zeros(1, 10, dtype=torch.float64)
    log_prior = -5.0 * math.log(2.0 * math.pi) - 9.0 * math.log(0.2)
    log_goal = -0.5 * (3.0 / 0.01) ** 2 - 2.0 * math.log(0.01) - math.log(2.0 * math.pi)
    assert float(arm.log_prob(x)) == pytest.approx(log_prior + log_goal, rel=1e-12)
    bent = arm.sample(seeded(0), 5)
    priors = torch.distributions.Normal(0.0, arm.prior_std).log_prob(bent).sum(1)
    ends = torch.distributions.Normal(arm.goals, 0.01).log_prob(arm.end_effector(bent)[:, None]).sum(-1).amax(1)
    torch.testing.assert_close(arm.log_prob(bent), priors + ends)


@pytest.mark.parametrize("joint", [1, 2])
def test_weights_and_samples_by_quadrature(joint):
    arm = short_arm()
    log_z, shares = quadrature()
    x, log_w = Elbow(arm, joint).weighted(seeded(1), 50_000)
    weights = LogWeights(log_w)
    assert weights.ess_fraction > 0.2
    assert abs(weights.log_mean - log_z) < BOUND * (1.0 / weights.ess) ** 0.5
    goal = torch.nn.functional.one_hot(torch.cdist(arm.end_effector(x), arm.goals).argmin(1), 4)
    found = (weights.normalised[:, None] * goal).sum(0)
    assert float((found - shares).abs().max()) < BOUND * 0.5 / weights.ess**0.5


@pytest.mark.parametrize("joint", [1, 4, 9])
def test_a_weight_is_the_ratio_of_densities(joint):
    """log w = log R - log q: the given joints, the end that was drawn, its volume by autograd, and the share of the arm
    that was picked among the 24 with this shape."""
    arm = PlanarArm()
    elbow = Elbow(arm, joint)
    x, log_w = elbow.weighted(seeded(2), 200)
    x, log_w = x[log_w > -torch.inf], log_w[log_w > -torch.inf]
    end = arm.end_effector(x)
    nearest = torch.cdist(end, arm.goals).argmin(1)
    log_end = torch.distributions.Normal(arm.goals[nearest], arm.goal_std).log_prob(end).sum(1)
    jacobian = torch.func.vmap(torch.func.jacrev(lambda row: arm.end_effector(row[None])[0]))(x)
    volume = torch.linalg.det(jacobian[:, :, [0, joint]])
    given = torch.cat([x[:, 1:joint], x[:, joint + 1 :]], 1) * volume.sign()[:, None]  # of the image with gamma > 0
    offset = torch.atan2(end[:, 1], end[:, 0]) - arm.goal_angles[nearest]
    ahead = arm.end_effector(torch.cat([torch.zeros_like(x[:, :1]), x[:, 1:]], 1))
    direction = torch.atan2(ahead[:, 1], ahead[:, 0])
    options = torch.stack(
        [
            wrap_angle(goal + offset - sign * direction) + turn * 2.0 * math.pi
            for goal in arm.goal_angles
            for sign in (1.0, -1.0)
            for turn in (-1, 0, 1)
        ]
    )
    normal = torch.distributions.Normal(0.0, 1.0)
    log_pick = normal.log_prob(x[:, 0]) - normal.log_prob(options).logsumexp(0)
    log_q = elbow.proposal.log_density(given) + log_end + volume.abs().log() + log_pick
    torch.testing.assert_close(log_w, arm.log_prob(x) - log_q, rtol=0.0, atol=1e-8)
    assert float((volume > 0.0).double().mean()) == pytest.approx(0.5, abs=0.2)


def test_log_z_of_the_default():
    """The stored constant against a sampler that solves for another joint."""
    arm = PlanarArm()
    assert arm.log_z is not None and short_arm().log_z is None
    weights = LogWeights(Elbow(arm, 3).weighted(seeded(3), 40_000)[1])
    assert weights.ess_fraction > 0.7
    assert abs(weights.log_mean - arm.log_z) < BOUND * math.hypot(weights.ess**-0.5, arm.log_z_error)
    value, error = arm.estimate_log_z(seeded(4), 20_000)
    assert error < 0.005 and abs(value - arm.log_z) < BOUND * math.hypot(error, arm.log_z_error)


def test_no_weight_is_above_the_cap():
    elbow = PlanarArm().elbow
    assert float((elbow.weighted(seeded(5), 50_000)[1] - elbow.log_mean).max()) < math.log(4.0)


def test_goals_found():
    """All four goals, at shares that follow the turn of the first joint; an arm beside its goal counts for none."""
    arm = PlanarArm()
    x = arm.sample(seeded(6), 4000)
    goal = arm.mode_of(x)
    assert arm.n_modes == arm.count_modes(x) == 4 and arm.count_modes(x[goal != 2]) == 3
    assert float((goal < 0).double().mean()) < 1e-3  # 4e-6 of a Gaussian lies beyond five spreads
    share = torch.bincount(goal[goal >= 0], minlength=4) / len(x)
    # of 400,000 weighted arms, alike for three joints solved for, to 1e-3
    torch.testing.assert_close(share, torch.tensor([0.344, 0.286, 0.084, 0.286]), atol=0.035, rtol=0.0)
    beside = x.clone()
    beside[:, 0] += 0.2
    assert arm.count_modes(beside) == 0
    torch.testing.assert_close(arm.goals, 7.0 * torch.tensor([[1.0, 0], [0, 1], [-1, 0], [0, -1]]).double())


@pytest.mark.parametrize(("joints", "distance"), [(2, 1.0), (10, 10.5), (10, 0.0)])
def test_impossible_arms_are_refused(joints, distance):
    with pytest.raises(InputError, match=f"{joints} links .* distance {distance}"):
        PlanarArm(joints, distance)
