"""Log-variance, SubTB(lambda), detailed balance and reverse KL: against loops, closed forms and finite differences."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from molsampler.diffusion.noise import ScheduleConfig
from molsampler.diffusion.trajectories import differentiable_rollout, rollout, score_states
from molsampler.training.objectives import (
    differentiable_log_prob,
    log_variance,
    reverse_kl,
    subtb_lambda,
    trajectory_balance,
)
from tests.diffusion.exact import ExactReversal
from tests.stochastic import assert_mean, seeded
from tests.training.test_objectives import LOG_Z, TARGET, some_trajectories, with_flow


def test_log_variance_is_the_variance_and_its_gradient_that_of_tb_at_the_mean():
    policy, _, t = some_trajectories()
    log_w = t.log_weights().detach()
    loss = log_variance(t).mean()
    assert loss.item() == pytest.approx(float(log_w.var(unbiased=False)), rel=1e-4)
    (found,) = torch.autograd.grad(loss, policy.network.mlp.last.weight, retain_graph=True)
    (expected,) = torch.autograd.grad(trajectory_balance(t, log_w.mean()).mean(), policy.network.mlp.last.weight)
    torch.testing.assert_close(found, expected)


@pytest.mark.parametrize(("chunk", "lam"), [(1, 0.7), (2, 0.9), (3, 1.0), (1, 0.0)])
def test_subtb_lambda_against_a_loop(chunk, lam):
    _, twist, t = some_trajectories()
    ends = [*range(0, 6, chunk), 6]

    def flow(n: int, b: int) -> float:
        if n == 0:
            return (LOG_Z + t.log_p_0[b]).item()
        if n == 6:
            return float(t.log_r[b])
        return twist(t.states[n, b : b + 1], n, torch.tensor(0.7)).item()

    total = weight = 0.0
    for i, start in enumerate(ends):
        for j in range(i + 1, len(ends)):
            w = lam ** (j - i - 1)
            weight += w
            for b in range(9):
                steps = (t.log_p_f - t.log_p_b)[start : ends[j], b].sum().item()
                total += w * (flow(start, b) + steps - flow(ends[j], b)) ** 2 / 9
    loss = subtb_lambda(with_flow(t, lambda x, n: twist(x, n, torch.tensor(0.7)), chunk), LOG_Z, lam)
    assert loss.item() == pytest.approx(total / weight, rel=1e-4)


def test_subtb_lambda_trains_policy_flow_and_log_z():
    policy, twist, t = some_trajectories()
    log_z = torch.tensor(0.7, requires_grad=True)
    subtb_lambda(with_flow(t, lambda x, n: twist(x, n, log_z.detach()), 2), log_z, 0.9).backward()
    for found in (log_z.grad, policy.network.mlp.last.weight.grad, twist.network.mlp.last.weight.grad):
        assert found is not None and float(found.abs().sum()) > 0.0


def test_balances_vanish_at_the_exact_solution():
    policy = ExactReversal(TARGET, ScheduleConfig(n_steps=6))
    path = policy.process.sample_path(TARGET.sample(seeded(5), 50), seeded(6))
    t = replace(score_states(policy, path, TARGET.log_prob(path[-1])), log_p_0=policy.log_marginal(path[0], 0))
    log_z = torch.tensor(1.3)
    assert float(log_variance(t).detach().max()) < 1e-8
    for chunk, lam in ((1, 0.0), (2, 0.9)):
        exact = subtb_lambda(with_flow(t, lambda x, n: log_z + policy.log_marginal(x, n), chunk), log_z, lam)
        wrong = subtb_lambda(with_flow(t, lambda x, n: log_z + policy.log_marginal(x, n - 1), chunk), log_z, lam)
        assert float(exact.detach()) < 1e-8 and float(wrong.detach()) > 1e-2


def test_log_prob_with_its_score_is_differentiable_once():
    x = TARGET.sample(seeded(0), 5).double().requires_grad_()
    before = TARGET.counter.total
    log_r = differentiable_log_prob(TARGET.log_prob_and_score, x)
    (found,) = torch.autograd.grad((log_r * torch.arange(5.0)).sum(), x)
    assert TARGET.counter.total == before + 5
    (expected,) = torch.autograd.grad((TARGET.log_prob(x) * torch.arange(5.0)).sum(), x)
    torch.testing.assert_close(found, expected)


def minus_elbo(policy: ExactReversal, n: int, seed: int) -> torch.Tensor:
    states, log_ratio = differentiable_rollout(policy, n, seeded(seed))
    return reverse_kl(differentiable_log_prob(TARGET.log_prob_and_score, states[-1]), log_ratio)


def test_reverse_kl_gradient_by_finite_differences():
    """With the noise held fixed -ELBO is a smooth function of the parameters, through all the states."""
    policy = ExactReversal(TARGET, ScheduleConfig(n_steps=4))
    with torch.no_grad():
        policy.bias.add_(0.2)
    gradient = torch.autograd.grad(minus_elbo(policy, 40, 1), policy.bias)[0]
    h = 1e-5
    for n, d in ((0, 0), (2, 1), (3, 0)):
        values = []
        for shift in (h, -h):
            with torch.no_grad():
                policy.bias[n, d] += shift
                values.append(float(minus_elbo(policy, 40, 1)))
                policy.bias[n, d] -= shift
        assert float(gradient[n, d]) == pytest.approx((values[0] - values[1]) / (2 * h), rel=1e-4, abs=1e-6)


def test_reverse_kl_is_stationary_at_the_exact_reversal():
    policy = ExactReversal(TARGET, ScheduleConfig(n_steps=4, prior_signal=1e-3))
    found = []
    for seed in range(40):
        loss = minus_elbo(policy, 100, seed)
        assert loss.item() == pytest.approx(-1.3, abs=0.02)  # the prior's mismatch is of first order in 1e-3
        found.append(torch.cat([g.flatten() for g in torch.autograd.grad(loss, [policy.slope, policy.log_var])]))
    line = torch.stack(found)
    assert_mean(line[:, line.abs().amax(0) > 1e-2], 0.0, bound=5.0)


def test_exploration_widens_every_kernel_and_weights_stay_right():
    """Wider kernels are another proposal: the mean weight is still Z, within its standard error, at 4.5 of them."""
    policy = ExactReversal(TARGET, ScheduleConfig(n_steps=6, prior_signal=1e-3))
    plain, _ = rollout(policy, 20_000, seeded(0))
    wide, log_ratio = rollout(policy, 20_000, seeded(0), exploration=0.15)
    first = torch.stack([s[1, :, 0].double().std() for s in (plain, wide)])
    assert float(first[1] / first[0]) > 1.02
    log_w = TARGET.log_prob(wide[-1]).double() - log_ratio.double()
    relative = (log_w - 1.3).exp()
    assert float(relative.std()) > 0.1
    assert_mean(relative, 1.0)
