"""One contract, walked through by every target: analytic ones and alanine dipeptide."""

from __future__ import annotations

import functools
import math

import pytest
import torch

from molsampler.basis.space import Line
from molsampler.molecules.coordinates.chart import Chart
from molsampler.molecules.energy.torch_energy import TorchEnergy
from molsampler.targets.molecule import MoleculeTarget
from molsampler.targets.target import Target
from tests.molecules.coordinates import chart_cases
from tests.molecules.energy import energy_cases
from tests.stochastic import assert_mean, seeded
from tests.targets.analytic import Gaussian, Skewed, TwoWells


@functools.cache
def alanine_dipeptide() -> MoleculeTarget:
    """In float64, uncompiled."""
    molecule = energy_cases.molecule("aldp")
    chart = Chart(molecule, dtype=torch.float64).fit(chart_cases.langevin_frames())
    return MoleculeTarget(molecule, chart, TorchEnergy(molecule, torch.float64, compile=False), compile=False)


def gaussian() -> Gaussian:
    return Gaussian(torch.tensor([0.3, -1.0]).double(), torch.tensor([0.6, 1.2]).double(), 1, -2.0)


MAKE = {
    "gaussian": gaussian,
    "two wells": lambda: TwoWells(log_z=1.5),
    "half space": lambda: TwoWells(log_z=1.5, wall=-0.5),
    "skewed": Skewed,
    "alanine dipeptide": alanine_dipeptide,
}
ANALYTIC = [name for name in MAKE if name != "alanine dipeptide"]


@pytest.fixture(params=list(MAKE))
def target(request) -> Target:
    return MAKE[request.param]()


def inside(target: Target, n: int = 6) -> torch.Tensor:
    """(n, D) float64 points of the support."""
    if isinstance(target, MoleculeTarget):
        return target.coordinates.to_standard(chart_cases.langevin_frames()[:: 200 // n][:n])
    return target.sample(seeded(0), n).double()


def outside(target: Target) -> torch.Tensor:
    """Points off the support of the two that are zero somewhere."""
    if isinstance(target, MoleculeTarget):
        return target.coordinates.to_standard(-chart_cases.langevin_frames()[:3])  # mirror images
    return torch.tensor([[-0.6, 0.0], [-50.0, 3.0]], dtype=torch.float64)


def test_shapes_and_the_three_ways_to_log_prob(target):
    x = inside(target)
    assert x.shape == (6, target.space.dim)
    log_r, score = target.log_prob_and_score(x)
    assert log_r.shape == (6,) and score.shape == x.shape
    assert bool(torch.isfinite(log_r).all()) and bool(torch.isfinite(score).all())
    assert not log_r.requires_grad and not score.requires_grad
    torch.testing.assert_close(target.log_prob(x), log_r)
    leaf = x.clone().requires_grad_()
    differentiable = target.log_prob(leaf)
    torch.testing.assert_close(differentiable.detach(), log_r)
    (gradient,) = torch.autograd.grad(differentiable.sum(), leaf)
    torch.testing.assert_close(gradient, score, rtol=1e-6, atol=1e-6)
    with torch.no_grad():
        torch.testing.assert_close(target.log_prob_and_score(x)[1], score)


def test_rows_do_not_know_each_other(target):
    x = inside(target)
    whole, single = target.log_prob_and_score(x), target.log_prob_and_score(x[2:3])
    torch.testing.assert_close(single[0], whole[0][2:3])
    torch.testing.assert_close(single[1], whole[1][2:3])


def test_empty_batch(target):
    log_r, score = target.log_prob_and_score(torch.zeros(0, target.space.dim, dtype=torch.float64))
    assert log_r.shape == (0,) and score.shape == (0, target.space.dim)


def test_score_by_finite_differences(target):
    x, h = inside(target, 3), 1e-5
    _, score = target.log_prob_and_score(x)
    shifts = h * torch.eye(target.space.dim, dtype=torch.float64)
    for row, expected in zip(x, score, strict=True):
        difference = (target.log_prob(row + shifts) - target.log_prob(row - shifts)) / (2.0 * h)
        torch.testing.assert_close(difference, expected, rtol=1e-5, atol=1e-4)


def test_angles_are_periodic(target):
    x = inside(target)
    turned = x.clone()
    turned[:, target.space.count(Line) :] += 2.0 * math.pi
    log_r, score = target.log_prob_and_score(x)
    again, score_again = target.log_prob_and_score(turned)
    torch.testing.assert_close(again, log_r)
    torch.testing.assert_close(score_again, score, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("target", ["half space", "alanine dipeptide"], indirect=True)
def test_off_the_support(target):
    x = outside(target)
    mixed = torch.cat([x, inside(target, 2)])
    log_r, score = target.log_prob_and_score(mixed)
    assert bool(torch.isneginf(log_r[: len(x)]).all()) and bool((score[: len(x)] == 0.0).all())
    assert bool(torch.isfinite(log_r[len(x) :]).all()) and bool((score[len(x) :] != 0.0).any(-1).all())
    assert bool(torch.isneginf(target.log_prob(mixed.clone().requires_grad_())[: len(x)]).all())


@pytest.mark.parametrize("name", ANALYTIC)
def test_log_z_by_quadrature(name):
    target = MAKE[name]()
    line, h = torch.linspace(-9.0, 9.0, 1201, dtype=torch.float64), 0.015
    if name == "half space":  # a sum over cells needs the wall between two of them
        line = torch.arange(-0.5 + 0.5 * h, 9.0, h, dtype=torch.float64)
    n = 90
    angle = -math.pi + 2.0 * math.pi * torch.arange(n, dtype=torch.float64) / n
    if name == "gaussian":  # the second line coordinate is integrated by hand: it is independent
        other = torch.full_like(line, -1.0)
        grid = torch.stack([line, other, torch.zeros_like(line)], 1)
        total = target.log_prob(grid).exp().sum() * h * 2.0 * math.pi * 1.2 * math.sqrt(2.0 * math.pi)
    else:
        total = target.log_prob(torch.cartesian_prod(line, angle)).exp().sum() * h * 2.0 * math.pi / n
    assert math.log(float(total)) == pytest.approx(target.log_z, abs=1e-4)


@pytest.mark.parametrize("name", ANALYTIC)
def test_samples_follow_the_density(name):
    """Importance sampling from a wide Gaussian gives the same moments as `sample`, and Stein's identity holds."""
    target = MAKE[name]()
    n_line = target.space.count(Line)
    x = target.sample(seeded(1), 40_000)
    assert x.shape == (40_000, target.space.dim)
    y = target.space.sample_prior(100_000, seeded(2), dtype=torch.float64)
    log_q = target.space.log_prior(y) - n_line * math.log(1.5)
    y[:, :n_line] *= 1.5
    w = (target.log_prob(y) - log_q - target.log_z).exp()

    def functions(x: torch.Tensor) -> torch.Tensor:
        angle = x[:, -1].double()
        return torch.stack([x[:, 0].double(), x[:, 0].double().square(), angle.cos(), angle.sin()], 1)

    moments = functions(x)
    # both sides are random: the difference of two independent means
    weighted = w[:, None] * functions(y)
    error = (moments.var(0) / len(moments) + weighted.var(0) / len(weighted)).sqrt()
    assert float(((moments.mean(0) - weighted.mean(0)) / error).abs().max()) < 4.5
    assert_mean(w, 1.0)
    if name != "half space":
        _, score = target.log_prob_and_score(x.double())
        assert_mean(score, 0.0)
        assert_mean(score[:, :n_line] * x[:, :n_line], -1.0)
