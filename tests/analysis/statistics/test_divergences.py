"""Divergences and transport distances of distributions for which they are known."""

from __future__ import annotations

import numpy as np
import ot
import pytest
from scipy.stats import norm, wasserstein_distance

from molsampler.analysis.statistics import divergences as d


def test_kl_jsd_and_tv_by_hand() -> None:
    p, q = np.array([0.5, 0.5, 0.0]), np.array([0.25, 0.5, 0.25])
    assert d.kl(p, q) == pytest.approx(0.5 * np.log(2))
    assert d.kl(q, p) == np.inf
    m = (p + q) / 2
    assert d.jensen_shannon(p, q) == pytest.approx(
        0.5 * (0.5 * np.log(0.5 / m[0]) + 0.25 * np.log(0.25 / m[0]) + 0.25 * np.log(0.25 / m[2]))
    )
    assert d.total_variation(p, q) == pytest.approx(0.25)
    assert d.jensen_shannon(np.array([1.0, 0.0]), np.array([0.0, 1.0])) == pytest.approx(np.log(2))
    assert d.kl(p, p) == d.jensen_shannon(p, p) == d.total_variation(p, p) == 0.0


def test_half_a_frame_is_spread_evenly_and_keeps_the_sum() -> None:
    q = d.with_half_a_frame(np.array([0.75, 0.25, 0.0, 0.0]), 100.0)
    assert q == pytest.approx(np.array([75.125, 25.125, 0.125, 0.125]) / 100.5)


def test_map_transport_of_a_rolled_histogram_is_its_shift() -> None:
    p = np.zeros((36, 36))
    p[34:, 3:6] = 1 / 6
    assert d.map_w2(p, np.roll(p, (2, 0), (0, 1))) == pytest.approx(np.deg2rad(20.0))


def test_map_transport_is_that_between_the_centres_of_cells() -> None:
    rng = np.random.default_rng(7)
    p, q = rng.dirichlet(np.full(144, 0.1)).reshape(12, 12), rng.dirichlet(np.full(144, 0.1)).reshape(12, 12)
    centre = (np.arange(12) + 0.5) * np.pi / 6
    cells = np.stack(np.meshgrid(centre, centre, indexing="ij"), -1).reshape(-1, 2)
    gap = (cells[:, None] - cells[None] + np.pi) % (2 * np.pi) - np.pi
    assert d.map_w2(p, q) == pytest.approx(np.sqrt(ot.emd2(p.ravel(), q.ravel(), np.square(gap).sum(-1))))


def test_map_transport_splits_mass_as_it_must() -> None:
    p, q = np.zeros((36, 36)), np.zeros((36, 36))
    p[0, 0] = 1.0
    q[0, 0], q[35, 1] = 0.75, 0.25  # a quarter goes one cell across the border and one up
    assert d.map_w2(p, q) == pytest.approx(np.deg2rad(10.0) * np.sqrt(2 * 0.25))


def test_energies_of_two_gaussians_have_their_closed_form() -> None:
    levels = (np.arange(20_000) + 0.5) / 20_000
    a, b = norm.ppf(levels), 3.0 + 2.0 * norm.ppf(levels)
    assert d.line_wasserstein(a, None, b, None, 2) == pytest.approx(np.sqrt(9.0 + 1.0), rel=1e-3)
    assert d.line_wasserstein(a, None, a + 2.5, None, 1) == pytest.approx(2.5)


def test_weighted_energies_agree_with_scipy_and_zero_weight_infinities_are_ignored() -> None:
    rng = np.random.default_rng(2)
    a, b, w = rng.normal(size=50), rng.gamma(2.0, size=31), rng.random(50)
    truth = wasserstein_distance(a, b, u_weights=w)
    a, w = np.append(a, np.inf), np.append(w, 0.0)
    assert d.line_wasserstein(a, w / w.sum(), b, None, 1) == pytest.approx(truth, rel=1e-9)


def test_line_wasserstein_where_rounding_sums_the_weights_past_one():
    """The sum of all weights but a tiny last one, in floating point, is above one for some of these; W1 of two equal
    sets of values with almost equal weights stays near zero and nothing runs out of bounds."""
    values = np.arange(10_001.0)
    past_one = 0
    for seed in range(20):
        weights = np.append(np.random.default_rng(seed).random(10_000), 1e-20)
        weights /= weights.sum()
        past_one += np.cumsum(weights)[-2] > 1.0
        assert d.line_wasserstein(values, weights, values[:10_000], weights[:-1]) < 1e-6
        assert d.line_wasserstein(values[:10_000], None, values, weights) > 0.0
    assert past_one > 0
