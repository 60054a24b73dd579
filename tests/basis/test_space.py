from __future__ import annotations

import math

import pytest
import torch

from molsampler.basis.space import (
    FREQUENCY_RANGE,
    MAX_CIRCLE_STD,
    Circle,
    Coordinate,
    Line,
    Space,
    log_wrapped_normal,
    wrap_angle,
)
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


# a product of parts ---------------------------------------------------------------------------------------------------

TABLE = tuple(Coordinate(f"c{k}", "torsion" if k % 2 else "bond", (k, k + 1)) for k in range(5))
AROUND = Space((Circle(1), Line(2), Circle(2)), TABLE)
"""Two circles around a line."""
CANONICAL = [1, 2, 0, 3, 4]
"""Its columns, the line's first."""


def test_parts_know_their_columns():
    x = torch.arange(15.0).view(3, 5)
    assert AROUND.dim == 5 and [(part, (own.start, own.stop)) for part, own in AROUND.columns()] == [
        (Circle(1), (0, 1)),
        (Line(2), (1, 3)),
        (Circle(2), (3, 5)),
    ]
    pieces = list(AROUND.pieces(x, x[0]))
    assert [part for part, *_ in pieces] == [Circle(1), Line(2), Circle(2)]
    for (_, rows, row), (_, own) in zip(pieces, AROUND.columns(), strict=True):
        assert torch.equal(rows, x[:, own]) and torch.equal(row, x[0, own])
    assert AROUND.count(Line) == 2 and AROUND.count(Circle) == 3
    assert AROUND.mask(Circle).tolist() == [True, False, False, True, True]
    assert torch.equal(AROUND.mask(Line), ~AROUND.mask(Circle))


def test_only_the_parts_of_a_kind_with_their_rows_of_the_table():
    circles, line = AROUND.only(Circle), AROUND.only(Line)
    assert circles.parts == (Circle(1), Circle(2)) and line.parts == (Line(2),)
    assert [c.name for c in circles.table] == ["c0", "c3", "c4"] and [c.name for c in line.table] == ["c1", "c2"]
    assert Space.of(3).only(Circle).dim == 0


def test_the_table_says_what_each_coordinate_is_and_nothing_about_the_space():
    assert AROUND.table[3] == Coordinate("c3", "torsion", (3, 4))
    assert Space.of(2, 1).table == (Coordinate(),) * 3 and Coordinate().kind == "number"
    # the same space whatever its coordinates are called
    assert Space(AROUND.parts) == AROUND and hash(AROUND) == hash(Space(AROUND.parts))
    assert Space.of(2, 1) != Space.of(1, 2) and Space.of(2, 1) != Space((Circle(1), Line(2)))
    assert Space.of(2, 1, TABLE[:3]).table == TABLE[:3]
    with pytest.raises(ValueError, match="^a table of 2 coordinates does not describe 3$"):
        Space.of(2, 1, TABLE[:2])


def test_parts_without_coordinates_are_left_out():
    assert Space.of(3).parts == (Line(3),) and Space.of(0, 2).parts == (Circle(2),)
    assert Space.of(1, 2).parts == (Line(1), Circle(2))


def states_around(n: int, seed: int) -> torch.Tensor:
    """(n, 5) float64, angles turned by up to two turns."""
    return 3.0 * torch.randn(n, 5, generator=seeded(seed), dtype=torch.float64)


