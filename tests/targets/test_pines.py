"""The saplings' Cox process: its data, its Gaussian, its samples and log Z against the coarse grid's own methods."""

from __future__ import annotations

import math
from functools import cache

import pytest
import torch

from molsampler.smc.annealed import AnnealConfig, annealed_smc
from molsampler.targets import cox, pines
from molsampler.targets.charted import Charted
from molsampler.targets.coordinates.affine import Affine
from molsampler.targets.cox import CoxProcess
from molsampler.targets.pines import PineSaplings, _Turning
from tests.stochastic import BOUND, assert_mean, seeded


@cache
def coarse() -> PineSaplings:
    """The 16 x 16 grid, on which `CoxProcess` has exact samples and a log Z of its own."""
    return PineSaplings(cox.grid(cox.COUNTS))


def test_counts_are_those_of_the_saplings():
    counts = cox.grid(pines.COUNTS)
    assert counts.shape == (40, 40) and int(counts.sum()) == 126
    assert torch.bincount(counts.flatten()).tolist() == [1489, 99, 9, 3]
    # three of the record, at (0.5594, 0.1325), (0.5584, 0.1315) and (0.5575, 0.1425) of the square's side, share a cell
    assert int(counts[22, 5]) == 3
    assert counts[[0, 0, 39, 39], [0, 39, 0, 39]].tolist() == [0, 1, 0, 0]  # the corners: one at (0.0086, 0.9985)
    target = PineSaplings()
    assert target.name == "cox-40" and target.space.dim == 1600 and target.log_z is not None
    assert coarse().name == "cox-16" and coarse().log_z is None
    x = coarse().centre + torch.randn(3, 256, generator=seeded(0), dtype=torch.float64)
    torch.testing.assert_close(coarse().log_prob(x), CoxProcess().log_prob(x))


def test_gaussian_has_the_highest_elbo():
    """The ELBO of N(m, S) in closed form: its gradients in m and in a factor of S are zero."""
    target = coarse()
    mean, covariance = target.gaussian
    precision = torch.cholesky_inverse(target.prior_cholesky)
    m = mean.clone().requires_grad_()
    factor = torch.linalg.cholesky(covariance).requires_grad_()
    away, s = m - cox.MEAN, factor @ factor.T
    expected_log_r = target.counts @ m - (m + 0.5 * s.diagonal()).exp().sum() / 256.0
    expected_log_r = expected_log_r - 0.5 * (away @ precision @ away + (precision * s).sum())
    elbo = expected_log_r + factor.diagonal().log().sum()
    in_mean, in_factor = torch.autograd.grad(elbo, (m, factor))
    assert float(in_mean.abs().max()) < 1e-6 and float(in_factor.tril().abs().max()) < 1e-6


def test_a_trajectory_turns_back_and_its_loss_is_that_of_the_energy():
    """With momenta turned round it ends where it began; its loss is that of both energies, written out."""
    target = coarse()
    mean, covariance = target.gaussian
    turning = _Turning(mean, covariance)
    generator = seeded(1)
    x, p = mean + turning._noise(generator, 5), turning._noise(generator, 5)
    travelled: list[torch.Tensor] = []
    kick = turning._kick

    def remember(x: torch.Tensor, p: torch.Tensor, time: float) -> tuple[torch.Tensor, torch.Tensor]:
        p, lost = kick(x, p, time)
        travelled.append(p)
        return p, lost

    turning._kick = remember
    there, gain = turning._travel(x, p)
    end = travelled[-1]
    inverse = torch.linalg.inv(covariance)

    def energy(x: torch.Tensor, p: torch.Tensor) -> torch.Tensor:
        return 0.5 * ((p @ inverse) * p).sum(1) - target.log_prob(x)

    torch.testing.assert_close(gain, energy(x, p) - energy(there, end), rtol=0.0, atol=1e-6)
    back, loss = turning._travel(there, -end)
    torch.testing.assert_close(back, x)
    torch.testing.assert_close(loss, -gain, rtol=0.0, atol=1e-8)


def test_samples_agree_with_gibbs_sampling():
    """Means of log R and of some functions, over independent samples of either."""
    drawn, exact = coarse().sample(seeded(2), 2000), CoxProcess().sample(seeded(3), 2000)

    def functions(x: torch.Tensor) -> torch.Tensor:
        parts = [coarse().log_prob(x)[:, None], x.exp().sum(1, keepdim=True), x.square().sum(1, keepdim=True)]
        return torch.cat([*parts, x[:, :40], x[:, :40].square()], 1)

    ours, theirs = functions(drawn), functions(exact)
    error = (ours.var(0) / len(ours) + theirs.var(0) / len(theirs)).sqrt()
    assert float(((ours.mean(0) - theirs.mean(0)) / error).abs().max()) < BOUND
    assert coarse().sample(seeded(2), 0).shape == (0, 256)


def test_trajectories_forget_the_gaussian():
    """Stein's identity for the vector field exp(x), which the Gaussian fulfils for no density but its own."""
    target = coarse()
    mean, covariance = target.gaussian
    turning = _Turning(mean, covariance)

    def stein(x: torch.Tensor) -> torch.Tensor:
        return (target.log_prob_and_score(x)[1] * x.exp() + x.exp()).sum(1)

    start = stein(mean + turning._noise(seeded(4), 4000))
    assert abs(float(start.mean() / start.std() * 4000**0.5)) > 2.0 * BOUND
    assert_mean(stein(turning.draw(seeded(5), 4000)), 0.0)
    assert len(turning.accepted) == pines.TRAJECTORIES and min(turning.accepted) > 0.8


def test_log_z_by_annealing_agrees_with_imputation():
    """A run scatters by 0.1, four of them by 0.05."""
    value, error = coarse().estimate_log_z(seeded(6), 4)
    known = CoxProcess()
    assert error < 0.1 and abs(value - known.log_z) < BOUND * math.hypot(0.05, known.log_z_error)


@pytest.mark.slow
def test_log_z_of_the_saplings():
    """By the prior's path in whitened coordinates, which shares nothing with the Gaussian."""
    target = PineSaplings()
    chart = Charted(target, Affine(target.centre, target.prior_cholesky))
    config = AnnealConfig(particles=256, ess=0.8, moves=8, last_moves=0)
    runs = [
        annealed_smc(chart.log_prob_and_score, chart.space, config, seeded(7 + k), explore=False).log_z
        for k in range(6)
    ]
    relative = (torch.tensor(runs, dtype=torch.float64) - target.log_z).exp()
    assert float(relative.std()) < 1.0
    assert_mean(relative, 1.0, bound=9.7)  # Student's t of five degrees is beyond once in 10,000
