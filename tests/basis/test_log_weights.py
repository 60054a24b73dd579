from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from molsampler.basis.log_weights import LogWeights, effective_groups
from tests.stochastic import seeded

ZERO = -math.inf


def weights(*values: float) -> LogWeights:
    return LogWeights(torch.tensor(values, dtype=torch.float64).log())


def skewed(k: int = 400, spread: float = 6.0) -> LogWeights:
    return LogWeights(spread * torch.randn(k, generator=seeded(0), dtype=torch.float64))


def test_effective_sample_size():
    assert weights(2.0, 2.0, 2.0, 2.0).ess == pytest.approx(4.0)
    assert weights(1.0, 0.0, 0.0, 0.0).ess == pytest.approx(1.0)
    assert weights(3.0, 1.0).ess == pytest.approx(16.0 / 10.0)
    # zero weights count in K
    mixed = weights(1.0, 1.0, 0.0, 0.0)
    assert mixed.ess == pytest.approx(2.0) and mixed.ess_fraction == pytest.approx(0.5) and mixed.n_positive == 2


def test_log_mean_and_normalised():
    w = weights(1.0, 2.0, 0.0, 5.0)
    assert w.log_mean == pytest.approx(math.log(2.0))
    assert w.normalised.tolist() == pytest.approx([0.125, 0.25, 0.0, 0.625])


@pytest.mark.parametrize("shift", [-1000.0, 1000.0, -1e5])
def test_large_shifts_change_nothing_but_the_mean(shift):
    w = skewed()
    moved = LogWeights(w.log_w + shift)
    assert moved.log_mean == pytest.approx(w.log_mean + shift, rel=1e-12)
    assert moved.ess == pytest.approx(w.ess, rel=1e-9)
    torch.testing.assert_close(moved.normalised, w.normalised, rtol=1e-9, atol=0.0)
    assert moved.tempering_exponent(0.3) == pytest.approx(w.tempering_exponent(0.3), rel=1e-9)


def test_all_zero():
    w = LogWeights(torch.full((3,), ZERO))
    assert w.collapsed and w.ess == 0.0 and w.log_mean == ZERO and w.tempering_exponent(0.1) == 0.0
    with pytest.raises(ValueError, match="all weights are zero"):
        _ = w.normalised


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_what_is_no_weight_is_refused(bad):
    with pytest.raises(ValueError, match=r"NaN or \+inf"):
        LogWeights(torch.tensor([0.0, bad]))
    for shape in ((0,), (2, 2)):
        with pytest.raises(ValueError, match="expected"):
            LogWeights(torch.zeros(shape))


def test_power():
    w = weights(4.0, 1.0, 0.0)
    assert w.power(0.5).log_w.exp().tolist() == pytest.approx([2.0, 1.0, 0.0])
    assert w.power(0.0).log_w.exp().tolist() == [1.0, 1.0, 0.0]
    assert w.power(0.0).ess == pytest.approx(2.0)


@pytest.mark.parametrize("gamma", [0.02, 0.05, 0.3, 0.9])
def test_tempering_reaches_its_goal(gamma):
    w = skewed()
    assert w.ess_fraction < 0.02
    exponent = w.tempering_exponent(gamma)
    assert 0.0 < exponent < 1.0
    assert w.tempered(gamma).ess_fraction == pytest.approx(gamma, rel=1e-6)
    # it is the largest such exponent
    assert w.power(exponent + 1e-6).ess_fraction < gamma


def test_tempering_of_two_weights():
    # (1 + q)^2 / (1 + q^2) = 1.8 at q = 1/2, and q = e^(-4 lambda)
    assert LogWeights(torch.tensor([0.0, -4.0])).tempering_exponent(0.9) == pytest.approx(math.log(2.0) / 4.0)


def test_tempering_leaves_good_weights_alone():
    w = skewed(spread=0.5)
    assert w.ess_fraction > 0.5
    assert w.tempering_exponent(0.5) == 1.0
    torch.testing.assert_close(w.tempered(0.5).log_w, w.log_w)


def test_tempering_with_too_few_positive_weights():
    log_w = torch.full((100,), ZERO)
    log_w[:4] = torch.tensor([0.0, -50.0, 30.0, 2.0])
    w = LogWeights(log_w)
    assert w.tempering_exponent(0.05) == 0.0
    assert w.tempered(0.05).normalised[:4].tolist() == pytest.approx([0.25] * 4)
    assert w.tempered(0.05).n_positive == 4
    # with just enough of them it gets there
    assert w.tempering_exponent(0.039) > 0.0
    assert w.tempered(0.039).ess == pytest.approx(3.9, rel=1e-6)


def test_standard_error_of_the_log_mean():
    """The delta method by hand, and the scatter of the log-means of 3,000 independent batches: a standard deviation of
    M normal values is known to 1 / sqrt(2 M), 1.3 %, here within five of that."""
    w = weights(1.0, 2.0, 0.0, 3.0)
    relative = torch.tensor([1.0, 2.0, 0.0, 3.0]).double() / 1.5
    assert w.log_mean_stderr == pytest.approx(float((relative.var(correction=0) / 4).sqrt()))
    assert weights(2.0, 2.0).log_mean_stderr == 0.0 and math.isnan(weights(0.0, 0.0).log_mean_stderr)
    draws = 0.3 * torch.randn(3000, 100, generator=seeded(1), dtype=torch.float64)
    batches = [LogWeights(log_w) for log_w in draws]
    scatter = torch.tensor([batch.log_mean for batch in batches]).std()
    told = torch.tensor([batch.log_mean_stderr for batch in batches]).square().mean().sqrt()
    assert float(told / scatter) == pytest.approx(1.0, abs=5.0 * 0.013)


def test_groups_are_counted_by_their_sums():
    """Four equal weights in two groups are two; groups of sums 3 and 1 are 16 / 10; labels may be any integers."""
    assert effective_groups(np.full(4, 0.25), np.array([7, 7, -1, -1])) == pytest.approx(2.0)
    assert effective_groups(np.array([1.0, 2.0, 1.0]), np.array([5, 5, 9])) == pytest.approx(1.6)
    assert effective_groups(np.array([0.2, 0.3, 0.5]), np.arange(3)) == pytest.approx(1.0 / 0.38)
