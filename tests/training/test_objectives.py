from __future__ import annotations

import math
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch

from molsampler.basis.space import Space
from molsampler.diffusion.policy import Policy, PolicyConfig
from molsampler.diffusion.process import NoisingProcess, ScheduleConfig
from molsampler.diffusion.trajectories import Trajectories, rollout, score_states
from molsampler.diffusion.twist import Twist, TwistConfig
from molsampler.training.objectives import (
    ControlVariate,
    _regression_targets,
    denoising,
    subtb_chunk,
    trajectory_balance,
)
from tests.diffusion.exact import ExactReversal
from tests.stochastic import assert_mean, seeded, standard_errors
from tests.targets.analytic import Gaussian

TARGET = Gaussian(torch.tensor([0.7, -1.2]).double(), torch.tensor([0.5, 1.6]).double(), 1, 1.3)
LOG_Z = torch.tensor(0.7, requires_grad=True)


def some_trajectories(n_steps: int = 6) -> tuple[Policy, Twist, Trajectories]:
    process = NoisingProcess(TARGET.space, ScheduleConfig(n_steps))
    policy, twist = Policy(process, PolicyConfig(8, 2), seeded(0)), Twist(process, TwistConfig(8, 2), seeded(1))
    with torch.no_grad():
        for network in (policy.network, twist.network):
            network.last.weight.copy_(0.3 * torch.randn(network.last.weight.shape, generator=seeded(2)))
    path, _ = rollout(policy, 9, seeded(3))
    return policy, twist, score_states(policy, path, torch.randn(9, generator=seeded(4)))


def test_trajectory_balance_is_what_it_says():
    policy, _, t = some_trajectories()
    for b in range(3):
        log_w = t.log_r[b] + t.log_p_b[:, b].sum() - t.log_p_0[b] - t.log_p_f[:, b].detach().sum()
        assert trajectory_balance(t, LOG_Z)[b].item() == pytest.approx((0.7 - float(log_w)) ** 2, rel=1e-4)
    trajectory_balance(t, LOG_Z).mean().backward()
    assert LOG_Z.grad is not None and float(LOG_Z.grad.abs()) > 0.0
    assert policy.network.last.weight.grad is not None
    LOG_Z.grad = None


def test_subtb_is_tb_where_one_chunk_spans_all():
    _, _, t = some_trajectories()
    loss = subtb_chunk(t, lambda x, n: pytest.fail("there is no chunk end inside"), LOG_Z, 6)
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
    loss = subtb_chunk(t, lambda x, n: twist(x, n, LOG_Z.detach()), LOG_Z, chunk)
    assert loss.item() == pytest.approx(sum(squares) / len(squares), rel=1e-4)


def test_subtb_trains_the_twist_only():
    policy, twist, t = some_trajectories()
    subtb_chunk(t, lambda x, n: twist(x, n, LOG_Z.detach()), LOG_Z, 2).backward()
    assert LOG_Z.grad is None and all(p.grad is None for p in policy.parameters())
    reached = [float(p.grad.abs().sum()) for p in twist.parameters() if p.grad is not None]
    assert len(reached) == len(list(twist.parameters())) and all(g > 0.0 for g in reached[:2])
    steps = twist.network.last_bias.grad.abs().sum(-1)
    assert (steps > 0.0).tolist() == [False, False, True, False, True, False]  # chunk ends inside: 2 and 4


def test_both_balances_vanish_at_the_exact_solution():
    policy = ExactReversal(TARGET, ScheduleConfig(n_steps=6))
    path = policy.process.sample_path(TARGET.sample(seeded(5), 50), seeded(6))
    t = replace(score_states(policy, path, TARGET.log_prob(path[-1])), log_p_0=policy.log_marginal(path[0], 0))
    log_z = torch.tensor(1.3)
    assert float(trajectory_balance(t, log_z).detach().max()) < 1e-8
    exact = subtb_chunk(t, lambda x, n: log_z + policy.log_marginal(x, n), log_z, 2)
    assert float(exact) < 1e-8
    wrong = subtb_chunk(t, lambda x, n: log_z + policy.log_marginal(x, n - 1), log_z, 2)
    assert float(wrong) > 1e-2


def standard_target(n_steps: int, batch: int) -> tuple[SimpleNamespace, torch.Tensor, torch.Tensor]:
    space = Space.of(2, 1)
    process = NoisingProcess(space, ScheduleConfig(n_steps)).double()
    x_data = space.sample_prior(n_steps * batch, seeded(7), dtype=torch.float64).view(n_steps, batch, 3)
    score = torch.cat([-x_data[..., :2], torch.zeros_like(x_data[..., 2:])], -1)
    return SimpleNamespace(process=process, space=space), x_data, score


