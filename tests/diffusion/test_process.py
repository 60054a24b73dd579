from __future__ import annotations

import math

import pytest
import torch

from molsampler.basis.space import MAX_CIRCLE_STD, Space
from molsampler.diffusion.noise import ScheduleConfig
from molsampler.diffusion.process import NoisingProcess
from tests.stochastic import assert_mean, seeded

SCHEDULES = [ScheduleConfig(), ScheduleConfig(n_steps=8, line_power=1.7, prior_signal=0.3), ScheduleConfig(n_steps=1)]


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_steps_compose_to_the_marginal(schedule):
    process = NoisingProcess(Space.of(2, 1), schedule).double()
    mean, var = torch.ones(3).double(), torch.zeros(3).double()
    for n in reversed(range(schedule.n_steps)):
        a = process.backward_scale[n]
        mean, var = a * mean, a.square() * var + process.backward_log_var[n].exp()
        torch.testing.assert_close(mean, process.marginal_scale[n], rtol=1e-5, atol=1e-6)
        torch.testing.assert_close(var, process.marginal_std[n].square(), rtol=1e-5, atol=1e-6)
    # what the words of the schedule say
    assert float(process.marginal_scale[0, 0]) == pytest.approx(schedule.prior_signal, abs=1e-6)
    assert float(process.marginal_std[0, 2]) == pytest.approx(schedule.circle_max)
    assert process.marginal_std[-1].tolist() == [0.0, 0.0, 0.0]
    assert process.marginal_scale[-1].tolist() == [1.0, 1.0, 1.0]
    # the line keeps the variance of N(0, 1)
    square = process.backward_scale[:, :2].square() + process.backward_log_var[:, :2].exp()
    torch.testing.assert_close(square, torch.ones_like(square), rtol=1e-6, atol=1e-6)


def test_geometric_spreads_on_the_circle():
    sigma = NoisingProcess(Space.of(0, 1), ScheduleConfig(n_steps=6, circle_max=3.0, circle_min=0.1)).marginal_std[:, 0]
    assert float(sigma[0]) == pytest.approx(3.0) and float(sigma[5]) == pytest.approx(0.1)
    ratio = sigma[1:6] / sigma[:5]
    torch.testing.assert_close(ratio, ratio[:1].expand(5))


def test_sampled_path_and_sampled_marginal_have_the_same_moments():
    process = NoisingProcess(Space.of(1, 1), ScheduleConfig(n_steps=5))
    data = torch.tensor([1.5, 2.0]).expand(20_000, 2)
    path = process.sample_path(data, seeded(0)).double()
    assert path.shape == (6, 20_000, 2)
    torch.testing.assert_close(path[-1].float(), data)
    for n in range(5):
        s, sigma = float(process.marginal_scale[n, 0]), float(process.marginal_std[n, 1])
        shrink = math.exp(-0.5 * sigma**2)
        expected = torch.tensor([1.5 * s, 1.0 - s * s, shrink * math.cos(2.0), shrink * math.sin(2.0)])
        closed = process.sample_marginal(data, n, seeded(10 + n)).double()
        for x in (path[n], closed):
            line, circle = x[:, 0], x[:, 1]
            assert_mean(torch.stack([line, (line - 1.5 * s).square(), circle.cos(), circle.sin()], 1), expected)


def test_marginal_of_slices_agrees_with_single_steps():
    process = NoisingProcess(Space.of(1, 1), ScheduleConfig(n_steps=3))
    data = torch.tensor([0.5, 1.0]).expand(3, 20_000, 2)
    x = process.sample_marginal(data, torch.tensor([3, 1, 0]), seeded(3)).double()
    torch.testing.assert_close(x[0].float(), data[0])
    for k, n in ((1, 1), (2, 0)):
        assert_mean(x[k, :, 0], 0.5 * float(process.marginal_scale[n, 0]))
        assert_mean(x[k, :, 1].cos(), math.exp(-0.5 * float(process.marginal_std[n, 1]) ** 2) * math.cos(1.0))


@pytest.mark.parametrize("n", [0, 3, 5])
def test_backward_kernel_is_normalised(n):
    process = NoisingProcess(Space.of(1, 1), ScheduleConfig(n_steps=6)).double()
    x_next = torch.tensor([0.8, 3.0], dtype=torch.float64)
    line = torch.linspace(-9.0, 9.0, 1801, dtype=torch.float64)
    angle = -math.pi + 2.0 * math.pi * torch.arange(600, dtype=torch.float64) / 600
    grid = torch.cartesian_prod(line, angle)
    total = process.log_prob(grid, x_next, n).exp().sum() * 0.01 * 2.0 * math.pi / 600
    assert float(total) == pytest.approx(1.0, abs=1e-6)
    # as the tensor of steps gives it
    again = process.log_prob(grid[None, :50], x_next, torch.tensor([n]))
    torch.testing.assert_close(again[0], process.log_prob(grid[:50], x_next, n))


def test_prior_mismatch_is_negligible_at_the_defaults_and_seen_in_bad_schedules():
    space = Space.of(55, 5)
    data = space.sample_prior(4000, seeded(0))
    data[:, :55] = 0.2 + 1.2 * data[:, :55]
    data[:, 55:] *= 0.2  # every torsion in one basin
    default = NoisingProcess(space, ScheduleConfig()).prior_mismatch(data)
    assert 0.0 < default < 2e-3
    assert NoisingProcess(space, ScheduleConfig(prior_signal=0.3)).prior_mismatch(data) > 0.2
    assert NoisingProcess(space, ScheduleConfig(circle_max=1.5)).prior_mismatch(data) > 0.2


def test_prior_mismatch_is_the_chi_square_of_the_noised_data():
    # data N(m, v) x WN(mu, t^2): 1 + chi^2 = E_prior[(p_n / p_0)^2], by quadrature, to first order in the mismatch
    m, v, t = 0.8, 0.5, 0.7
    process = NoisingProcess(Space.of(1, 1), ScheduleConfig(prior_signal=0.1, circle_max=2.5))
    grid = torch.linspace(-9.0, 9.0, 3601, dtype=torch.float64)
    normal = torch.distributions.Normal(torch.tensor(0.0).double(), 1.0)
    noised = torch.distributions.Normal(torch.tensor(0.1 * m).double(), math.sqrt(0.01 * v + 0.99))
    line = (2.0 * noised.log_prob(grid) - normal.log_prob(grid)).exp().sum() * 0.005
    modes = torch.arange(1, 20, dtype=torch.float64)
    circle = 1.0 + 2.0 * (-modes.square() * (t**2 + 2.5**2)).exp().sum()  # Parseval
    exact = float(line * circle) - 1.0
    data = Space.of(1, 1).sample_prior(400_000, seeded(0), dtype=torch.float64)
    data[:, 0] = m + math.sqrt(v) * data[:, 0]
    data[:, 1] = t * torch.randn(len(data), generator=seeded(1), dtype=torch.float64)
    assert process.prior_mismatch(data) == pytest.approx(exact, rel=0.05)


def test_largest_circle_spread_is_close_to_uniform():
    grid = torch.linspace(-math.pi, math.pi, 101, dtype=torch.float64)[:, None]
    mean, log_var = torch.zeros(1).double(), torch.full((1,), 2.0 * math.log(MAX_CIRCLE_STD)).double()
    density = Space.of(0, 1).log_normal(grid, mean, log_var).exp() * 2.0 * math.pi
    assert 0.002 < float((density - 1.0).abs().max()) < 0.005
