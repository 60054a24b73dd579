"""The learner's guards: nothing that is not finite reaches what it holds, and everything skipped is counted."""

from __future__ import annotations

import math

import pytest
import torch

from molsampler.basis.settings import change
from molsampler.basis.space import Space
from molsampler.diffusion.noise import ScheduleConfig
from molsampler.diffusion.policy import PolicyConfig
from molsampler.diffusion.trajectories import rollout
from molsampler.diffusion.twist import TwistConfig
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
    return Learner(Space.of(1, 1), CONFIG)


def held(learner: Learner) -> list[torch.Tensor]:
    state = [*learner.policy.state_dict().values(), *learner.twist.state_dict().values(), learner.log_z.detach()]
    return [value.clone() for value in [*state, *learner.averaged.parameters()]]


FIRST = change(CONFIG, schedule={"torsions": "first"}, optimiser={"method": "soap"}, balanced="torsions")


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


def test_the_average_is_a_policy_of_its_own_until_a_phase_begins_with_it():
    learner = make()
    for _ in range(5):
        learner.step_policy(total(learner), 1e-2, with_log_z=False)
    now, averaged = ([p.detach().clone() for p in m.parameters()] for m in (learner.policy, learner.averaged))
    assert not any(torch.equal(a, b) for a, b in zip(averaged, now, strict=True))
    assert not any(p.requires_grad for p in learner.averaged.parameters())
    # the two share nothing: what is done with the average leaves the learning policy alone
    rollout(learner.averaged, 10, seeded(0))
    assert all(torch.equal(a, p) for a, p in zip(now, learner.policy.parameters(), strict=True))
    assert all(torch.equal(a, p) for a, p in zip(averaged, learner.averaged.parameters(), strict=True))
    learner.start_phase()
    assert all(torch.equal(a, p) for a, p in zip(averaged, learner.policy.parameters(), strict=True))
    learner.step_policy(total(learner), 1e-2, with_log_z=False)
    assert not any(torch.equal(a, p) for a, p in zip(averaged, learner.policy.parameters(), strict=True))


def test_the_policy_in_training_is_the_policy_evaluated_faster():
    """In bfloat16 the same parameters give nearly the same density; in float32 exactly the same; what samples is
    neither."""
    x, y = (Space.of(1, 1).sample_prior(50, seeded(k)) for k in (0, 1))
    for precision, bound in (("float32", 0.0), ("bfloat16", 0.02)):
        learner = Learner(Space.of(1, 1), change(CONFIG, precision=precision))
        for parameter in learner.policy.parameters():
            torch.nn.init.normal_(parameter.detach(), std=0.3, generator=seeded(2))
        own, fast = (policy.log_prob(y, x, 2) for policy in (learner.policy, learner.training_policy))
        difference = float(((own - fast) / own.abs().max()).detach().abs().max())
        assert difference <= bound and (difference > 0.0) == (precision == "bfloat16")
        assert fast.dtype == torch.float32
        fast.sum().backward()  # gradients reach the policy's own parameters
        assert all(p.grad is not None for p in learner.policy.parameters())


def test_the_average_is_the_closed_form():
    """Decay min(ema, k / (10 + k)) after the k-th update, applied to the parameters as they were."""
    learner = make()
    average = next(learner.averaged.parameters()).clone().double()
    for k in range(1, 30):
        learner.step_policy(total(learner) * (-1.0) ** k, 1e-2, with_log_z=False)
        decay = min(CONFIG.optimiser.ema, k / (10.0 + k))
        average = decay * average + (1.0 - decay) * next(learner.policy.parameters()).detach().double()
    torch.testing.assert_close(next(learner.averaged.parameters()).double(), average, atol=1e-6, rtol=1e-5)


def test_mixtures_have_a_rate_and_a_clipping_of_their_own():
    """Adam's first step is the rate for every parameter with a gradient, however large the others' gradients are."""
    learner = Learner(Space.of(1, 1), change(FIRST, optimiser={"method": "adam", "clip": 1e-3}))
    mixtures, line = (list(part.parameters()) for part in learner.policy.policies)
    before = [p.detach().clone() for p in (*mixtures, *line)]
    loss = sum(p.sum() for p in mixtures) + 1e6 * sum(p.sum() for p in line)
    assert learner.step_policy(loss, 1e-3, with_log_z=False, mixtures=5e-4)
    steps = [float((p - b).detach().abs().max()) for p, b in zip((*mixtures, *line), before, strict=True)]
    assert steps[: len(mixtures)] == pytest.approx([5e-4] * len(mixtures), rel=1e-2)
    assert steps[len(mixtures) :] == pytest.approx([1e-3] * len(line), rel=1e-2)


def test_what_goes_on_with_denoising_is_the_diffusion():
    learner = Learner(Space.of(1, 1), FIRST)
    assert [type(policy).__name__ for policy in learner.denoised] == ["DiffusionPolicy"]
    assert not Learner(Space.of(1, 1), change(FIRST, balanced="all")).denoised
    assert not make().denoised


def test_mixtures_keep_their_proportion_where_policy_and_twist_step_together():
    learner = Learner(
        Space.of(1, 1), change(FIRST, optimiser={"method": "adam", "warm_rate": 4e-3, "mixture_rate": 1e-3})
    )
    mixtures, line = (list(part.parameters()) for part in learner.policy.policies)
    before = [p.detach().clone() for p in (*mixtures, *line)]
    loss = sum(p.sum() for p in (*mixtures, *line, *learner.twist.parameters()))
    assert learner.step_both(loss, 1e-3, 2e-3)
    steps = [float((p - b).detach().abs().max()) for p, b in zip((*mixtures, *line), before, strict=True)]
    assert steps == pytest.approx([2.5e-4] * len(mixtures) + [1e-3] * len(line), rel=1e-2)


@pytest.mark.parametrize("objective", ["subtb", "db"])
def test_an_objective_that_trains_flows_trains_the_diffusion_too(objective):
    """Settings say that `balanced` has no effect on these: what was held constant would never be trained."""
    learner = Learner(Space.of(1, 1), change(FIRST, objective=objective))
    assert not learner.denoised and learner.balanced_policy is learner.training_policy
