"""Intervals for few counts: limits in closed form, and how often they hold a known truth."""

from __future__ import annotations

import numpy as np
import pytest

from molsampler.analysis.statistics.few import Counted, counted, ratio_interval, share_interval


def test_many_equal_counts_have_the_binomial_error():
    low, high = share_interval(Counted(4000.0, 1e-4), Counted(6000.0, 1e-4))
    assert (low + high) / 2 == pytest.approx(0.4, abs=1e-4)
    assert (high - low) / 2 == pytest.approx(np.sqrt(0.4 * 0.6 / 10_000), rel=0.01)


def test_a_state_without_a_sample_may_have_as_much_as_would_be_missed_in_16_percent_of_all_cases():
    weights = np.full(1000, 1e-3)
    none = counted(weights, np.zeros(1000, bool))
    low, high = share_interval(none, counted(weights, np.ones(1000, bool)))
    assert low == 0.0
    assert np.exp(-1000 * high) == pytest.approx(0.1587, rel=0.02)


@pytest.mark.parametrize("mean", [5.0, 8.0, 15.0])
def test_the_interval_holds_a_poisson_mean_as_often_as_it_says(mean):
    """20,000 draws: a standard error of 0.3 %. Counts are whole, so that coverage goes up and down about 68.3 %."""
    drawn = np.random.default_rng(0).poisson(mean, 20_000)
    rest = Counted(1e6, 1e-6)
    spans = {k: ratio_interval(Counted(float(k), 1e-6), rest) for k in np.unique(drawn)}
    held = np.mean([spans[k][0] <= mean * 1e-6 <= spans[k][1] for k in drawn])
    assert 0.60 < held < 0.76


def test_frames_that_came_together_count_as_one():
    """1,000 groups of 20 equal frames, 10 of them in the state: 10 counts, not 200."""
    weights, groups = np.full(20_000, 5e-5), np.repeat(np.arange(1000), 20)
    found = counted(weights, groups < 10, groups, effective=20_000.0)
    assert found.count == pytest.approx(10.0, rel=0.02)
    assert found.count * found.scale == pytest.approx(0.01)


def test_correlated_frames_count_less_everywhere():
    weights, groups = np.full(20_000, 5e-5), np.arange(20_000) // 200
    inside = np.random.default_rng(0).random(20_000) < 0.5
    assert counted(weights, inside, groups, effective=1000.0).count == pytest.approx(inside.sum() / 20)
