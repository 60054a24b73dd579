"""Logistic regression: its density against scipy, log Z by quadrature and by annealed SMC, weights of its proposal."""

from __future__ import annotations

import math
from functools import cache

import numpy as np
import pytest
import torch
from scipy import stats

from molsampler.basis.errors import InputError
from molsampler.basis.log_weights import LogWeights
from molsampler.smc.annealed import AnnealConfig, annealed_smc
from molsampler.targets.logistic import DATA, LogisticRegression, shipped
from tests.stochastic import BOUND, assert_mean, seeded

SHIPPED = ["cancer", "digits"]


@cache
def target(name: str) -> LogisticRegression:
    return shipped(name)


def small() -> LogisticRegression:
    """Two weights, and labels that a line separates: a skewed posterior."""
    features = torch.tensor([[0.3], [2.0], [-1.2], [0.9], [-0.4], [3.1]])
    return LogisticRegression("small", features, torch.tensor([0, 1, 0, 1, 0, 1]))


def plane(found: LogisticRegression) -> tuple[torch.Tensor, torch.Tensor]:
    """A grid (n, 2) and log R on it plus the log of a cell: a trapezoidal rule, exact but for what lies beyond 9."""
    line = torch.arange(-9.0, 9.0, 0.06, dtype=torch.float64)
    grid = torch.cartesian_prod(line, line)
    return grid, found.log_prob(grid) + 2.0 * math.log(0.06)


@pytest.mark.parametrize(("name", "cases", "dim"), [("cancer", 569, 31), ("digits", 1797, 55)])
def test_density_agrees_with_scipy(name, cases, dim):
    """Standardised by numpy from the file; Bernoulli probabilities and normal prior of scipy."""
    with DATA.open("rb") as file, np.load(file) as held:
        features, labels = held[f"{name}_features"].astype(np.float64), held[f"{name}_labels"]
    assert features.shape == (cases, dim - 1) and set(labels.tolist()) == {0, 1}
    standard = np.column_stack([stats.zscore(features), np.ones(cases)])
    w = 0.5 * torch.randn(3, dim, generator=seeded(0), dtype=torch.float64)
    p = 1.0 / (1.0 + np.exp(-w.numpy() @ standard.T))
    expected = stats.bernoulli.logpmf(labels, p).sum(1) + stats.norm.logpdf(w.numpy()).sum(1)
    torch.testing.assert_close(target(name).log_prob(w), torch.from_numpy(expected))


@pytest.mark.parametrize("name", SHIPPED)
def test_float32_does_not_overflow(name):
    """Logits of thousands, where exp has no float32: log R and its score stay finite and keep their digits."""
    x = 300.0 * torch.randn(4, target(name).space.dim, generator=seeded(1))
    log_r, score = target(name).log_prob_and_score(x)
    exact, exact_score = target(name).log_prob_and_score(x.double())
    torch.testing.assert_close(log_r.double(), exact, rtol=1e-4, atol=0.0)
    torch.testing.assert_close(score.double(), exact_score, rtol=1e-3, atol=0.5)


def test_mode_is_the_top_and_the_hessian_is_the_curvature():
    found = small()
    mode, hessian = found.mode
    log_r, score = found.log_prob_and_score(mode[None])
    assert float(score.abs().max()) < 1e-8 and float(plane(found)[1].max()) - 2.0 * math.log(0.06) < float(log_r)
    curvature = torch.autograd.functional.hessian(lambda w: found.log_prob(w[None])[0], mode)
    torch.testing.assert_close(hessian, -curvature)


def test_log_z_and_samples_by_quadrature():
    found = small()
    assert found.log_z is None
    grid, mass = plane(found)
    value, error = found.estimate_log_z(seeded(2), 20_000)
    assert error < 0.01 and abs(value - float(mass.logsumexp(0))) < BOUND * error
    share = mass.softmax(0)[:, None]
    x = found.sample(seeded(3), 20_000)
    assert x.shape == (20_000, 2)
    moments = torch.cat([grid, grid.square(), grid.pow(3)], 1)
    assert_mean(torch.cat([x, x.square(), x.pow(3)], 1), (share * moments).sum(0))


@pytest.mark.parametrize("name", SHIPPED)
def test_a_weight_is_the_ratio_of_densities(name):
    found = target(name)
    x, log_w = found.weighted(seeded(4), 50)
    student = found.proposal[0]
    scale = (student.factor @ student.factor.T).numpy()
    log_q = stats.multivariate_t.logpdf(x.numpy(), student.mean.numpy(), scale, df=student.degrees)
    torch.testing.assert_close(log_w, found.log_prob(x) - torch.from_numpy(log_q))


@pytest.mark.parametrize(("name", "ess"), [("cancer", 0.4), ("digits", 0.2)])
def test_log_z_of_the_shipped(name, ess):
    """Again by a few weights; and what the cap of `sample` cuts off stays below what the docstring says."""
    found = target(name)
    log_w = found.weighted(seeded(5), 20_000)[1]
    weights = LogWeights(log_w)
    assert weights.ess_fraction > ess
    assert abs(weights.log_mean - found.log_z) < BOUND * math.hypot(weights.log_mean_stderr, found.log_z_error)
    assert float(((log_w - found.proposal[1]).exp() - 32.0).clamp_min(0.0).mean()) < 5e-3


@pytest.mark.slow
@pytest.mark.parametrize("name", SHIPPED)
def test_log_z_by_annealed_smc(name):
    """An estimate that shares nothing with the proposal: MALA along the path from the prior."""
    found = target(name)
    config = AnnealConfig(particles=1000, ess=0.8, moves=6, last_moves=0)
    runs = [annealed_smc(found.log_prob_and_score, found.space, config, seeded(6 + k)).log_z for k in range(6)]
    relative = (torch.tensor(runs, dtype=torch.float64) - found.log_z).exp()
    assert float(relative.std()) < 0.6
    assert_mean(relative, 1.0, bound=9.7)  # Student's t of five degrees is beyond once in 10,000


def test_bad_data_are_refused():
    features, labels = torch.randn(5, 2, generator=seeded(7)), torch.tensor([0, 1, 0, 1, 1])
    for bad in (labels[:4], labels + 1, 2 * labels - 1):
        with pytest.raises(InputError, match="each 0 or 1"):
            LogisticRegression("bad", features, bad)
    features[:, 1] = 3.0
    with pytest.raises(InputError, match="feature 1 is the same in all 5 cases"):
        LogisticRegression("bad", features, labels)