def test_control_variate_leaves_no_noise_on_a_standard_target():
    model, x_data, score = standard_target(6, 200)
    x = model.process.sample_marginal(x_data, torch.arange(6), seeded(8))
    a, w = _regression_targets(model, x_data, x, score)
    variate = ControlVariate(6, 3)
    assert float(a.abs().mean()) > 0.05
    assert float(variate.mix(a, w).abs().max()) < 1e-5
    r = -variate.cross / variate.square
    torch.testing.assert_close(r, torch.ones_like(r), rtol=1e-4, atol=1e-4)


def mixture_noised(process: NoisingProcess, x: torch.Tensor, n: int) -> torch.Tensor:
    """log p_n(x) - log p_ref(x) for the line and the circle apart, (2, B): 0.4 N(-1, 0.3^2) + 0.6 N(0.8, 0.7^2), and
    0.4 WN(-2, 0.4^2) + 0.6 WN(1, 0.6^2), independent."""
    s, sigma = process.signal[n], process.sigma[n]
    parts = []
    images = 2.0 * math.pi * torch.arange(-9, 10, dtype=torch.float64)
    for coordinate, centres, spreads in ((0, (-1.0, 0.8), (0.3, 0.7)), (1, (-2.0, 1.0), (0.4, 0.6))):
        wells = []
        for share, centre, spread in zip((0.4, 0.6), centres, spreads, strict=True):
            mean = s * centre if coordinate == 0 else torch.tensor(centre).double()
            var = s * s * spread**2 + 1.0 - s * s if coordinate == 0 else spread**2 + sigma.square()
            delta = x[:, coordinate, None] - mean
            delta = delta if coordinate == 0 else delta + images
            wells.append(math.log(share) - 0.5 * var.log() - 0.5 * delta.square() / var)
        parts.append(torch.logsumexp(torch.cat(wells, -1), -1))
    return torch.stack([parts[0] + 0.5 * x[:, 0].square(), parts[1]])


def mixture_data(n: int) -> torch.Tensor:
    generator = seeded(9)
    noise = torch.randn(n, 2, generator=generator, dtype=torch.float64)
    first = torch.rand(n, 2, generator=generator) < 0.4
    low = torch.tensor([-1.0, -2.0]) + torch.tensor([0.3, 0.4]) * noise
    high = torch.tensor([0.8, 1.0]) + torch.tensor([0.7, 0.6]) * noise
    return Space.of(1, 1).wrap(torch.where(first, low, high))


def test_regression_targets_are_unbiased_everywhere():
    """On a Gaussian mixture the plain denoising target A and the mixed one have mean f_n = grad log (p_n / p_ref), in
    every bin of x_n, and the mixed one has less noise."""
    n_steps, batch, bins = 5, 20_000, 8
    process = NoisingProcess(Space.of(1, 1), ScheduleConfig(n_steps, circle_min=0.3)).double()
    model = SimpleNamespace(process=process, space=process.space)
    x_data = mixture_data(n_steps * batch).view(n_steps, batch, 2)
    leaf = x_data.view(-1, 2).clone().requires_grad_()
    end = SimpleNamespace(signal=torch.ones(1).double(), sigma=torch.zeros(1).double())
    log_r = mixture_noised(end, leaf, 0).sum() - 0.5 * leaf[:, 0].square().sum()
    score = torch.autograd.grad(log_r, leaf)[0].view_as(x_data)
    x = process.sample_marginal(x_data, torch.arange(n_steps), seeded(10))
    a, w = _regression_targets(model, x_data, x, score)
    variate = ControlVariate(n_steps, 2)
    mixed = variate.mix(a, w)
    for n in range(n_steps):
        leaf = x[n].clone().requires_grad_()
        f = torch.autograd.grad(mixture_noised(process, leaf, n).sum(), leaf)[0]
        for d in range(2):
            noise = torch.stack([a[n, :, d] - f[:, d], mixed[n, :, d] - f[:, d], a[n, :, d] + w[n, :, d] - f[:, d]], 1)
            for rows in noise[x[n, :, d].argsort()].chunk(bins):
                assert_mean(rows, 0.0, bound=5.0)  # 240 means: by chance beyond in 1e-4 of all seeds
            spread = noise.square().mean(0)
            assert float(spread[1]) <= 1.001 * float(spread[[0, 2]].min())  # the best of A, B and everything between
    r = -variate.cross / variate.square
    assert float(r.min()) > -0.01 and float(r.max()) < 1.5 and float(r.max() - r.min()) > 0.1


