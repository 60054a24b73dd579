from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch

from molsampler.basis.log_weights import LogWeights
from molsampler.basis.space import MAX_CIRCLE_STD, Circle, Line, Space
from molsampler.diffusion.noise import ScheduleConfig
from molsampler.diffusion.policy import DiffusionPolicy, PolicyConfig
from molsampler.diffusion.process import NoisingProcess
from molsampler.diffusion.trajectories import rollout, score_states
from molsampler.training.objectives import trajectory_balance
from tests.diffusion.exact import ExactReversal
from tests.stochastic import seeded
from tests.targets.analytic import Gaussian

SPACE = Space.of(3, 2)
TARGET = Gaussian(
    torch.tensor([0.7, -1.2, 0.1], dtype=torch.float64), torch.tensor([0.5, 1.6, 1.0], dtype=torch.float64), 2, 1.3
)


def untrained(space: Space = SPACE, n_steps: int = 24, **config) -> DiffusionPolicy:
    return DiffusionPolicy(NoisingProcess(space, ScheduleConfig(n_steps)), PolicyConfig(16, 2, **config), seeded(0))


def stirred(policy: DiffusionPolicy, size: float) -> DiffusionPolicy:
    """The same policy with random output layers."""
    generator = seeded(1)
    with torch.no_grad():
        for p in (policy.network.mlp.last.weight, policy.network.mlp.last_bias, policy.network.mlp.shift):
            p.copy_(size * torch.randn(p.shape, generator=generator))
    return policy


def states(n: int = 7) -> torch.Tensor:
    return SPACE.sample_prior(n, seeded(2))


def test_zero_output_is_the_reversal_of_the_reference():
    policy = untrained()
    x = states()
    for n in (0, 11, 23):
        a = float(policy.process.marginal_scale[n, 0] / policy.process.marginal_scale[n + 1, 0])
        sigma = policy.process.marginal_std[:, 3]
        var = float(sigma[n] ** 2 - sigma[n + 1] ** 2)
        mean, log_var = policy(x, n)
        torch.testing.assert_close(mean[:, :3], a * x[:, :3], rtol=1e-5, atol=1e-6)
        torch.testing.assert_close(mean[:, 3:], x[:, 3:])
        torch.testing.assert_close(log_var[:, :3].exp(), torch.full((7, 3), 1.0 - a * a), rtol=1e-4, atol=0.0)
        torch.testing.assert_close(log_var[:, 3:].exp(), torch.full((7, 2), var), rtol=1e-5, atol=0.0)


@pytest.mark.parametrize("schedule", [ScheduleConfig(), ScheduleConfig(n_steps=128), ScheduleConfig(8, line_power=2.0)])
def test_untrained_policy_is_exact_on_the_reference(schedule):
    """N(0, I) x uniform with the Ornstein-Uhlenbeck process: TB loss 0 and ESS 1, whatever the schedule."""
    policy = DiffusionPolicy(NoisingProcess(SPACE, schedule), PolicyConfig(16, 2), seeded(0))
    path, log_ratio = rollout(policy, 256, seeded(3))
    log_r = SPACE.log_prior(path[-1]) + 0.9
    trajectories = score_states(policy, path, log_r)
    assert float(trajectory_balance(trajectories, torch.tensor(0.9)).detach().max()) < 1e-5
    weights = LogWeights(trajectories.log_weights())
    assert weights.ess_fraction > 1.0 - 1e-5 and weights.log_mean == pytest.approx(0.9, abs=1e-3)
    # the two ways to the same weight
    torch.testing.assert_close(log_r - log_ratio, trajectories.log_weights(), rtol=0.0, atol=1e-3)
    # and on paths that the noising process made of exact samples
    path = policy.process.sample_path(SPACE.sample_prior(256, seeded(4)), seeded(5))
    trajectories = score_states(policy, path, SPACE.log_prior(path[-1]))
    assert float(trajectory_balance(trajectories, torch.tensor(0.0)).detach().max()) < 1e-5


