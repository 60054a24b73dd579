from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from molsampler.basis.space import Space
from molsampler.diffusion.noise import ScheduleConfig
from molsampler.diffusion.policy import DiffusionPolicy, PolicyConfig
from molsampler.diffusion.process import NoisingProcess
from molsampler.diffusion.trajectories import Trajectories, rollout, score_states
from molsampler.diffusion.twist import Twist, TwistConfig
from molsampler.training.objectives import ControlVariate, subtb_chunk, trajectory_balance
from tests.diffusion.exact import ExactReversal
from tests.stochastic import seeded
from tests.targets.analytic import Gaussian

TARGET = Gaussian(torch.tensor([0.7, -1.2]).double(), torch.tensor([0.5, 1.6]).double(), 1, 1.3)
LOG_Z = torch.tensor(0.7, requires_grad=True)


def some_trajectories(n_steps: int = 6) -> tuple[DiffusionPolicy, Twist, Trajectories]:
    process = NoisingProcess(TARGET.space, ScheduleConfig(n_steps))
    policy, twist = (
        DiffusionPolicy(process, PolicyConfig(8, 2), seeded(0)),
        Twist(process, TwistConfig(8, 2), seeded(1)),
    )
    with torch.no_grad():
        for network in (policy.network, twist.network):
            network.mlp.last.weight.copy_(0.3 * torch.randn(network.mlp.last.weight.shape, generator=seeded(2)))
    path, _ = rollout(policy, 9, seeded(3))
    return policy, twist, score_states(policy, path, torch.randn(9, generator=seeded(4)))


def with_flow(t: Trajectories, log_flow: Callable[[Tensor, int], Tensor], chunk: int) -> Trajectories:
    """The trajectories with log F at the chunk ends inside, by a function of states and step."""
    ends = tuple(range(chunk, t.n_steps, chunk))
    return t.with_flow(ends, torch.stack([log_flow(t.states[n], n) for n in ends]) if ends else None)


def test_trajectory_balance_is_what_it_says():
    policy, _, t = some_trajectories()
    for b in range(3):
        log_w = t.log_r[b] + t.log_p_b[:, b].sum() - t.log_p_0[b] - t.log_p_f[:, b].detach().sum()
        assert trajectory_balance(t, LOG_Z)[b].item() == pytest.approx((0.7 - float(log_w)) ** 2, rel=1e-4)
    trajectory_balance(t, LOG_Z).mean().backward()
    assert LOG_Z.grad is not None and float(LOG_Z.grad.abs()) > 0.0
    assert policy.network.mlp.last.weight.grad is not None
    LOG_Z.grad = None


def test_subtb_is_tb_where_one_chunk_spans_all():
    _, _, t = some_trajectories()
    assert t.ends == () and t.log_f is None  # there is no chunk end inside
    loss = subtb_chunk(t, LOG_Z)
    torch.testing.assert_close(loss, trajectory_balance(t, LOG_Z).mean().detach())


@pytest.mark.parametrize("chunk", [1, 2, 3])
def test_subtb_against_a_loop(chunk):
    _, twist, t = some_trajectories()
    ends = 6 // chunk

    def flow(n: int, b: int) -> float:
        if n == 0:
            return (LOG_Z + t.log_p_0[b]).item()
        if n == 6:
            return float(t.log_r[b])
        return twist(t.states[n, b : b + 1], n, LOG_Z.detach()).item()

    def discrepancy(i: int, j: int, b: int) -> float:
        return flow(i, b) + (t.log_p_f - t.log_p_b)[i:j, b].sum().item() - flow(j, b)

    squares = []
    for b in range(9):
        for k in range(ends):
            squares.append(discrepancy(k * chunk, (k + 1) * chunk, b) ** 2)
            squares.append((discrepancy(k * chunk, 6, b) / (ends - k)) ** 2)
    loss = subtb_chunk(with_flow(t, lambda x, n: twist(x, n, LOG_Z.detach()), chunk), LOG_Z)
    assert loss.item() == pytest.approx(sum(squares) / len(squares), rel=1e-4)


def test_subtb_trains_the_twist_only():
    policy, twist, t = some_trajectories()
    subtb_chunk(with_flow(t, lambda x, n: twist(x, n, LOG_Z.detach()), 2), LOG_Z).backward()
    assert LOG_Z.grad is None and all(p.grad is None for p in policy.parameters())
    reached = [float(p.grad.abs().sum()) for p in twist.parameters() if p.grad is not None]
    assert len(reached) == len(list(twist.parameters())) and all(g > 0.0 for g in reached[:2])
    steps = twist.network.mlp.last_bias.grad.abs().sum(-1)
    assert (steps > 0.0).tolist() == [False, False, True, False, True, False]  # chunk ends inside: 2 and 4


def test_both_balances_vanish_at_the_exact_solution():
    policy = ExactReversal(TARGET, ScheduleConfig(n_steps=6))
    path = policy.process.sample_path(TARGET.sample(seeded(5), 50), seeded(6))
    t = replace(score_states(policy, path, TARGET.log_prob(path[-1])), log_p_0=policy.log_marginal(path[0], 0))
    log_z = torch.tensor(1.3)
    assert float(trajectory_balance(t, log_z).detach().max()) < 1e-8
    exact = subtb_chunk(with_flow(t, lambda x, n: log_z + policy.log_marginal(x, n), 2), log_z)
    assert float(exact) < 1e-8
    wrong = subtb_chunk(with_flow(t, lambda x, n: log_z + policy.log_marginal(x, n - 1), 2), log_z)
    assert float(wrong) > 1e-2


def test_control_variate_leaves_no_noise_on_a_standard_target():
    space = Space.of(2, 1)
    process = NoisingProcess(space, ScheduleConfig(6)).double()
    x_data = space.sample_prior(6 * 200, seeded(7), dtype=torch.float64).view(6, 200, 3)
    x = process.sample_marginal(x_data, torch.arange(6), seeded(8))
    a, w = process.regression_targets(x_data, x, space.prior_score(x_data), torch.arange(6))
    variate = ControlVariate()
    assert float(a.abs().mean()) > 0.05
    assert float(variate.mix(a, w).abs().max()) < 1e-5
    r = -variate.cross / variate.square
    torch.testing.assert_close(r, torch.ones_like(r), rtol=1e-4, atol=1e-4)


def test_control_variate_averages_over_batches():
    variate = ControlVariate(rate=0.25)
    ones = torch.ones(1, 4, 1)
    # running means 1/1, 1/2, 1/3, then the rate: of cross = -1, -0.5, -0.5, ... and square = 1
    variate.mix(-ones, ones)
    mixed = variate.mix(-0.5 * ones, ones)
    torch.testing.assert_close(mixed, (-0.5 + 0.75) * ones)
    for _ in range(2):
        mixed = variate.mix(-0.5 * ones, ones)
    torch.testing.assert_close(mixed, (-0.5 + 0.625) * ones)
    again = ControlVariate(rate=0.25)
    again.load_state_dict(variate.state_dict())
    torch.testing.assert_close(again.mix(ones, ones), variate.mix(ones, ones))


def test_control_variate_goes_on_where_training_does():
    """A checkpoint is read to the CPU; what training goes on with may lie elsewhere ("meta" stands for a GPU)."""
    ones, variate = torch.ones(1, 4, 1), ControlVariate()
    variate.load_state_dict({"cross": torch.ones(1, 1), "square": torch.ones(1, 1), "seen": 3})
    mixed = variate.mix(ones.to("meta"), ones.to("meta"))
    assert mixed.device.type == variate.cross.device.type == variate.square.device.type == "meta"
