"""A learnt noising process: proper kernels within their bounds, the fixed process at first, weights that stay right."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch

from molsampler.basis.errors import InputError
from molsampler.basis.settings import change
from molsampler.basis.space import Line, Space
from molsampler.diffusion.kinds import make_process
from molsampler.diffusion.learnt_noising import LearntNoising, NoisingConfig
from molsampler.diffusion.noise import ScheduleConfig
from molsampler.diffusion.policy import DiffusionPolicy, PolicyConfig
from molsampler.diffusion.process import NoisingProcess
from molsampler.diffusion.trajectories import rollout, score_states
from molsampler.training.learner import Learner
from tests.stochastic import assert_mean, seeded
from tests.targets.analytic import TwoWells
from tests.training.small import CONFIG, make, train

SPACE = Space.of(1, 1)
LEARNT = ("steps", "states")
SCHEDULES = {
    "ou": (SPACE, ScheduleConfig(5, circle_min=0.4)),
    "brownian": (Space.of(2), ScheduleConfig(5, process="brownian")),
}


def learnt(kind: str, space: Space = SPACE, schedule: ScheduleConfig = SCHEDULES["ou"][1], size: float = 0.0):
    """A process whose corrections are of order `size`; at 0, as it begins."""
    process = LearntNoising(space, schedule, NoisingConfig(kind, range=0.8, width=16), seeded(0))
    with torch.no_grad():
        last = process.table if process.network is None else process.network.mlp.last_bias
        last.copy_(size * torch.randn(last.shape, generator=seeded(1)))
        if process.network is not None and size:
            weight = process.network.mlp.last.weight
            weight.copy_(0.3 * size * torch.randn(weight.shape, generator=seeded(2)))
    return process


@pytest.mark.parametrize("name", SCHEDULES)
@pytest.mark.parametrize("kind", LEARNT)
def test_it_begins_as_the_fixed_process(kind, name):
    space, schedule = SCHEDULES[name]
    process, fixed = learnt(kind, space, schedule), NoisingProcess(space, schedule)
    path = fixed.sample_path(space.sample_prior(40, seeded(3)), seeded(4))
    again = process.sample_path(path[-1], seeded(4))
    torch.testing.assert_close(again, path)
    assert not again.requires_grad
    steps = torch.arange(5)
    expected = fixed.log_prob(path[:-1], path[1:], steps)
    torch.testing.assert_close(process.log_prob(path[:-1], path[1:], steps), expected)
    for n in range(5):
        torch.testing.assert_close(process.log_prob(path[n], path[n + 1], n), expected[n])


@torch.no_grad()
@pytest.mark.parametrize("kind", LEARNT)
def test_kernels_are_densities_within_their_bounds(kind):
    """On a grid each integrates to one, for small corrections and for absurd ones; log-variances and means move by no
    more than the range; a step alone says what all steps together say."""
    for size in (0.5, 50.0):
        process = learnt(kind, size=size)
        x_next = torch.tensor([[0.7, -2.0], [-1.5, 3.0]])
        grid = torch.linspace(-12.0, 12.0, 24_001)
        turn = torch.linspace(-math.pi, math.pi, 4001)[:-1]
        steps = torch.arange(5)
        means, log_vars = process.kernel(x_next.expand(5, 2, 2), steps)
        for n in range(5):
            mean, log_var = process.kernel(x_next, n)
            torch.testing.assert_close(mean, means[n])
            torch.testing.assert_close(log_var, log_vars[n])
            own = process.backward_log_var[n]
            assert float((log_var - own).max()) <= 0.8 + 1e-5 and float((log_var - own)[:, 0].min()) >= -0.8 - 1e-5
            moved = (mean - process.backward_scale[n] * x_next).abs() / (0.5 * own).exp()
            assert float(moved.max()) <= 0.8 + 1e-5
            assert size < 1.0 or kind == "steps" or float(moved.max()) > 0.75  # the bound is reached
            for b in range(2):
                at = x_next[b].expand(len(grid), 2)
                line = torch.stack([grid, torch.zeros_like(grid)], 1)
                ring = torch.stack([torch.zeros_like(turn), turn], 1)
                along = process.log_prob(line, at, n).exp().sum() * (grid[1] - grid[0])
                around = process.log_prob(ring, at[: len(turn)], n).exp().sum() * (turn[1] - turn[0])
                peak = process.log_prob(torch.zeros(1, 2), at[:1], n).exp()
                assert float(along * around / peak) == pytest.approx(1.0, abs=2e-3)


@torch.no_grad()
@pytest.mark.parametrize("kind", LEARNT)
def test_draws_are_those_of_the_kernels(kind):
    process = learnt(kind, size=1.0)
    x_next = torch.tensor([0.7, -2.0]).expand(40_000, 2)
    for n in (1, 4):
        mean, log_var = (part[0] for part in process.kernel(x_next[:1], n))
        drawn = process.sample_step(x_next, n, seeded(5))
        away = drawn[:, 0] - mean[0]
        assert_mean(away, 0.0)
        assert_mean(away.square(), float(log_var[0].exp()))
        turn = drawn[:, 1] - mean[1]
        assert_mean(turn.sin(), 0.0)
        assert_mean(turn.cos(), math.exp(-0.5 * float(log_var[1].exp())))


@pytest.mark.parametrize("kind", LEARNT)
def test_weights_are_unbiased_whatever_was_learnt(kind):
    """The mean weight of rollouts is Z, and that of paths noised from the target, inverted, 1 / Z."""
    target = TwoWells(0.4)
    policy = DiffusionPolicy(learnt(kind, size=0.5), PolicyConfig(8, 2), seeded(6))
    with torch.no_grad():
        bias = policy.network.mlp.last_bias
        bias.copy_(0.2 * torch.randn(bias.shape, generator=seeded(7)))
    path, log_ratio = rollout(policy, 40_000, seeded(8))
    assert_mean((target.log_prob(path[-1]) - log_ratio - 0.4).exp(), 1.0)
    x = target.sample(seeded(9), 40_000)
    with torch.no_grad():
        backward = score_states(policy, policy.process.sample_path(x, seeded(10)), target.log_prob(x)).log_weights()
    assert_mean((0.4 - backward).exp(), 1.0)


@pytest.mark.parametrize("name", SCHEDULES)
@pytest.mark.parametrize("kind", LEARNT)
def test_gradients_are_finite_and_right(kind, name):
    """Of the log densities of all steps, against finite differences in double; the pinned first step has none."""
    space, schedule = SCHEDULES[name]
    process = learnt(kind, space, schedule, size=0.5).double()
    path = process.sample_path(space.sample_prior(6, seeded(3), dtype=torch.float64), seeded(4))
    last = process.table if process.network is None else process.network.mlp.last_bias

    def total() -> torch.Tensor:
        return process.log_prob(path[:-1], path[1:], torch.arange(5)).sum()

    (gradient,) = torch.autograd.grad(total(), last)
    assert bool(torch.isfinite(gradient).all())
    assert bool((gradient[0] == 0.0).all()) == process.pinned and bool((gradient[1:] != 0.0).any())
    for index in (0, 3, gradient[0].numel() + 1, gradient.numel() - 1):
        with torch.no_grad():
            values = []
            for shift in (1e-5, -2e-5, 1e-5):
                last.flatten()[index] += shift
                values.append(total())
        assert float(gradient.flatten()[index]) == pytest.approx(
            float(values[0] - values[1]) / 2e-5, rel=1e-4, abs=1e-6
        )


def test_what_is_learnt_is_averaged_apart_and_twist_and_torsions_keep_a_fixed_process():
    config = change(CONFIG, noising={"learnt": "states", "width": 8}, warm_updates=4, updates=12)
    trainer = train(make(config), 4)
    learner = trainer.learner
    process, averaged = learner.policy.process, learner.averaged.process
    begun = [p.detach().clone() for p in process.network.parameters()]
    assert learner.process is process and averaged is not process
    assert all(torch.equal(a, b) for a, b in zip(begun, averaged.network.parameters(), strict=True))  # denoising
    train(trainer)
    moved = [not torch.equal(a, b) for a, b in zip(begun, process.network.parameters(), strict=True)]
    behind = [not torch.equal(a, b) for a, b in zip(averaged.parameters(), process.parameters(), strict=True)]
    assert all(moved[-2:]) and all(behind[-2:])
    assert not any(p.requires_grad for p in averaged.parameters())
    assert type(learner.twist.process) is NoisingProcess
    assert trainer.sampler().process is averaged
    chained = make_process(SPACE, ScheduleConfig(4, torsions="first"), NoisingConfig("states"))
    assert [isinstance(link.process, LearntNoising) for link in chained.links] == [False, True]
    assert chained.links[1].process.space.count(Line) == 1
    with pytest.raises(InputError, match='^noising.learnt = "states" does not go with balanced = "torsions"'):
        change(config, balanced="torsions", schedule={"torsions": "first"}).check()


def test_it_learns_at_its_own_pace():
    """The first step of Adam is the rate itself: of the corrections a quarter of the policy's."""
    learner = Learner(SPACE, change(CONFIG, noising={"learnt": "steps", "pace": 0.25}))
    table, other = learner.policy.process.table, learner.policy.network.mlp.last_bias
    assert learner.step_policy(table.sum() + other.sum(), 1e-3, with_log_z=False)
    torch.testing.assert_close(table.detach(), torch.full_like(table, -2.5e-4), rtol=1e-3, atol=0.0)
    torch.testing.assert_close(other.detach(), torch.full_like(other, -1e-3), rtol=1e-3, atol=0.0)


def ess_of(steps: int, **noising: Any) -> float:
    """ESS after training by balance in few steps."""
    config = change(
        CONFIG, noising=noising, schedule={"n_steps": steps}, smc={"chunk": steps}, warm_updates=60, updates=250,
        passes={"every": 0}, evaluation_samples=4000,
    )  # fmt: skip
    return train(make(config)).evaluate()["ess"]


def test_few_steps_fit_better_where_the_noising_process_learns():
    """Two wells in two steps, where no reversal of a fixed p_B is Gaussian: an ESS of 0.58 with one, 0.72 where it
    learns."""
    fixed, learnt = ess_of(2), ess_of(2, learnt="states", pace=1.0)
    assert learnt > fixed + 0.06, (fixed, learnt)
