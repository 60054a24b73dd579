"""The Student-t proposal against scipy, its fit, and rejection by weights."""

from __future__ import annotations

import torch
from scipy import stats

from molsampler.basis.log_weights import LogWeights
from molsampler.targets.proposal import StudentProposal, by_rejection
from tests.stochastic import assert_mean, seeded

MEAN = torch.tensor([1.0, -2.0], dtype=torch.float64)
FACTOR = torch.tensor([[1.5, 0.0], [0.4, 0.7]], dtype=torch.float64)


def test_density_and_draws_are_those_of_a_student():
    proposal = StudentProposal(MEAN, FACTOR, 8)
    x = proposal.draw(seeded(0), 40_000)
    scale = FACTOR @ FACTOR.T
    expected = stats.multivariate_t.logpdf(x[:50].numpy(), MEAN.numpy(), scale.numpy(), df=8)
    torch.testing.assert_close(proposal.log_density(x[:50]), torch.from_numpy(expected))
    away = x - MEAN
    assert_mean(away, 0.0)
    assert_mean(away[:, :, None] * away[:, None, :], 8.0 / 6.0 * scale)
    assert_mean((x[:, 0] < 1.0 + 1.5 * stats.t.ppf(0.99, 8)).double(), 0.99)


def test_fit_finds_the_weighted_moments():
    x = torch.tensor([[0.0, 0.0], [2.0, 0.0], [0.0, 4.0]], dtype=torch.float64)
    weights = LogWeights(torch.tensor([1.0, 1.0, 2.0]).double().log())
    fitted = StudentProposal(MEAN, FACTOR, 8).fitted(x, weights)
    torch.testing.assert_close(fitted.mean, torch.tensor([0.5, 2.0]).double())
    covariance = torch.tensor([[0.75, -1.0], [-1.0, 4.0]], dtype=torch.float64)
    covariance += 1e-3 * 2.375 * torch.eye(2)
    torch.testing.assert_close(fitted.factor @ fitted.factor.T, covariance)


def test_rejection_follows_the_weights():
    """Values 0, 1 and 2 with weights 1, 2 and 6; a cap of 2 mean weights counts the last as 6, one of 1 as 3."""

    def weighted(generator: torch.Generator, n: int) -> tuple[torch.Tensor, torch.Tensor]:
        x = torch.randint(3, (n, 1), generator=generator).double()
        return x, torch.tensor([1.0, 2.0, 6.0]).double().log()[x[:, 0].long()]

    log_mean = float(torch.tensor(3.0).double().log())
    for cap, shares in ((2.0, [1 / 9, 2 / 9, 6 / 9]), (1.0, [1 / 6, 2 / 6, 3 / 6])):
        x = by_rejection(weighted, log_mean, cap, seeded(1), 20_000)
        assert x.shape == (20_000, 1)
        assert_mean((x == torch.arange(3)).double(), torch.tensor(shares))
    assert by_rejection(weighted, log_mean, 2.0, seeded(1), 0).shape == (0, 1)