@pytest.mark.parametrize("schedule", [ScheduleConfig(), ScheduleConfig(5, prior_signal=0.4, line_power=1.5)])
def test_exact_reversal_of_a_gaussian(schedule):
    """N(m, S) with the matching prior, the noised data's own density at n = 0: TB loss 0 and ESS 1."""
    policy = ExactReversal(TARGET, schedule)
    path = policy.walk(300, seeded(6))
    backward = policy.process.sample_path(TARGET.sample(seeded(7), 300), seeded(8))
    for route in (path, backward):
        trajectories = score_states(policy, route, TARGET.log_prob(route[-1]))
        trajectories = replace(trajectories, log_p_0=policy.log_marginal(route[0], 0))
        assert float(trajectory_balance(trajectories, torch.tensor(1.3)).detach().max()) < 1e-8
        weights = LogWeights(trajectories.log_weights())
        assert weights.ess_fraction > 1.0 - 1e-8 and weights.log_mean == pytest.approx(1.3, abs=1e-4)


def test_standard_prior_leaves_its_mismatch_and_no_more():
    """From the prior N(0, 1) the exact reversal's weights are the ratio of the noised data to the prior, trajectory by
    trajectory, and their ESS is what `prior_mismatch` says."""
    policy = ExactReversal(TARGET, ScheduleConfig(n_steps=6, prior_signal=0.1))
    path, log_ratio = rollout(policy, 4000, seeded(9))
    log_w = TARGET.log_prob(path[-1]) - log_ratio
    mismatch = policy.log_marginal(path[0], 0) - SPACE.log_prior(path[0].double())
    torch.testing.assert_close(log_w, 1.3 + mismatch, rtol=0.0, atol=1e-4)
    bound = policy.process.prior_mismatch(TARGET.sample(seeded(10), 50_000))
    assert LogWeights(log_w).ess_fraction == pytest.approx(1.0 / (1.0 + bound), abs=0.005)
    assert 0.01 < bound < 0.1


def test_wrong_policy_is_seen():
    policy = ExactReversal(TARGET, ScheduleConfig(n_steps=6))
    with torch.no_grad():
        policy.bias[:, 0] += 0.3
    path = policy.walk(300, seeded(6))
    trajectories = score_states(policy, path, TARGET.log_prob(path[-1]))
    assert float(trajectory_balance(trajectories, torch.tensor(1.3)).detach().mean()) > 1e-2


def test_log_variance_is_bounded():
    policy = stirred(untrained(log_var_range=2.0), 200.0)
    x = states()
    for n in (0, 12, 23):
        _, log_var = policy(x, n)
        change = (log_var - policy.process.forward_log_var[n]).detach()
        assert float(change.abs().max()) <= 2.0 + 1e-5 and float(change.abs().max()) > 1.9
        assert log_var[:, 3:].max().item() <= 2.0 * math.log(MAX_CIRCLE_STD) + 1e-6


