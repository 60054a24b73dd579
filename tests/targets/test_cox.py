"""The Cox process: its density against scipy, its exact cell draws, its log Z against annealed SMC."""

from __future__ import annotations

import math

import pytest
import torch
from scipy import integrate, stats

from molsampler.basis.errors import InputError
from molsampler.smc.annealed import AnnealConfig, annealed_smc
from molsampler.targets import cox
from molsampler.targets.charted import Charted
from molsampler.targets.coordinates.affine import Affine
from molsampler.targets.cox import CoxProcess
from tests.stochastic import BOUND, assert_mean, seeded


def covariance(side: int) -> torch.Tensor:
    """Written out cell by cell."""
    cells = [(i, j) for i in range(side) for j in range(side)]
    rows = [[1.91 * math.exp(-math.dist(a, b) * 33.0 / side) for b in cells] for a in cells]
    return torch.tensor(rows, dtype=torch.float64)


def test_density_agrees_with_scipy():
    """The prior's, and the Poisson probabilities without their factorials and areas."""
    target = CoxProcess()
    x = target.centre + torch.randn(3, 256, generator=seeded(0), dtype=torch.float64)
    prior = stats.multivariate_normal(target.centre.numpy(), covariance(16).numpy()).logpdf(x.numpy())
    counts = target.counts.numpy()
    poisson = stats.poisson.logpmf(counts, x.exp().numpy() / 256.0).sum(1)
    left_out = float(torch.lgamma(target.counts + 1.0).sum() + target.counts.sum() * math.log(256.0))
    torch.testing.assert_close(target.log_prob(x), torch.from_numpy(prior + poisson) + left_out)
    assert float(target.centre[0]) == pytest.approx(math.log(126.0) - 0.955) and target.extent[0] == 1.91**0.5


def test_counts_are_a_draw_from_the_model():
    counts = cox.draw_counts(cox.SIDE, cox.SEED)
    assert torch.equal(counts.flatten().double(), CoxProcess().counts)
    assert int(counts.sum()) == 109  # 126 are expected; the spread is 24
    assert_mean(torch.stack([cox.draw_counts(8, seed).sum() for seed in range(200)]), 126.0)


@pytest.mark.parametrize("count", [0.0, 1.0, 7.0])
def test_cell_integral_and_draws_by_quadrature(count):
    means = torch.tensor([1.0, 3.5, 6.0], dtype=torch.float64)
    integrals, expected = cox._Cell(means, 1.8, count, 1.0 / 256.0).log_integral(), []
    for mean in means.tolist():

        def density(x: float, power: int = 0, mean: float = mean) -> float:
            return x**power * stats.norm.pdf(x, mean, 1.8**0.5) * math.exp(count * (x - mean) - math.exp(x) / 256.0)

        zeroth, first, second = (integrate.quad(density, mean - 15.0, mean + 25.0, args=(k,))[0] for k in range(3))
        assert float(integrals[len(expected)]) == pytest.approx(math.log(zeroth) + count * mean, abs=2e-6)
        expected.append([first / zeroth, second / zeroth])
    drawn = cox._Cell(means.repeat_interleave(20_000), 1.8, count, 1.0 / 256.0).sample(seeded(1)).reshape(3, -1).T
    assert_mean(torch.stack([drawn, drawn.square()], 2), torch.tensor(expected))


def test_a_weight_is_the_ratio_of_densities():
    """log w = log R - log q, with q from conditional normals and one-dimensional quadratures of its own."""
    target = CoxProcess(torch.tensor([[2, 0, 1, 0], [0, 3, 0, 0], [1, 1, 0, 5], [0, 0, 0, 40]]))
    x, log_w = target.weighted(seeded(2), 2)
    k = covariance(4)
    for row, found in zip(x, log_w, strict=True):
        log_q = 0.0
        for i in range(16):
            gain = torch.linalg.solve(k[:i, :i], k[:i, i])
            mean = float(cox.MEAN + gain @ (row[:i] - cox.MEAN))
            std = float(k[i, i] - gain @ k[:i, i]) ** 0.5
            count = float(target.counts[i])

            def log_density(t: float, mean: float = mean, std: float = std, count: float = count) -> float:
                return stats.norm.logpdf(t, mean, std) + count * t - math.exp(t) / 16.0

            top = log_density(float(row[i]))
            total = integrate.quad(lambda t, top=top: math.exp(log_density(t) - top), mean - 12.0, mean + 12.0)[0]
            log_q -= math.log(total)
        assert float(found) == pytest.approx(float(target.log_prob(row[None])) - log_q, abs=1e-4)


def test_log_z_of_the_default():
    target = CoxProcess()
    value, error = target.estimate_log_z(seeded(3), 4000)
    assert error < 0.06 and abs(value - target.log_z) < BOUND * math.hypot(error, target.log_z_error)
    assert CoxProcess(torch.zeros(3, 3)).log_z is None


def test_whitened_by_the_prior():
    """On that chart the prior is N(0, I), so log R is a standard normal and the Poisson part."""
    target = CoxProcess()
    chart = Charted(target, Affine(target.centre, target.prior_cholesky))
    z = torch.randn(3, 256, generator=seeded(4), dtype=torch.float64)
    x, _ = chart.coordinates.to_natural(z)
    likelihood = x @ target.counts - x.exp().sum(1) / 256.0
    torch.testing.assert_close(chart.log_prob(z), chart.space.log_prior(z) + likelihood)


@pytest.mark.slow
def test_log_z_by_annealed_smc():
    """An estimate that shares nothing with sequential imputation: MALA along the path from the whitened prior."""
    target = CoxProcess()
    chart = Charted(target, Affine(target.centre, target.prior_cholesky))
    config = AnnealConfig(particles=1000, ess=0.8, moves=6, last_moves=0)
    runs = [annealed_smc(chart.log_prob_and_score, chart.space, config, seeded(5 + k)).log_z for k in range(6)]
    relative = (torch.tensor(runs, dtype=torch.float64) - target.log_z).exp()
    assert float(relative.std()) < 0.6
    assert_mean(relative, 1.0)


@pytest.mark.parametrize("counts", [torch.zeros(3, 4), torch.zeros(9), -torch.ones(3, 3)])
def test_bad_counts_are_refused(counts):
    with pytest.raises(InputError, match="square grid"):
        CoxProcess(counts)
