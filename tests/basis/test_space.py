from __future__ import annotations

import math

import pytest
import torch

from molsampler.basis.space import FREQUENCY_RANGE, MAX_CIRCLE_STD, Line, Space, log_wrapped_normal, wrap_angle
from tests.stochastic import assert_mean, seeded

SPREADS = (1e-3, 0.02, 0.12, 0.5, 1.0, 2.0, 3.0, MAX_CIRCLE_STD)


def many_images(delta: torch.Tensor, std: float) -> torch.Tensor:
    """Log density of a wrapped normal as a sum over 81 images, in float64."""
    images = delta.double()[..., None] + 2.0 * math.pi * torch.arange(-40, 41, dtype=torch.float64)
    log_p = -0.5 * (images / std).square() - math.log(std * math.sqrt(2.0 * math.pi))
    return torch.logsumexp(log_p, -1)


@pytest.mark.parametrize("std", SPREADS)
def test_wrapped_normal_integrates_to_one(std):
    # the periodic trapezoid rule converges exponentially once the grid resolves the spread
    n = max(200, int(40 / std))
    grid = -math.pi + 2.0 * math.pi * torch.arange(n, dtype=torch.float64) / n
    log_var = torch.full_like(grid, 2.0 * math.log(std))
    for mean in (0.0, 2.9):
        integral = log_wrapped_normal(grid - mean, log_var).exp().sum() * 2.0 * math.pi / n
        assert abs(float(integral) - 1.0) < 1e-6


@pytest.mark.parametrize("std", SPREADS)
def test_wrapped_normal_agrees_with_many_images(std):
    delta = torch.linspace(-9.0, 9.0, 1001, dtype=torch.float64)
    exact = many_images(delta, std)
    value = log_wrapped_normal(delta, torch.full_like(delta, 2.0 * math.log(std)))
    assert float((value - exact).abs().div(exact.abs().clamp_min(1.0)).max()) < 1e-6
    single = log_wrapped_normal(delta.float(), torch.full((1001,), 2.0 * math.log(std)))
    assert bool(torch.isfinite(single).all())
    wide = exact.abs() < 50.0  # in single, rounding of delta costs delta / std^2 of its last digit
    assert float((single.double() - exact)[wide].abs().max()) < 1e-4 / min(std, 1.0)


def test_narrow_kernel_does_not_underflow():
    delta = torch.tensor([math.pi - 1e-3, -3.0, 1.0])
    value = log_wrapped_normal(delta, torch.full((3,), 2.0 * math.log(1e-3)))
    expected = -0.5 * (delta.double() / 1e-3).square() - math.log(1e-3 * math.sqrt(2.0 * math.pi))
    torch.testing.assert_close(value.double(), expected, rtol=1e-6, atol=0.0)