def test_one_step_and_many_steps_agree():
    policy = stirred(untrained(), 0.3)
    n = torch.tensor([0, 5, 23])
    x = SPACE.sample_prior(21, seeded(3)).view(3, 7, 5)
    y = SPACE.sample_prior(21, seeded(4)).view(3, 7, 5)
    mean, log_var = policy(x, n)
    log_p = policy.log_prob(y, x, n)
    assert log_p.shape == (3, 7)
    for k, step in enumerate(n.tolist()):
        single = policy(x[k], step)
        torch.testing.assert_close(mean[k], single[0])
        torch.testing.assert_close(log_var[k], single[1])
        torch.testing.assert_close(log_p[k], policy.log_prob(y[k], x[k], step), rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(log_p[k], SPACE.log_normal(y[k], *single), rtol=1e-4, atol=1e-4)
    # steps differ: the tables are looked up, not shared
    assert (policy(x[0], 0)[0] - policy(x[0], 5)[0]).abs().max().item() > 1e-2


def test_network_sees_no_seam():
    policy = stirred(untrained(), 0.3)
    x = states()
    turned = x.clone()
    turned[:, 3:] += 2.0 * math.pi
    for a, b in zip(policy.drift_and_log_var(x, 9), policy.drift_and_log_var(turned, 9), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-4)


def test_sampled_step_carries_its_density():
    policy = stirred(untrained(), 0.3)
    x = states()
    y, log_p = policy.sample_step(x, 4, seeded(5))
    torch.testing.assert_close(log_p, policy.log_prob(y, x, 4))
    torch.testing.assert_close(SPACE.wrap(y), y)


def test_rollout_and_scores_give_the_same_weight():
    policy = stirred(untrained(n_steps=6), 0.3)
    path, log_ratio = rollout(policy, 50, seeded(6))
    trajectories = score_states(policy, path, torch.zeros(50))
    assert path.shape == (7, 50, 5) and trajectories.log_p_f.shape == trajectories.log_p_b.shape == (6, 50)
    torch.testing.assert_close(trajectories.log_weights(), -log_ratio, rtol=1e-4, atol=1e-3)
    assert float(trajectories.log_weights().detach().abs().mean()) > 0.1
    assert trajectories.log_weights().requires_grad


def test_a_policy_evaluated_by_something_else_is_the_same_policy():
    """The same parameters, trained through what evaluates them; the policy itself stays as it was."""
    policy, calls = stirred(untrained(), 0.3), []

    def accelerate(network):
        def evaluate(x, n):
            calls.append(n)
            return 2.0 * network(x, n)

        return evaluate

    fast = policy.evaluated_by(accelerate)
    assert all(a is b for a, b in zip(fast.parameters(), policy.parameters(), strict=True))
    assert fast.process is policy.process
    x, y = states(), states()[torch.randperm(7, generator=seeded(4))]
    same = policy.evaluated_by(lambda network: network.forward)
    assert torch.equal(same.log_prob(y, x, 3), policy.log_prob(y, x, 3)) and calls == []
    loss = fast.log_prob(y, x, 3).sum()
    assert calls == [3] and not torch.equal(loss, policy.log_prob(y, x, 3).sum())
    torch.testing.assert_close(fast.drift_and_log_var(x, 3)[0], 2.0 * policy.drift_and_log_var(x, 3)[0])
    loss.backward()
    assert all(p.grad is not None for p in policy.parameters())


def test_the_langevin_parametrisation_adds_the_gated_score():
    """With a silent network f_n = gate (score - grad log p_ref), bounded in spreads of the kernel; one evaluation a
    state, no gradient through it."""
    asked = []

    def score(x):
        asked.append(x)
        return torch.cat([2.0 - x[:, :3], 0.5 * x[:, 3:].cos()], 1)

    process = NoisingProcess(SPACE, ScheduleConfig(6))
    policy = DiffusionPolicy(process, PolicyConfig(16, 2, langevin=True, score_limit=1e6), seeded(0), score)
    x = states().requires_grad_()
    silent, _ = policy.drift_and_log_var(x, 2)
    assert float(silent.detach().abs().max()) == 0.0  # the gate is shut before training
    with torch.no_grad():
        policy.gate[2] = torch.tensor([1.0, 0.5, 0.0, 1.0, 2.0])
    asked.clear()
    drift, _ = policy.drift_and_log_var(x, 2)
    expected = torch.cat([torch.full((7, 3), 2.0), 0.5 * x.detach()[:, 3:].cos()], 1) * policy.gate[2]
    torch.testing.assert_close(drift.detach(), expected.detach(), rtol=1e-4, atol=1e-4)
    assert len(asked) == 1 and not asked[0].requires_grad and torch.equal(asked[0], x.detach())
    torch.testing.assert_close(policy.drift_and_log_var(x[None], torch.tensor([2]))[0][0], drift)
    # bounded: the score alone moves the mean by at most so many spreads
    bounded = DiffusionPolicy(process, PolicyConfig(16, 2, langevin=True, score_limit=1.5), seeded(0), score)
    with torch.no_grad():
        bounded.gate.fill_(1.0)
    bounded.score = lambda x: torch.full_like(x, -1e9)
    drift, log_var = bounded.drift_and_log_var(x, 2)
    torch.testing.assert_close(drift, -1.5 * (-0.5 * log_var).exp(), rtol=1e-4, atol=1e-4)
    with pytest.raises(ValueError, match="langevin = true needs the target's score"):
        DiffusionPolicy(process, PolicyConfig(langevin=True), seeded(0))


def test_the_order_of_the_parts_makes_no_difference():
    """A circle, a line and two circles: the untrained policy's densities and paths are those of the canonical space."""
    around, order = Space((Circle(1), Line(3), Circle(1))), [1, 2, 3, 0, 4]
    one, two = (untrained(space, n_steps=5) for space in (around, SPACE))
    path = two.process.sample_path(states(9), seeded(3))
    other = torch.empty_like(path)
    other[..., order] = path
    t, u = (score_states(policy, states, torch.zeros(9)) for policy, states in ((one, other), (two, path)))
    torch.testing.assert_close(t.log_p_f, u.log_p_f)
    torch.testing.assert_close(t.log_p_b, u.log_p_b)
    torch.testing.assert_close(t.log_p_0, u.log_p_0)
    assert one.process.prior_mismatch(other[-1]) == pytest.approx(two.process.prior_mismatch(path[-1]))
