"""The running estimate of log Z: unbiased for Z whatever the policy, which the mean log-weight is not."""

from __future__ import annotations

import math

import pytest
import torch

from molsampler.basis.log_weights import LogWeights
from molsampler.training.log_z import RunningLogZ
from tests.stochastic import assert_mean, seeded

LOG_Z, MEAN, STD = 0.7, 0.5, 0.8


def log_weights(n: int, generator: torch.Generator) -> LogWeights:
    """Of n draws from N(0, 1) for R = Z N(MEAN, STD^2)."""
    x = torch.randn(n, generator=generator, dtype=torch.float64)
    return LogWeights(LOG_Z - math.log(STD) - 0.5 * ((x - MEAN) / STD).square() + 0.5 * x.square())


@pytest.mark.parametrize("discount", [1.0, 0.98, 0.7])
def test_the_estimate_of_z_is_unbiased_and_the_mean_log_weight_is_not(discount):
    """2,000 running estimates over ten batches of different sizes: their mean is Z within 4.5 standard errors (7e-6 by
    chance). The mean log-weight is log Z - KL(N(0, 1) || N(m, s^2)), by the closed form."""
    generator, estimates, means = seeded(0), [], []
    for _ in range(2000):
        running = RunningLogZ(discount)
        for size in (8, 2, 4, 2, 8, 4, 2, 2, 2, 4):
            weights = log_weights(size, generator)
            running.add(weights)
            means.append(weights.log_w.mean())
        estimates.append(math.exp(running.value))
    assert_mean(torch.tensor(estimates), math.exp(LOG_Z))
    divergence = math.log(STD) + (1.0 + MEAN**2) / (2.0 * STD**2) - 0.5
    assert divergence > 0.2
    assert_mean(torch.stack(means), LOG_Z - divergence)
    assert float(torch.tensor(estimates).std()) / 2000**0.5 < 0.01 * math.exp(LOG_Z)


def test_the_discount_is_the_closed_form():
    """Each batch counts by its particles, and the discount times less with every batch after it."""
    generator, running = seeded(1), RunningLogZ(0.9)
    batches = [log_weights(n, generator) for n in (5, 50, 1, 20)]
    sums, particles = 0.0, 0.0
    for batch in batches:
        running.add(batch)
        sums, particles = 0.9 * sums + float(batch.log_w.exp().sum()), 0.9 * particles + len(batch)
        assert running.value == pytest.approx(math.log(sums / particles), abs=1e-12)
    # far beyond the range of exp
    shifted = RunningLogZ(0.9)
    for batch in batches:
        shifted.add(LogWeights(batch.log_w - 3000.0))
    assert shifted.value == pytest.approx(running.value - 3000.0, abs=1e-9)


def test_before_the_first_batch_and_without_positive_weights():
    running = RunningLogZ(0.5)
    assert math.isnan(running.value)
    nothing = LogWeights(torch.full((4,), -torch.inf))
    running.add(nothing)
    assert running.value == -math.inf
    running.add(LogWeights(torch.zeros(4)))
    assert running.value == pytest.approx(math.log(4.0 / 6.0))
    running.add(nothing)  # weights of zero count
    assert running.value == pytest.approx(math.log(2.0 / 7.0))


def test_state_dict():
    running, generator = RunningLogZ(), seeded(2)
    running.add(log_weights(7, generator))
    again = RunningLogZ()
    again.load_state_dict(running.state_dict())
    for r in (running, again):
        r.add(log_weights(9, seeded(3)))
    assert again.value == running.value
    fresh = RunningLogZ()
    fresh.load_state_dict(RunningLogZ().state_dict())
    assert math.isnan(fresh.value)