@pytest.mark.parametrize("std", [0.05, 1.0, MAX_CIRCLE_STD])
def test_wrapped_normal_gradient(std):
    delta = torch.linspace(-3.1, 3.1, 20, dtype=torch.float64, requires_grad=True)
    log_var = torch.full((20,), 2.0 * math.log(std), dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(log_wrapped_normal, (delta, log_var))


def test_wrap():
    angle = torch.tensor([0.0, math.pi - 1e-3, math.pi + 1e-3, -math.pi - 1e-3, 3 * math.pi, -7.0, 40.0])
    wrapped = wrap_angle(angle.double())
    expected = [0.0, math.pi - 1e-3, -math.pi + 1e-3, math.pi - 1e-3, -math.pi, 2 * math.pi - 7, 40 - 12 * math.pi]
    assert float(torch.sin(0.5 * (wrapped - torch.tensor(expected, dtype=torch.float64))).abs().max()) < 1e-6
    assert bool((wrapped.abs() <= math.pi + 1e-12).all())
    # a line coordinate is left alone
    line, circle = Space.of(1, 1).wrap(torch.tensor([[7.0, 7.0]]))[0].tolist()
    assert line == 7.0 and circle == pytest.approx(7.0 - 2.0 * math.pi, abs=1e-6)


def test_features_have_no_seam():
    space = Space.of(2, 2)
    below = torch.tensor([0.3, -1.0, math.pi - 1e-4, 0.5])
    above = torch.tensor([0.3, -1.0, -math.pi + 1e-4, 0.5])
    difference = (space.features(below) - space.features(above)).abs().max()
    assert float(difference) < 2e-3
    assert space.features(below).shape == (space.n_features(),)
    # and they tell angles apart
    assert float((space.features(below) - space.features(torch.tensor([0.3, -1.0, 0.0, 0.5]))).abs().max()) > 1.0


@pytest.mark.parametrize("space", [Space.of(3), Space.of(2, 2)])
def test_fourier_features_of_the_line(space):
    """The numbers, then sines, then cosines of each multiple, then what the circle gives without frequencies."""
    x, d = space.sample_prior(7, seeded(0)), space.count(Line)
    plain, found = space.features(x), space.features(x, 3)
    assert found.shape == (7, space.n_features(3)) == (7, space.n_features() + 6 * d)
    assert torch.equal(found[:, :d], x[:, :d]) and torch.equal(found[:, 7 * d :], plain[:, d:])
    for k in (1, 2, 3):
        angle = k * math.pi * x[:, :d] / (2.0 * FREQUENCY_RANGE)
        torch.testing.assert_close(found[:, k * d : (k + 1) * d], angle.sin())
        torch.testing.assert_close(found[:, (k + 3) * d : (k + 4) * d], angle.cos())
    assert torch.equal(space.features(x, 0), plain)


def test_sample_normal_has_its_moments():
    space = Space.of(1, 2)
    mean = torch.tensor([0.7, 3.0, -1.0])
    log_var = 2.0 * torch.tensor([0.4, 0.5, 2.0]).log()
    x = space.sample_normal(mean.expand(40_000, 3), log_var, seeded(1)).double()
    assert bool((x[:, 1:].abs() <= math.pi + 1e-6).all())
    line, circle = x[:, 0], x[:, 1:]
    assert_mean(torch.stack([line, (line - 0.7).square()], 1), torch.tensor([0.7, 0.16]))
    # the first Fourier coefficient of a wrapped normal is exp(i mean - var / 2)
    shrink = (-0.5 * log_var[1:].exp()).exp()
    assert_mean(circle.cos(), shrink * mean[1:].cos())
    assert_mean(circle.sin(), shrink * mean[1:].sin())


def test_log_normal_is_the_sum_of_its_coordinates():
    space = Space.of(2, 1)
    x, mean = torch.randn(5, 3, generator=seeded(0)), torch.randn(5, 3, generator=seeded(1))
    log_var = torch.tensor([-1.0, 0.5, -3.0])
    line = torch.distributions.Normal(mean[:, :2], (0.5 * log_var[:2]).exp()).log_prob(x[:, :2]).sum(-1)
    circle = many_images(x[:, 2] - mean[:, 2], math.exp(-1.5)).float()
    torch.testing.assert_close(space.log_normal(x, mean, log_var), line + circle, rtol=1e-4, atol=1e-4)


def test_prior_is_normalised_and_sampled():
    space = Space.of(1, 1)
    grid = torch.linspace(-9.0, 9.0, 1801, dtype=torch.float64)
    x = torch.stack([grid, torch.zeros_like(grid)], 1)
    integral = space.log_prior(x).exp().sum() * 0.01 * 2.0 * math.pi
    assert abs(float(integral) - 1.0) < 1e-8
    draws = space.sample_prior(20_000, seeded(2)).double()
    moments = torch.stack([draws[:, 0], draws[:, 0].square(), draws[:, 1], draws[:, 1].square()], 1)
    assert_mean(moments, torch.tensor([0.0, 1.0, 0.0, math.pi**2 / 3.0]))
    assert bool((draws[:, 1].abs() <= math.pi + 1e-6).all())
