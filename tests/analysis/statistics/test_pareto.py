"""The Pareto shape of weights against closed forms and against scipy's maximum likelihood."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import genpareto

from molsampler.analysis.statistics.pareto import fit_generalised_pareto, k_threshold, pareto_k, pareto_khat, smoothed


@pytest.mark.parametrize("shape", [-0.4, 0.05, 0.5, 0.9, 1.5])
def test_the_fit_finds_known_shapes_and_agrees_with_maximum_likelihood(shape) -> None:
    draws = genpareto.rvs(shape, scale=3.0, size=4000, random_state=0)
    k, sigma = fit_generalised_pareto(draws)
    assert abs(k - shape) < 4.5 * (1 + shape) / np.sqrt(4000)  # asymptotic error of the shape, Smith (1987)
    assert sigma == pytest.approx(3.0, rel=0.15)
    likely, _, scale = genpareto.fit(draws, shape, floc=0.0, scale=3.0)
    assert k == pytest.approx(likely, abs=0.02) and sigma == pytest.approx(scale, rel=0.02)


@pytest.mark.parametrize("width", [0.95, 0.8, 0.6, 0.4])
def test_gaussians_that_are_too_narrow_have_their_closed_form(width) -> None:
    """Weights of N(0, 1) against draws of N(0, s^2): P(w > t) falls as t^(-1 / (1 - s^2)), so k = 1 - s^2.

    Logarithms in the tail bring k-hat below the limit at finite n, the prior draws it to 1/2: 0.15 is allowed for both.
    """
    x = width * np.random.default_rng(1).normal(size=100_000)
    assert pareto_khat(0.5 * x**2 * (1 / width**2 - 1)) == pytest.approx(1 - width**2, abs=0.15)


def test_scale_and_zero_weights_do_not_matter_but_for_their_number() -> None:
    log_w = genpareto.rvs(0.4, size=5000, random_state=2)
    log_w = np.log(1.0 + log_w)
    assert pareto_khat(log_w + 700.0) == pytest.approx(pareto_khat(log_w))
    padded = np.append(log_w, np.full(5000, -np.inf))
    assert 0.2 < pareto_khat(padded) < 0.6


def test_weights_without_a_tail() -> None:
    assert pareto_khat(np.zeros(1000)) == -np.inf
    assert np.isnan(pareto_khat(np.zeros(20)))
    assert np.isnan(pareto_khat(np.full(1000, -np.inf)))
    one = np.zeros(1000)
    one[0] = 5.0
    assert np.isnan(pareto_khat(one))


def test_the_bootstrap_error_is_the_spread_of_repetitions() -> None:
    rng = np.random.default_rng(3)
    found = np.array([pareto_k(np.log(rng.pareto(2.0, 2000)), rng, 30) for _ in range(60)])
    assert found[:, 0].mean() == pytest.approx(0.5, abs=0.1)
    assert found[:, 1].mean() / found[:, 0].std(ddof=1) == pytest.approx(1.0, abs=0.45)


def test_the_threshold_grows_with_the_sample() -> None:
    assert k_threshold(100) == pytest.approx(0.5) and k_threshold(10_000) == pytest.approx(0.7)
    assert k_threshold(1) == -np.inf


def test_smoothing_tames_the_largest_weight_and_keeps_the_rest():
    """Weights with a Pareto tail of shape 0.6: the body and the order are kept, nothing grows beyond the largest, and
    the scatter of the mean over 300 repeats is smaller than that of raw weights."""
    rng = np.random.default_rng(0)
    means = []
    for _ in range(300):
        log_w = np.log1p(rng.pareto(1 / 0.6, 1000))
        tame = smoothed(log_w)
        assert (np.diff(tame[np.argsort(log_w)]) >= 0).all() and tame.max() <= log_w.max()
        changed = np.flatnonzero(tame != log_w)
        assert len(changed) <= 95 and log_w[changed].min() > np.median(log_w)
        means.append((np.exp(log_w).mean(), np.exp(tame).mean()))
    raw, tame = np.std(means, axis=0)
    assert tame < 0.95 * raw


def test_equal_and_few_weights_are_left_alone():
    for log_w in (np.zeros(1000), np.arange(10.0), np.full(100, -np.inf)):
        assert np.array_equal(smoothed(log_w), log_w)