def test_another_order_of_the_parts_gives_the_same_densities():
    canonical = Space.of(2, 3)
    x, mean = states_around(50, 0), states_around(50, 1)
    log_var = 2.0 * torch.tensor([0.8, 0.3, 1.5, 2.0, 0.1], dtype=torch.float64).log()

    def ordered(value: torch.Tensor) -> torch.Tensor:
        return value[..., CANONICAL]

    torch.testing.assert_close(
        AROUND.log_normal(x, mean, log_var), canonical.log_normal(ordered(x), ordered(mean), ordered(log_var))
    )
    torch.testing.assert_close(AROUND.log_prior(x), canonical.log_prior(ordered(x)))
    assert torch.equal(ordered(AROUND.prior_score(x)), canonical.prior_score(ordered(x)))
    assert torch.equal(ordered(AROUND.wrap(x)), canonical.wrap(ordered(x)))
    assert torch.equal(ordered(AROUND.max_std), canonical.max_std)
    assert torch.equal(ordered(AROUND.limit_log_var(log_var + 4.0)), canonical.limit_log_var(ordered(log_var) + 4.0))
    assert AROUND.n_features(3) == canonical.n_features(3) == AROUND.features(x, 3).shape[-1]
    one, two = AROUND.features(x, 3).sort(-1).values, canonical.features(ordered(x), 3).sort(-1).values
    assert torch.equal(one, two)


def test_another_order_draws_from_the_same_laws():
    draws = AROUND.sample_prior(20_000, seeded(3), dtype=torch.float64)
    line, circle = draws[:, AROUND.mask(Line)], draws[:, AROUND.mask(Circle)]
    assert_mean(torch.cat([line, line.square()], 1), torch.tensor([0.0, 0.0, 1.0, 1.0]))
    assert_mean(circle.square(), math.pi**2 / 3.0)
    assert float(circle.abs().max()) <= math.pi < float(line.abs().max())
    mean = torch.tensor([2.9, 10.0, -5.0, 0.4, -3.0], dtype=torch.float64)
    log_var = 2.0 * torch.tensor([0.5, 0.5, 2.0, 1.0, 0.1], dtype=torch.float64).log()
    x = AROUND.sample_normal(mean.expand(20_000, 5), log_var, seeded(4))
    shrink = (-0.5 * log_var.exp()).exp()[AROUND.mask(Circle)]
    assert_mean(x[:, 1:3], mean[1:3])
    assert_mean(x[:, AROUND.mask(Circle)].cos(), shrink * mean[AROUND.mask(Circle)].cos())


@pytest.mark.parametrize("space", [Space.of(2), Space.of(0, 2), Space.of(1, 2), AROUND], ids=str)
def test_prior_score_is_the_gradient_of_the_prior(space):
    x = torch.randn(6, space.dim, generator=seeded(5), dtype=torch.float64).requires_grad_()
    log_p = space.log_prior(x)
    assert log_p.shape == (6,)
    expected = torch.zeros_like(x)
    if log_p.requires_grad:
        (expected,) = torch.autograd.grad(log_p.sum(), x)
    torch.testing.assert_close(space.prior_score(x.detach()), expected)
    # a flat circle's constant, and the line's
    constant = -0.5 * space.count(Line) * math.log(2.0 * math.pi) - space.count(Circle) * math.log(2.0 * math.pi)
    assert float(space.log_prior(torch.zeros(space.dim))) == pytest.approx(constant)


def test_spreads_are_limited_on_the_circle_alone():
    assert AROUND.max_std.tolist() == [MAX_CIRCLE_STD, math.inf, math.inf, MAX_CIRCLE_STD, MAX_CIRCLE_STD]
    log_var = 2.0 * torch.tensor([10.0, 10.0, 0.1, 3.0, 4.0], dtype=torch.float64).log()
    limited = (0.5 * AROUND.limit_log_var(log_var)).exp()
    expected = torch.tensor([MAX_CIRCLE_STD, 10.0, 0.1, 3.0, MAX_CIRCLE_STD], dtype=torch.float64)
    torch.testing.assert_close(limited, expected)
    line = Space.of(5)
    assert line.limit_log_var(log_var) is log_var and line.wrap(log_var) is log_var
    # at the limit the density is still exact
    delta = torch.linspace(-math.pi, math.pi, 50, dtype=torch.float64)
    widest = log_wrapped_normal(delta, AROUND.limit_log_var(log_var)[:1].expand(50))
    torch.testing.assert_close(widest, many_images(delta, MAX_CIRCLE_STD), rtol=0.0, atol=1e-6)
