"""The learner's guards: nothing that is not finite reaches what it holds, and everything skipped is counted."""

from __future__ import annotations

import copy
import math

import pytest
import torch

from molsampler.basis.space import Space
from molsampler.diffusion.policy import PolicyConfig
from molsampler.diffusion.process import ScheduleConfig
from molsampler.diffusion.twist import TwistConfig
from molsampler.training.behaviours import Surrogate
from molsampler.training.config import OptimiserConfig, TrainConfig
from molsampler.training.learner import Learner
from tests.stochastic import seeded

CONFIG = TrainConfig(
    schedule=ScheduleConfig(4),
    policy=PolicyConfig(8, 2),
    twist=TwistConfig(8, 2),
    precision="float32",
    compile=False,
    optimiser=OptimiserConfig(ramp=10, final=0.1),
)


def make() -> Learner:
    return Learner(Space.of(1, 1), CONFIG, seeded(0))


def held(learner: Learner) -> list[torch.Tensor]:
    state = [*learner.policy.state_dict().values(), *learner.twist.state_dict().values(), learner.log_z.detach()]
    return [value.clone() for value in [*state, *learner.averaged]]


def total(learner: Learner) -> torch.Tensor:
    return sum(p.sum() for p in learner.policy.parameters()) + 2.0 * learner.log_z


@pytest.mark.parametrize(
    ("loss", "reason"),
    [
        (lambda at: at * math.nan, "loss"),
        (lambda at: at + math.inf, "loss"),
        (lambda at: (at * 0.0).sqrt(), "gradient"),
    ],
    ids=["NaN loss", "infinite loss", "NaN gradient"],
)
def test_what_is_not_finite_changes_nothing_and_is_counted(loss, reason):
    learner = make()
    assert learner.step_policy(total(learner), 1e-3, with_log_z=True)
    before = held(learner)
    assert not learner.step_policy(loss(total(learner)), 1e-3, with_log_z=True)
    twist_loss = loss(sum(p.sum() for p in learner.twist.parameters()))
    assert not learner.step_twist(twist_loss, 1e-3)
    for old, new in zip(before, held(learner), strict=True):
        assert torch.equal(old, new)
    assert learner.skipped == {f"policy: {reason} not finite": 1, f"twist: {reason} not finite": 1}
    # and the next good loss is not held up
    assert learner.step_policy(total(learner), 1e-3, with_log_z=True)
    assert learner.step_twist(sum(p.sum() for p in learner.twist.parameters()), 1e-3)
    assert all(bool(torch.isfinite(value).all()) for value in held(learner))


def test_a_bad_gradient_of_log_z_alone_stops_the_policy_too():
    learner = make()
    before = held(learner)
    loss = sum(p.sum() for p in learner.policy.parameters()) + (learner.log_z * 0.0).sqrt()
    assert bool(torch.isfinite(loss)) and not learner.step_policy(loss, 1e-3, with_log_z=True)
    assert all(torch.equal(old, new) for old, new in zip(before, held(learner), strict=True))
    assert sum(learner.skipped.values()) == 1


def test_a_step_moves_by_the_rate_and_log_z_only_when_told():
    """Adam's first step is the learning rate itself, against the sign of the gradient."""
    learner = make()
    first = next(learner.policy.parameters())
    start, z = first.detach().clone(), float(learner.log_z.detach())
    learner.step_policy(total(learner), 1e-3, with_log_z=False)
    torch.testing.assert_close(first.detach(), start - 1e-3, atol=1e-6, rtol=0)
    assert float(learner.log_z.detach()) == z
    fresh = make()
    fresh.step_policy(total(fresh), 0.5 * CONFIG.optimiser.rate, with_log_z=True)
    assert float(fresh.log_z.detach()) == pytest.approx(-0.5 * CONFIG.optimiser.log_z_rate, rel=1e-4)


def test_rate_ramps_up_and_falls_along_a_cosine():
    learner = make()
    assert learner.rate(0, 1000) == pytest.approx(0.1)  # one tenth of the ramp
    assert learner.rate(500, 1000) == pytest.approx(0.1 + 0.9 * 0.5)
    assert learner.rate(1000, 1000) == learner.rate(2000, 1000) == pytest.approx(0.1)
    assert learner.rate(0, 0) == pytest.approx(0.1)


def test_averaged_parameters_stand_in_for_the_call_and_leave_again():
    learner = make()
    for _ in range(5):
        learner.step_policy(total(learner), 1e-2, with_log_z=False)
    now = [p.detach().clone() for p in learner.policy.parameters()]
    seen = learner.with_averaged(lambda policy: [p.detach().clone() for p in policy.parameters()])
    assert all(torch.equal(a, b) for a, b in zip(seen, learner.averaged, strict=True))
    assert not any(torch.equal(a, b) for a, b in zip(seen, now, strict=True))
    with pytest.raises(KeyError):
        learner.with_averaged(lambda policy: {}["nothing"])
    assert all(torch.equal(a, p) for a, p in zip(now, learner.policy.parameters(), strict=True))
    averaged = copy.deepcopy(learner.averaged)
    learner.start_phase()
    assert all(torch.equal(a, p) for a, p in zip(averaged, learner.policy.parameters(), strict=True))


def test_the_average_is_the_closed_form():
    """Decay min(ema, k / (10 + k)) after the k-th update, applied to the parameters as they were."""
    learner = make()
    average = learner.averaged[0].clone().double()
    for k in range(1, 30):
        learner.step_policy(total(learner) * (-1.0) ** k, 1e-2, with_log_z=False)
        decay = min(CONFIG.optimiser.ema, k / (10.0 + k))
        average = decay * average + (1.0 - decay) * next(learner.policy.parameters()).detach().double()
    torch.testing.assert_close(learner.averaged[0].double(), average, atol=1e-6, rtol=1e-5)


def test_surrogate_is_monotone_bounded_and_the_identity_above_its_knee():
    surrogate = Surrogate(knee=-40.0, cap=20.0)
    log_r = torch.linspace(-300.0, 50.0, 7001, dtype=torch.float64)
    value = surrogate(log_r)
    assert torch.equal(value[log_r >= -40.0], log_r[log_r >= -40.0])
    assert bool((value.diff() >= 0).all()) and bool((value[log_r > -150.0].diff() > 0).all())
    assert bool((value >= -60.0).all()) and float(value[0]) == pytest.approx(-60.0)
    far = surrogate(torch.tensor([-torch.inf, -1e30, -1e6]))
    torch.testing.assert_close(far, torch.full((3,), -60.0))
    slope = torch.tensor([-40.0 - 1e-4], dtype=torch.float64, requires_grad=True)
    (gradient,) = torch.autograd.grad(surrogate(slope).sum(), slope)
    assert float(gradient) == pytest.approx(1.0, abs=1e-6)  # no corner at the knee