def test_control_variate_averages_over_batches():
    variate = ControlVariate(1, 1, rate=0.25)
    ones = torch.ones(1, 4, 1)
    # running means 1/1, 1/2, 1/3, then the rate: of cross = -1, -0.5, -0.5, ... and square = 1
    variate.mix(-ones, ones)
    mixed = variate.mix(-0.5 * ones, ones)
    torch.testing.assert_close(mixed, (-0.5 + 0.75) * ones)
    for _ in range(2):
        mixed = variate.mix(-0.5 * ones, ones)
    torch.testing.assert_close(mixed, (-0.5 + 0.625) * ones)
    again = ControlVariate(1, 1, rate=0.25)
    again.load_state_dict(variate.state_dict())
    torch.testing.assert_close(again.mix(ones, ones), variate.mix(ones, ones))


def gradients(policy: ExactReversal, with_score: bool, mixing: bool = True, repeats: int = 40) -> torch.Tensor:
    """(repeats, 3, N, D): independent gradients of the denoising loss by slope, bias and log-variance of every step."""
    variate, generator, found = ControlVariate(4, 3), seeded(11), []
    for _ in range(repeats):
        x = TARGET.sample(generator, 4 * 200)
        score = TARGET.log_prob_and_score(x)[1].view(4, 200, 3) if with_score else None
        loss = denoising(policy, x.view(4, 200, 3), score, variate.mix if mixing else None, generator)
        assert loss.shape == (4,)
        found.append(torch.stack(torch.autograd.grad(loss.sum(), [policy.slope, policy.bias, policy.log_var])))
    return torch.stack(found)


KINDS = pytest.mark.parametrize(("with_score", "mixing"), [(False, False), (True, True), (True, False)])


@KINDS
def test_denoising_is_stationary_at_the_exact_reversal(with_score, mixing):
    policy = ExactReversal(TARGET, ScheduleConfig(n_steps=4))
    assert_mean(gradients(policy, with_score, mixing), torch.zeros(()))


@KINDS
@pytest.mark.parametrize("name", ["slope", "bias", "log_var"])
def test_denoising_gradient_points_uphill_elsewhere(name, with_score, mixing):
    policy = ExactReversal(TARGET, ScheduleConfig(n_steps=4))
    with torch.no_grad():
        getattr(policy, name).add_(0.3)
    index = ["slope", "bias", "log_var"].index(name)
    z = standard_errors(gradients(policy, with_score, mixing, repeats=20), 0.0)[index]
    # on the circle 0.3 of a drift is little beside the width of the kernels, and the first kernels are all but uniform
    assert float(z[:, :2].min()) > 3.0 and (name != "log_var" or float(z[1:, 2].min()) > 3.0)


def test_scores_change_the_noise_of_the_gradient_and_not_its_mean():
    policy = ExactReversal(TARGET, ScheduleConfig(n_steps=4))
    with torch.no_grad():
        policy.bias.add_(0.3)
        policy.log_var.add_(0.2)
    plain, mixed = (gradients(policy, with_score)[..., :2] for with_score in (False, True))  # on the line, where both
    error = ((plain.var(0) + mixed.var(0)) / len(plain)).sqrt()  # are exact
    assert float(((plain.mean(0) - mixed.mean(0)) / error).abs().max()) < 4.5
    quieter = (mixed.var(0) / plain.var(0))[:2, 1:]  # of slope and bias; at n = 0 no signal is left that could help
    assert float(quieter.median()) < 0.3 and float(quieter.max()) < 1.0


def test_scores_take_the_noise_out_of_the_gradient():
    """On N(0, I) x uniform, at the exact reversal, no noise is left in the gradients of the mean."""
    standard = Gaussian(torch.zeros(2).double(), torch.ones(2).double(), 1)
    policy = ExactReversal(standard, ScheduleConfig(n_steps=4))
    x = standard.sample(seeded(12), 400)
    score = standard.log_prob_and_score(x)[1].view(4, 100, 3)
    for given, bound in ((None, math.inf), (score, 1e-4)):
        mix = None if given is None else ControlVariate(4, 3).mix
        loss = denoising(policy, x.view(4, 100, 3), given, mix, seeded(13)).sum()
        noise = max(float(g.abs().max()) for g in torch.autograd.grad(loss, [policy.slope, policy.bias]))
        assert noise < bound and (given is not None or noise > 0.01)
